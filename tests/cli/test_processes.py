"""The command line as a process: pipes, signals, terminals, encodings, what starting up loads."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polyllama
import pytest
from command_line import COMMANDS, Outcome, Terminal, python_path, spawn, write_plugin
from polyllama.cli.console import write_text
from support_processes import run_process, start_process


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, models or history of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("POLYLLAMA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("arguments", [["models", "--json"], ["version"]])
def test_a_closed_pipe_is_quiet(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    process = start_process([sys.executable, "-m", "polyllama", *arguments], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    os.close(reader)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (141, b"")


def test_interrupting_is_quiet(tmp_path: Path) -> None:
    write_plugin(
        tmp_path,
        """
        import click, sys
        @hookimpl
        def polyllama_commands():
            return [p.CommandDescriptor("wait", "my_plugin:wait", "Wait.")]
        @click.command()
        def wait():
            click.echo("ready")
            sys.stdin.read()
        """,
    )
    process = start_process(
        [sys.executable, "-m", "polyllama", "wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": python_path(tmp_path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


INTERRUPTED_AT = """
import atexit, os, signal, sys
at, ignored = sys.argv[1], sys.argv[2] == "ignored"
if ignored:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == at:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupter())
if at == "exit":
    atexit.register(os.kill, os.getpid(), signal.SIGINT)
from polyllama.__main__ import process
sys.argv[1:] = ["--version"]
sys.exit(process())
"""


@pytest.mark.parametrize("at", ["polyllama.cli", "click", "polyllama.core.errors", "importlib.metadata", "exit"])
def test_an_interrupt_while_it_starts_or_ends_is_quiet(at: str) -> None:
    """Ctrl-C while the command line is imported, runs, or the interpreter ends: one word, and no traceback."""
    done = run_process([sys.executable, "-c", INTERRUPTED_AT, at, "heard"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("at", ["click", "exit"])
def test_who_ignores_interrupts_is_left_alone(at: str) -> None:
    done = run_process(
        [sys.executable, "-c", INTERRUPTED_AT, at, "ignored"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("polyllama ")


def test_nothing_but_the_interpreters_own_is_imported_before_interrupts_are_heard() -> None:
    code = (
        "import sys; before = set(sys.modules); import polyllama.__main__; "
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('polyllama')))"
    )
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() in ("[]", "['_signal']", "['__future__']", "['__future__', '_signal']"), done.stdout


def test_a_character_the_output_cannot_hold_is_escaped(tmp_path: Path) -> None:
    write_plugin(
        tmp_path,
        """
        import click
        @hookimpl
        def polyllama_commands():
            return [p.CommandDescriptor("greet", "my_plugin:greet", "Greet.")]
        @click.command()
        def greet():
            click.echo("\\u65e5")
            raise p.PluginError("\\u65e5")
        """,
    )
    done = spawn("greet", PYTHONPATH=python_path(tmp_path), PYTHONIOENCODING="latin-1:strict")
    assert (done.returncode, done.stdout, done.stderr) == (1, "\\u65e5\n", "error: \\u65e5\n")


def test_a_terminal_gets_a_drawn_table_and_a_pipe_does_not() -> None:
    code, out = Terminal("backends").finish()
    assert code == 0 and "\x1b[1m" in out and "─" in out
    code, out = Terminal("backends", NO_COLOR="1").finish()
    assert code == 0 and not re.search(r"\x1b\[[0-9;]*3[0-9]", out)
    code, out = Terminal("backends", TERM="dumb").finish()
    assert code == 0 and "\x1b" not in out
    assert "\x1b" not in spawn("backends").stdout


def test_no_prompt_on_a_terminal_is_wrong_usage() -> None:
    code, out = Terminal("run", "tiny").finish()
    assert code == 2 and "error: There is no prompt: give PROMPT, or pipe text in." in out


def test_escape_sequences_from_a_model_do_not_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a\x1b]0;title\x07\tb\nc\x9b2J"
    for is_terminal, expected in ((True, "a\\x1b]0;title\\x07\tb\nc\\x9b2J"), (False, text)):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda answer=is_terminal: answer)
        monkeypatch.setattr(sys, "stdout", stream)
        write_text(text)
        monkeypatch.undo()
        assert stream.getvalue() == expected


def test_escape_sequences_from_files_do_not_reach_it_in_messages(call: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(Path(polyllama.__file__).parent / "models" / "tiny", folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value in (("auto_map", {"AutoModel": "a\x1b]0;title\x07\nb"}), ("model_type", "\x9b2Jx")):
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        _, _, err = call("run", str(folder), "Once", "--max-new-tokens", "1", "--backend", "reference")
        assert not [letter for letter in err if not letter.isprintable() and letter != "\n"], err
        assert ("\\x1b]0;title\\x07\\x0ab" if key == "auto_map" else "\\x9b2Jx") in err


def test_starting_up_loads_only_what_it_needs(checkpoint: Path) -> None:
    code = (
        "import sys; from polyllama.cli.main import main\n"
        f"code = main(['run', {str(checkpoint)!r}, 'once', '--max-new-tokens', '2', '--backend', 'reference'])\n"
        "bad = ('torch', 'transformers', 'rich', 'huggingface_hub', 'tokenizers', 'pydantic_settings')\n"
        "bad += ('prompt_toolkit',)\n"
        "print(code, [m for m in bad if m in sys.modules])"
    )
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("models >&-", 0, ""),
        ("models 2>&-", 0, ""),
        ("version <&- >&- 2>&-", 0, ""),
        ("run tiny <&-", 1, "error: standard input is closed; give the text as an argument, or pipe it in\n"),
        ("tokenize tiny <&-", 1, "error: standard input is closed; give the text as an argument, or pipe it in\n"),
        ("chat tiny <&-", 1, "error: standard input is closed; give the text as an argument, or pipe it in\n"),
        ("version >/dev/full", 1, "error: No space left on device\n"),
    ],
)
def test_standard_streams_that_are_closed_or_full(command: str, code: int, said: str) -> None:
    done = run_process(
        ["sh", "-c", f'exec "$0" -m polyllama {command}', sys.executable], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.replace("standard output: ", "")) == (code, said)


def test_broken_settings_cost_only_what_needs_settings(call: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "polyllama.yaml").write_text("bakend: torch\n")
    mistake = "there is no setting 'bakend'; did you mean backend?"
    assert call("version")[0] == 0 and call("version")[2] == ""
    for arguments in ((), ("--help",)):
        code, out, err = call(*arguments)
        assert code == 0 and all(f"  {name} " in out for name in COMMANDS)
        assert err.startswith("warning: only built-in commands are listed") and mistake in err and err.count("\n") == 1
    for arguments in (("models",), ("run", "tiny", "x"), ("config",), ("plugins",), ("somebodys-command",)):
        code, out, err = call(*arguments)
        assert (code, out) == (1, "") and err.startswith("error: ") and err.endswith(f"{mistake}\n"), err


@pytest.mark.parametrize(
    "arguments",
    [
        ("tokenize", "tiny"),
        ("run", "tiny"),
        ("run", "tiny", "Once", "--stop"),
        ("chat", "tiny", "--system"),
        ("chat", "tiny", "--template-variable"),
    ],
)
def test_a_byte_that_the_locale_cannot_read_names_the_locale(arguments: tuple[str, ...]) -> None:
    word = os.fsdecode("na\u00efve".encode())
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = spawn(*arguments, word, **ascii_only)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr == (
        "error: the text holds the byte 0xc3 at character 2, which is no letter in this locale "
        "(LC_ALL=C, read as ascii); set LC_ALL=C.UTF-8, or PYTHONUTF8=1\n"
    )
    done = spawn(*arguments, os.fsdecode(b"\xff"), LC_ALL="C.UTF-8")
    assert done.returncode == 1 and "byte 0xff at character 0" in done.stderr and "(LC_ALL=C.UTF-8, " in done.stderr
    assert "give it in UTF-8, or in a file that iconv has converted" in done.stderr


def test_under_the_c_locale_texts_are_utf8() -> None:
    done = spawn("tokenize", "tiny", "na\u00efve", "--json", LC_ALL="C")
    assert done.returncode == 0 and "na\u00efve" in done.stdout


def test_a_folder_whose_name_is_no_text_is_opened_all_the_same(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    shutil.copytree(Path(polyllama.__file__).parent / "models" / "tiny", folder)
    done = spawn("tokenize", folder, "Once", "--json")
    assert (done.returncode, done.stderr) == (0, "")
