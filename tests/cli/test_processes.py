"""The command line as a process: pipes, signals, terminals, encodings, what starting up loads."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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


def test_starting_up_loads_only_what_it_needs(checkpoint: Path) -> None:
    code = (
        "import sys; from polyllama.cli.main import main\n"
        f"code = main(['run', {str(checkpoint)!r}, 'once', '--max-new-tokens', '2', '--backend', 'reference'])\n"
        "bad = ('torch', 'transformers', 'rich', 'huggingface_hub', 'tokenizers', 'pydantic_settings')\n"
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
