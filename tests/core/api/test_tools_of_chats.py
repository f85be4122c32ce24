"""Chats with tools: calls of the answer, answers that must call, the next turn, streams; and chats without any."""

from __future__ import annotations

import json
from typing import Any

import pytest
from polyllama import Llama, PolyllamaWarning, ToolCall
from polyllama.extend import GenerationError, InputError, PluginError

HERMES = (
    "{% if tools %}Tools: {{ tools | tojson }}, called as <tool_call>...</tool_call>\n{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls or () %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}\n{% endfor %}"
    "<assistant>"
)
LLAMA = "{{ tools | tojson }} <|python_tag|> {% for m in messages %}{{ m.content }}{% endfor %}"
ASKED = [{"role": "user", "content": "How warm is it?"}]
WRITTEN = 'I look. <tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'


def weather(city: str, unit: str = "c") -> str:
    """Say the weather.

    Args:
        city: Where.
        unit: Of the temperature. (choices: ["c", "f"])
    """
    return f"18 {unit} in {city}"


def now() -> str:
    """Say the time."""
    return "noon"


@pytest.fixture(scope="module")
def llm() -> Llama:
    loaded = Llama.load("tiny", backend="cpu", dtype="float32")
    loaded.tokenizer.chat_template = HERMES
    return loaded


def test_calls_are_apart_from_the_text(llm: Llama) -> None:
    plain = llm.chat(ASKED, choices=[WRITTEN], max_new_tokens=200)
    assert (plain.text, plain.tool_calls, plain.tool_call_errors) == (WRITTEN, None, ())
    found = llm.chat(ASKED, tools=[weather, now], choices=[WRITTEN], max_new_tokens=200)
    assert (found.text, found.tool_calls) == ("I look. ", [ToolCall("weather", {"city": "Oslo"})])
    assert found.token_ids == llm.chat(ASKED, tools=[weather, now], choices=[WRITTEN], max_new_tokens=200).token_ids
    broken = llm.chat(ASKED, tools=[weather], choices=["<tool_call>{no}</tool_call>"], max_new_tokens=200)
    assert (broken.text, broken.tool_calls) == ("<tool_call>{no}</tool_call>", [])
    assert len(broken.tool_call_errors) == 1


def test_the_template_or_a_name_says_the_format(llm: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polyllama.core.tool_calls.choosing._said", set())
    bare = '{"name": "now", "parameters": {}}'
    options: dict[str, Any] = {"tools": [now], "choices": [bare], "max_new_tokens": 100}
    assert llm.chat(ASKED, chat_template=LLAMA, **options).tool_calls == [ToolCall("now", {})]
    assert llm.chat(ASKED, tool_parser="llama", **options).tool_calls == [ToolCall("now", {})]
    assert llm.chat(ASKED, **options).text == bare
    with pytest.raises(PluginError, match="no tool parser 'hermess'; did you mean 'hermes'"):
        llm.chat(ASKED, tools=[now], tool_parser="hermess")
    with pytest.warns(PolyllamaWarning, match="how the chat template writes calls of tools is unknown"):
        unknown = llm.chat(ASKED, chat_template="{{ tools | tojson }}{{ messages[0].content }}", **options)
    assert (unknown.text, unknown.tool_calls) == (bare, [])


@pytest.mark.parametrize("form", ["hermes", "llama"])
def test_an_answer_that_must_call_does(llm: Llama, form: str) -> None:
    options: dict[str, Any] = {"tool_parser": form, "temperature": 1.0, "max_new_tokens": 400, "seed": 3}
    small = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["n"]}
    tools = [{"type": "function", "function": {"name": name, "parameters": small}} for name in ("f", "g")]
    found = llm.chat(ASKED, tools=tools, tool_choice="required", num_return_sequences=8, **options)
    for one in found:
        assert one.finish_reason == "stop" and one.text == "" and one.tool_calls and one.parse_error is None
        assert all(made.name in "fg" and 0 <= made.arguments["n"] <= 9 for made in one.tool_calls)
    for choice in ("g", {"type": "function", "function": {"name": "g"}}):
        named = llm.chat(ASKED, tools=tools, tool_choice=choice, **options)
        assert [made.name for made in named.tool_calls] == ["g"]
    single = llm.chat(ASKED, tools=tools, tool_choice="required", parallel_tool_calls=False, **options)
    assert len(single.tool_calls) == 1


def test_a_call_that_is_cut_is_named_as_what_was_asked_for(llm: Llama) -> None:
    cut = llm.chat(ASKED, tools=[weather], tool_choice="required", tool_parser="hermes", max_new_tokens=2)
    said = "a limit on its length or time ended the text before the call that tool_choice asks for was complete"
    assert cut.finish_reason == "length" and cut.parse_error == said
    own = llm.chat(ASKED, grammar='start: "a long answer"', max_new_tokens=1)
    assert own.parse_error == "a limit on its length or time ended the text before grammar was complete"


def test_none_of_the_tools(llm: Llama) -> None:
    silent = llm.chat_request(ASKED, tools=[now], tool_choice="none", max_new_tokens=4)
    assert silent.calling is None and silent.prompt == llm.chat_prompt(ASKED)
    assert "now" in llm.tokenizer.decode(llm.chat_request(ASKED, tools=[now], tool_choice="auto").prompt)


def test_choices_that_there_are_none_of(llm: Llama) -> None:
    with pytest.raises(InputError, match=r"tool_choice='wether' is neither.*did you mean 'weather'"):
        llm.chat(ASKED, tools=[weather], tool_choice="wether")
    with pytest.raises(InputError, match="tool_choice='required' without tools"):
        llm.chat(ASKED, tool_choice="required")
    with pytest.raises(InputError, match="parallel_tool_calls=False without tools"):
        llm.chat(ASKED, parallel_tool_calls=False)
    assert llm.chat_request(ASKED, parallel_tool_calls=True, tool_choice="none").calling is None  # as it is anyway
    with pytest.raises(GenerationError, match="tool_choice holds the answer to calls, and json_schema to"):
        llm.chat(ASKED, tools=[weather], tool_choice="required", json_schema={"type": "integer"})
    bad = {
        "name": "f",
        "parameters": {"properties": {"n": {"type": "integer", "nullable": True}, "a": {"type": "strin"}}},
    }
    with pytest.raises(GenerationError, match=r"tools\[1\], 'f': json_schema at /properties/a: Invalid type: strin"):
        llm.chat_request(ASKED, tools=[weather, bad], tool_choice="required")


def test_a_stream_gives_calls_as_they_come(llm: Llama) -> None:
    options: dict[str, Any] = {"tools": [weather], "choices": [WRITTEN], "max_new_tokens": 200}
    whole = llm.chat(ASKED, **options)
    stream = llm.chat_stream(ASKED, **options)
    pieces = list(stream.pieces())  # type: ignore[attr-defined]
    assert "".join(piece.text for piece in pieces if piece.kind == "text") == whole.text
    assert json.loads("".join(piece.text for piece in pieces if piece.kind == "arguments")) == {"city": "Oslo"}
    assert sum(piece.kind == "arguments" for piece in pieces) > 2
    assert stream.result == whole and stream.result.tool_calls == whole.tool_calls
    texts = llm.chat_stream(ASKED, **options)
    assert "".join(texts) == whole.text and texts.result == whole
    assert "".join(llm.chat_stream(ASKED, choices=[WRITTEN], max_new_tokens=200)) == WRITTEN


def test_the_next_turn(llm: Llama) -> None:
    found = llm.chat(ASKED, tools=[weather], choices=[WRITTEN], max_new_tokens=200)
    [made] = found.tool_calls
    answer = {"role": "tool", "content": weather(**made.arguments), "tool_call_id": made.id}
    text = llm.tokenizer.decode(llm.chat_prompt([*ASKED, found.message, answer], tools=[weather]))
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call><tool>18 c in Oslo' in text
    as_openai = {"id": made.id, "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    for calls in ([made], [as_openai]):
        again = [*ASKED, {"role": "assistant", "content": "I look. ", "tool_calls": calls}, answer]
        assert llm.tokenizer.decode(llm.chat_prompt(again, tools=[weather])) == text


def test_special_tokens_of_the_format_are_in_the_text() -> None:
    """As ``<|python_tag|>`` is special, and a text without it has no call."""
    other = Llama.load("tiny", backend="reference").tokenizer
    other.add_special_tokens({"additional_special_tokens": ["<|python_tag|>", "<|eom_id|>"]})
    tag, end = other.convert_tokens_to_ids(["<|python_tag|>", "<|eom_id|>"])
    ids = [tag, *other.encode("code()", add_special_tokens=False), end]

    def text(**how: Any) -> str:
        decoder = other.stream_decoder([], **how)
        return "".join(decoder.push(token_id) for token_id in ids) + decoder.finish()

    assert "<|python_tag|>" not in text() and "<|eom_id|>" not in text()
    shown = text(shown_special_ids=[tag])
    assert shown.startswith("<|python_tag|>") and "<|eom_id|>" not in shown
