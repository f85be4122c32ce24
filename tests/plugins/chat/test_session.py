"""What is typed into a chat: messages and commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_models import Talk
from polyllama import Llama
from polyllama.core.errors import GenerationError, InputError, PolyllamaError, TokenizerError
from polyllama.plugins.chat.session import COMMANDS, Session
from polyllama.plugins.commands.run import speed


class Typed:
    """A session that says what each line brought."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.conversation = talk.conversation
        self.session = Session(talk.conversation, "tiny", speed)

    def __call__(self, line: str) -> str:
        self.talk.said.clear()
        self.session.take(line)
        return "\n".join(self.talk.said)


@pytest.fixture
def typed(talk: Callable[..., Talk]) -> Typed:
    return Typed(talk())


def contents(typed: Typed) -> list[Any]:
    return [message["content"] for message in typed.conversation.messages]


def test_messages_and_blank_lines(typed: Typed) -> None:
    for line in ("  Once \n", "\n", "   ", "//help me\n", "//"):
        assert typed(line) == ""
    assert contents(typed)[::2] == ["Once", "/help me", "/"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/rest", "no command '/rest'; did you mean /reset\\? a message that begins with / is typed with //"),
        ("/etc/passwd is what?", "no command '/etc/passwd'; /help lists the commands; a message that begins"),
        ("/", "no command '/'"),
        ("/exit now", "/exit takes nothing after it, got 'now'"),
        ("/save", "/save needs FILE; /save FILE: write the conversation"),
        ("/load  ", "/load needs FILE"),
        ("/stats maybe", "/stats takes on or off, got 'maybe'"),
        ("/retry", "no message to answer again"),
        ("/continue", "no answer to go on with"),
    ],
)
def test_what_is_no_command(typed: Typed, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        typed(line)
    assert contents(typed) == [] and not typed.session.ended


def test_every_command_is_listed(typed: Typed) -> None:
    lines = typed("/help").splitlines()
    assert [line.split()[0] for line in lines] == [*COMMANDS, "//..."]
    assert len({line.index("  ") for line in lines}) > 1  # aligned after names of unequal length
    for name in ("/exit", "/quit"):
        typed.session.ended = False
        assert typed(name) == "" and typed.session.ended


def test_starting_over_and_the_system_message(typed: Typed) -> None:
    assert typed("/system") == "There is no system message."
    assert "another" in typed("/system Be brief") and typed("/system") == "Be brief"
    typed("Once")
    assert "another" in typed("/system Be long")
    assert contents(typed)[:2] == ["Be long", "Once"] and len(contents(typed)) == 3
    assert typed("/reset") == "The conversation starts over." and contents(typed) == ["Be long"]
    assert typed("/system -") == "The system message is gone." and contents(typed) == []


def test_again_and_on(typed: Typed) -> None:
    typed("Once")
    before = contents(typed)
    assert "will be the same" in typed("/retry") and contents(typed) == before
    typed("/continue")
    assert contents(typed)[1].startswith(before[1]) and len(contents(typed)[1]) > len(before[1])


def test_settings(typed: Typed) -> None:
    assert typed("/set") == "max_new_tokens = 6"
    assert typed("/set temperature 0.7") == "temperature = 0.7"
    assert typed("/set --top-k=3") == "top_k = 3"
    assert typed('/set stop = "a = b"') == 'stop = "a = b"'
    assert typed("/set mood Happily, then") == 'mood = "Happily, then"'
    assert typed("/set mood") == 'mood = "Happily, then"' and typed("/set seed") == "seed is not set."
    assert typed.conversation.generation == {"max_new_tokens": 6, "temperature": 0.7, "top_k": 3, "stop": "a = b"}
    assert typed.conversation.prompt == {"template_variables": {"mood": "Happily, then"}}
    assert typed("/set stop none") == "stop is not set." and typed("/set mood null") == "mood is not set."
    assert "stop" not in typed.conversation.generation and typed.conversation.prompt == {}
    typed("/set max-new-tokens 2")
    typed("Once")
    assert typed.conversation.stats is not None and typed.conversation.stats.new_tokens == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set temprature 0.7", "no option 'temprature'.*did you mean 'temperature'"),
        ("/set temprature", "did you mean 'temperature'"),
        ("/set moood 1", "no option 'moood'.*did you mean 'mood'"),
        ("/set temperature hot", "temperature is 'hot'; wanted a finite number"),
        ("/set min_new_tokens 7", "min_new_tokens=7 is more than max_new_tokens=6"),
        ("/set num_return_sequences 2", "cannot be set here; a chat gives one answer"),
        ("/set logprobs 2", "cannot be set here"),
        ("/set tools []", "tools cannot be set here; give it when the chat is started"),
        ("/set = 3", "no option ''"),
    ],
)
def test_settings_that_are_refused_change_nothing(typed: Typed, line: str, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        typed(line)
    assert typed.conversation.generation == {"max_new_tokens": 6} and typed.conversation.prompt == {}


def test_a_conversation_in_a_file(typed: Typed, tmp_path: Path, talk: Callable[..., Talk], talker: Llama) -> None:
    file = tmp_path / "my chat.json"
    typed("/system Sei höflich")
    typed("Once")
    assert typed(f"/save {file}") == f"3 messages saved to {file}."
    assert json.loads(file.read_text(encoding="utf-8")) == {"model": "tiny", "messages": typed.conversation.messages}
    typed("And then?")
    assert typed(f"/save {file}") == f"5 messages saved to {file}."  # its own file
    other = Typed(talk())
    with pytest.raises(InputError, match=r"my chat\.json exists already; take another name"):
        other(f"/save {file}")
    assert other(f"/load {file}") == "5 messages loaded."
    assert other.conversation.messages == typed.conversation.messages
    other("And now?")
    assert contents(other)[-1] == talker.chat(other.conversation.messages[:-1], max_new_tokens=6).text.strip()
    assert other(f"/save {file}") == f"7 messages saved to {file}."


def test_other_files_of_conversations(typed: Typed, tmp_path: Path) -> None:
    file = tmp_path / "messages.json"
    file.write_text(json.dumps([{"role": "user", "content": "Once"}]), encoding="utf-8")
    assert typed(f"/load {file}") == "1 message loaded; /retry answers the last."
    typed("/retry")
    assert len(contents(typed)) == 2
    empty = tmp_path / "empty.json"
    empty.touch()
    typed("/reset")
    assert typed(f"/save {empty}") == f"0 messages saved to {empty}."
    assert typed(f"/load {empty}") == "0 messages loaded."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "no JSON"),
        ("5", "must be a list of messages, got 5"),
        ('{"message": []}', "must be a list of messages, got None"),
        ('[{"content": "Hi"}]', "message 0 must be a mapping with a string 'role'"),
        (b"\xff", "is not UTF-8 text"),
        ("[" * 100_000, "no JSON"),
        ("[" * 300 + "]" * 300, "nested more than 200 deep"),
        ('[{"role": "user", "content": "a", "content": "b"}]', "the key 'content' is there twice"),
    ],
)
def test_files_that_hold_no_conversation(typed: Typed, tmp_path: Path, content: Any, message: str) -> None:
    typed("Once")
    before = list(typed.conversation.messages)
    file = tmp_path / "other.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PolyllamaError, match=message):
        typed(f"/load {file}")
    assert typed.conversation.messages == before
    with pytest.raises(InputError, match="No such file"):
        typed(f"/save {tmp_path}/none/x.json")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/save ~nosuchuser/x", "~nosuchuser/x: there is no such user's folder; ./~nosuchuser/x is a file"),
        ("/load ~nosuchuser/x", "~nosuchuser/x: there is no such user's folder"),
        ("/save a\0b", "has no null character"),
        ("/load a\0b", "has no null character"),
        ("/save " + "a" * 300, "File name too long"),
        ("/load " + "a" * 300, "File name too long"),
        ("/set stop " + "[" * 100_000, "stop: lists and objects are nested more than 200 deep"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_names_and_values_that_are_none(typed: Typed, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        typed(line)


def test_half_a_character_in_a_file_comes_back(typed: Typed, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a\ud83dz\udcff"}]
    (tmp_path / "half.json").write_text(json.dumps(messages))
    typed(f"/load {tmp_path / 'half.json'}")
    typed(f"/save {tmp_path / 'again.json'}")
    assert json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))["messages"] == messages


def test_half_a_character_in_the_history_comes_back(tmp_path: Path) -> None:
    from polyllama.plugins.chat.terminal import MessageHistory

    history = MessageHistory(tmp_path / "history")
    history.store_string("a\udcff")
    history.store_string("ä\nb")
    assert list(history.load_history_strings()) == ["ä\nb", "a\udcff"]


def test_statistics(typed: Typed) -> None:
    assert typed("/stats") == "There is no answer yet."
    assert typed("Once") == ""
    first, second = typed("/stats").splitlines()
    assert "prefill " in first and "(reference on cpu, float32)" in first
    assert second == f"context: {typed.conversation.tokens} of 96 tokens"
    assert typed("/stats on") == "Statistics after each answer are on."
    assert typed("And then?").count("prefill ") == 1
    assert typed("/stats off") == "Statistics after each answer are off." and typed("More") == ""
    for _ in range(4):
        typed("And then there was a bird?")
    left_out = typed.conversation.left_out
    assert left_out and typed("/stats").endswith(f"of 96 tokens; {left_out} messages left out")


def test_a_template_that_refuses_takes_the_message_back(typed: Typed) -> None:
    typed("Once")
    before = list(typed.conversation.messages)
    typed.conversation.prompt["chat_template"] = "{{ raise_exception('no more') }}"
    with pytest.raises(TokenizerError, match="refuses this conversation: no more"):
        typed("Twice")
    assert typed.conversation.messages == before and typed.conversation.unanswered == "Twice"
    del typed.conversation.prompt["chat_template"]
    typed("/retry")
    assert contents(typed)[2] == "Twice"
