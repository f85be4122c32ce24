"""``polyllama chat``: on a terminal, from a pipe, interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import REFERENCE, Outcome, Terminal, spawn
from polyllama.core.api.llama import Llama
from polyllama.plugins.chat.session import COMMANDS
from support_processes import start_process

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
READY = "\x1b[?2004h"  # the editor asks the terminal to mark what is pasted: it waits for a message


@pytest.fixture(scope="session")
def chat_checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a chat template."""
    folder = tmp_path_factory.mktemp("chat")
    for file in checkpoint.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, models or history of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("POLYLLAMA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def test_chat_needs_a_template(call: Callable[..., Outcome], checkpoint: Path) -> None:
    code, out, err = call("chat", str(checkpoint), *REFERENCE)
    assert (code, out) == (1, "")
    assert "has no chat template, so it is not a chat model" in err and err.count("\n") == 1
    assert "give --chat-template FILE" in err


def test_chat_from_a_pipe_answers_line_by_line(chat_checkpoint: Path, tmp_path: Path) -> None:
    options = ("--max-new-tokens", "5", "--system", "be brief", "--stats", *REFERENCE)
    lines = "once upon\n\n//the sea\n/save told.json\n/exit\nnever read\n"
    done = spawn("chat", str(chat_checkpoint), *options, stdin=lines)
    assert done.returncode == 0, done.stderr
    llm = Llama.load(chat_checkpoint, backend="reference")
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "once upon"}]
    first = llm.chat(messages, max_new_tokens=5)
    messages += [{"role": "assistant", "content": first.text.strip()}, {"role": "user", "content": "/the sea"}]
    second = llm.chat(messages, max_new_tokens=5)
    assert done.stdout == f"{first.text}\n{second.text}\n"
    assert done.stderr.count("prefill ") == 2 and "5 messages saved to told.json." in done.stderr
    saved = json.loads((tmp_path / "told.json").read_text())["messages"]
    assert saved == [*messages, {"role": "assistant", "content": second.text.strip()}]


def test_statistics_are_on_request(call: Callable[..., Outcome], chat_checkpoint: Path) -> None:
    arguments = ("chat", str(chat_checkpoint), "--max-new-tokens", "3", *REFERENCE)
    assert call(*arguments, stdin=b"once upon\n")[2] == ""
    assert call(*arguments, stdin=b"once upon\n/stats\n")[2].count("prefill ") == 1


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ("/frob", (), "error: there is no command '/frob'; /help lists the commands; a message that begins with /"),
        ("/set temprature 1", (), "error: generation has no option 'temprature'"),
        ("a " * 300, (), "tokens with the template, the model's context is 256; shorten it"),
        (
            "the sea\n" * 40,
            ("--overflow", "error"),
            "the model's context .*256.*; --overflow drop-oldest leaves out the oldest turns",
        ),
        ("", ("--overflow", "maybe"), "--overflow"),
        ("", ("--template", "none.jinja"), "--chat-template none.jinja: there is no such file"),
        ("", ("--tools", "none.json"), "No such file or directory: 'none.json'"),
        ("", ("--tools", "tools.json"), "--tools: tools.json holds no list; put a single one in a list"),
        ("", ("--documents", "text.txt"), "--documents text.txt: no JSON"),
        ("", ("--template-variable", "x"), "--template-variable 'x' is not NAME=VALUE"),
        ("", ("--template-variable", "add_generation_promt=true"), "did you mean 'add_generation_prompt'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_ends_a_chat_from_a_pipe(
    call: Callable[..., Outcome], chat_checkpoint: Path, lines: str, options: tuple[str, ...], message: str
) -> None:
    Path("tools.json").write_text("{}")
    Path("text.txt").write_text("text")
    arguments = ("chat", str(chat_checkpoint), "--max-new-tokens", "3", *REFERENCE, *options)
    code, _, err = call(*arguments, stdin=lines.encode())
    assert code in (1, 2) and re.search(message, err), err
    assert err.splitlines()[-1].startswith("error: ") and "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tools", "deep.json"), "--tools deep.json: no JSON"),
        (("--documents", "deep.json"), "--documents deep.json: no JSON"),
        (("--tools", "latin.jinja"), "--tools latin.jinja is not UTF-8 text"),
        (("--chat-template", "latin.jinja"), "latin.jinja is not UTF-8 text (byte 2 is 0xef)"),
        (("--chat-template", "x" * 5000), "there is no such file"),
        (("--chat-template", "{{ raise_exception('read') }}" + "x" * 5000), "refuses this conversation: read"),
        (("--template-variable", "a=" + "[" * 100_000), "--template-variable a: lists and objects are nested"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_files_and_values_that_cannot_be_read(
    call: Callable[..., Outcome], chat_checkpoint: Path, options: tuple[str, ...], message: str
) -> None:
    Path("deep.json").write_text("[" * 100_000)
    Path("latin.jinja").write_bytes(b"na\xefve {{ messages }}")
    code, out, err = call("chat", str(chat_checkpoint), *REFERENCE, *options, stdin=b"once\n")
    assert (code, out) == (1, "") and message in err and err.splitlines()[-1].startswith("error: ")


def test_messages_from_a_pipe_are_utf8(call: Callable[..., Outcome], chat_checkpoint: Path) -> None:
    arguments = ("chat", str(chat_checkpoint), "--max-new-tokens", "2", *REFERENCE)
    code, _, err = call(*arguments, stdin=b"once\nna\xefve\n")
    assert code == 1 and "error: standard input, line 2 is not UTF-8 text (byte 2 is 0xef)" in err
    done = spawn(*arguments, stdin="na\u00efve\n", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_oldest_turns_are_left_out(call: Callable[..., Outcome], chat_checkpoint: Path) -> None:
    lines = b"the sea sang to the moon\n" * 12 + b"/stats\n"
    code, out, err = call("chat", str(chat_checkpoint), "--max-new-tokens", "3", *REFERENCE, stdin=lines)
    assert code == 0 and len(out.splitlines()) >= 12
    assert err.count("no longer fits the model's context of 256 tokens") == 1 and "messages left out" in err
    assert "warning" not in err


def test_what_a_template_is_given(call: Callable[..., Outcome], chat_checkpoint: Path, tmp_path: Path) -> None:
    Path("t.jinja").write_text("{{ raise_exception(mood ~ tools[0].name ~ documents[0].text ~ count) }}")
    Path("tools.json").write_text('[{"name": "f"}]')
    Path("documents.json").write_text('[{"text": "d"}]')
    given = ("--tools", "tools.json", "--documents", "documents.json", "--template", "t.jinja")
    given += ("--template-variable", "mood=glad", "--template-variable", "count=3")
    code, _, err = call("chat", str(chat_checkpoint), *REFERENCE, *given, stdin=b"once\n")
    assert (code, err) == (1, "error: chat_template: the chat template refuses this conversation: gladfd3\n")
    given = ("--tools", "tools.json", "--template-variable", "enable_thinking=false", "--max-new-tokens", "2")
    code, _, err = call("chat", str(chat_checkpoint), *REFERENCE, *given, stdin=b"once\nupon\n")
    assert code == 0 and err.count("warning: ") == 2  # each once
    assert "does not read 'enable_thinking', so it has no effect" in err and "will not see the tools" in err


def test_one_of_several_templates(call: Callable[..., Outcome], chat_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "several"
    folder.mkdir()
    for file in chat_checkpoint.iterdir():
        if file.name not in ("chat_template.jinja", "tokenizer_config.json"):
            (folder / file.name).symlink_to(file)
    config = json.loads((chat_checkpoint / "tokenizer_config.json").read_text())
    config["chat_template"] = [
        {"name": name, "template": f"{name}{{{{ raise_exception('{name}') }}}}"} for name in "ab"
    ]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, message in (("a", "refuses this conversation: a"), ("c", "the model's own templates are a, b")):
        code, _, err = call("chat", str(folder), *REFERENCE, "--chat-template", name, stdin=b"once\n")
        assert code == 1 and message in err


def test_chat_on_a_terminal(chat_checkpoint: Path, tmp_path: Path) -> None:
    terminal = Terminal("chat", str(chat_checkpoint), "--max-new-tokens", "5", "--stats", *REFERENCE)
    assert "Enter sends, Alt-Enter begins a new line" in terminal.read_until(READY)
    terminal.type("once\x1b\rupon\r")
    first = terminal.read_until(READY)
    assert "tokens/s" in first
    terminal.type("once upon\n")
    second = terminal.read_until(READY)
    assert prefilled(second) > prefilled(first)  # the conversation is remembered
    assert " known at" in second and " known at" not in first  # and not run again
    terminal.type("/reset\n")
    assert "starts over" in terminal.read_until(READY)
    terminal.type("/frob\n")
    assert "there is no command '/frob'" in terminal.read_until(READY)
    terminal.type("/ret\t\n")
    assert "there is no message to answer again" in terminal.read_until(READY)  # Tab made /retry of it
    terminal.type("once\x1b\rupon\r")
    assert prefilled(terminal.read_until(READY)) == prefilled(first)
    terminal.type("/save told.json\r")
    assert "2 messages saved" in terminal.read_until(READY)
    terminal.type("/exit\n")
    assert terminal.finish()[0] == 0
    assert json.loads((tmp_path / "told.json").read_text())["messages"][0]["content"] == "once\nupon"
    history = tmp_path / "state" / "polyllama" / "chat_history"
    assert '"once\\nupon"' in history.read_text() and stat.S_IMODE(history.stat().st_mode) == 0o600


def prefilled(text: str) -> int:
    """The prompt's tokens, those included that were run for an earlier message."""
    match = re.search(r"prefill (\d+) tokens?(?:, (\d+) known)? at", text)
    assert match, text
    return int(match[1]) + int(match[2] or 0)


def test_messages_of_earlier_chats_come_back(chat_checkpoint: Path, tmp_path: Path) -> None:
    history = tmp_path / "state" / "polyllama" / "chat_history"
    history.parent.mkdir(parents=True)
    history.write_text('/save plain.json\n"/save two\\nlines.json"\n"/help"\n')
    terminal = Terminal("chat", str(chat_checkpoint), *REFERENCE)
    terminal.read_until(READY)
    terminal.type("\x1b[A\x1b[A\x1b[A\x1b[A")  # up, through both lines of the second
    terminal.read_until("plain.json")
    terminal.type("\r")
    assert "0 messages saved to plain.json" in terminal.read_until(READY)
    terminal.type("\x04")
    assert terminal.finish()[0] == 0


def test_control_c_at_the_prompt_clears_the_line_and_twice_leaves(chat_checkpoint: Path) -> None:
    terminal = Terminal("chat", str(chat_checkpoint), "--max-new-tokens", "3", *REFERENCE)
    terminal.read_until(READY)
    for _ in range(2):  # what is typed in between begins anew
        terminal.type("never sent\x03")
        assert "(Ctrl-C again leaves)" in terminal.read_until(READY)
        terminal.type("once\r")
        terminal.read_until(READY)
    terminal.type("/stats\r")
    assert prefilled(terminal.read_until(READY)) > 0
    terminal.type("\x03")
    assert "(Ctrl-C again leaves)" in terminal.read_until(READY)
    terminal.type("x\x03")
    assert "(Ctrl-C again leaves)" in terminal.read_until(READY)
    terminal.type("\x03")
    code, rest = terminal.finish()
    assert code == 130 and "Traceback" not in rest and rest.endswith("interrupted\r\n")


def test_a_terminal_that_shows_lines_alone(chat_checkpoint: Path) -> None:
    terminal = Terminal("chat", str(chat_checkpoint), "--max-new-tokens", "3", *REFERENCE, TERM="dumb")
    terminal.read_until("\n> ")
    terminal.type("once\n")
    terminal.read_until("\n> ")
    terminal.type("/stats\n")
    assert prefilled(terminal.read_until("\n> ")) > 0
    terminal.type("\x04")
    assert terminal.finish()[0] == 0 and "\x1b" not in terminal.seen


def test_answers_into_a_file_while_one_types(chat_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "answers"
    with open(file, "w") as stdout:
        terminal = Terminal("chat", str(chat_checkpoint), "--max-new-tokens", "3", *REFERENCE, stdout=stdout)
        for line in ("once\r", "/stats\r"):
            terminal.read_until(READY)
            terminal.type(line)
        terminal.read_until("prefill ")
        terminal.read_until(READY)
        terminal.type("/exit\r")
        assert terminal.finish()[0] == 0
    [answer] = file.read_text().splitlines()
    assert answer and "\x1b" not in answer and answer not in terminal.seen


def test_control_d_leaves(chat_checkpoint: Path) -> None:
    terminal = Terminal("chat", str(chat_checkpoint), *REFERENCE)
    terminal.read_until(READY)
    terminal.type("\x04")
    code, rest = terminal.finish()
    assert code == 0 and "Traceback" not in rest


def test_stopping_an_answer_keeps_what_was_said(chat_checkpoint: Path, tmp_path: Path) -> None:
    slow = ("--max-new-tokens", "100000", "--min-new-tokens", "100000", "--set", "max_position_embeddings=200000")
    terminal = Terminal("chat", str(chat_checkpoint), *slow, *REFERENCE)
    terminal.read_until(READY)
    terminal.type("once upon\r")
    terminal.read_until("\x1b[?2004l")
    for _ in range(5):  # words of the answer
        terminal.read_until(" ")
    terminal.type("\x03")
    assert "(stopped; /continue goes on)" in terminal.read_until(READY)
    terminal.type("/set max_new_tokens 2\r")
    assert "--min-new-tokens 100000 is more than --max-new-tokens 2" in terminal.read_until(READY)
    terminal.type("/set min_new_tokens 2\r")
    terminal.read_until(READY)
    terminal.type("/save told.json\r")
    terminal.read_until(READY)
    asked, answer = json.loads((tmp_path / "told.json").read_text())["messages"]
    assert asked["content"] == "once upon" and answer["content"]
    terminal.type("/set max_new_tokens 2\r")
    terminal.read_until(READY)
    terminal.type("/continue\r")
    terminal.read_until(READY)
    terminal.type("/save more.json\r")
    terminal.read_until(READY)
    assert json.loads((tmp_path / "more.json").read_text())["messages"][1]["content"].startswith(answer["content"])
    terminal.type("/exit\r")
    code, out = terminal.finish()
    assert code == 0 and "Traceback" not in out


def test_an_interrupt_ends_a_chat_from_a_pipe(chat_checkpoint: Path) -> None:
    slow = ("--max-new-tokens", "100000", "--min-new-tokens", "100000", "--set", "max_position_embeddings=200000")
    process = start_process(
        [sys.executable, "-m", "polyllama", "chat", str(chat_checkpoint), *slow, *REFERENCE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("once upon\nthe sea\n")
    process.stdin.flush()
    said = process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "(stopped; /continue goes on)\ninterrupted\n")
    assert len(said) == 5 and out.endswith("\n")


def test_the_help_names_every_command(call: Callable[..., Outcome], chat_checkpoint: Path) -> None:
    err = call("chat", str(chat_checkpoint), *REFERENCE, stdin=b"/help\n")[2]
    assert all(f"\n{name}" in f"\n{err}" for name in COMMANDS)
