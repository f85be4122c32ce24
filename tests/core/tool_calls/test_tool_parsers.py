"""Parsers of tool calls: what each format means, however its text is divided, and that nothing is ever lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import lark
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama import ToolCall
from polyllama.core.tool_calls.protocol import answer_of
from polyllama.extend import ToolCallPiece, ToolParser, ToolParserDescriptor, plugin_manager

FORMATS = ("llama", "hermes")
TAG = "<|python_tag|>"
SEARCH = [{"type": "function", "function": {"name": "code_interpreter", "parameters": {}}}]


def parser(name: str, tools: Sequence[Any] = ()) -> ToolParser:
    made: ToolParser = plugin_manager().find(ToolParserDescriptor, name).load()(tools)
    return made


def pieces_of(name: str, parts: Sequence[str], tools: Sequence[Any] = ()) -> list[ToolCallPiece]:
    reader = parser(name, tools)
    found = [piece for part in parts for piece in reader.push(part)]
    return [*found, *reader.finish()]


def call(name: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    return name, arguments


CALLS: list[tuple[str, str, str, list[tuple[str, dict[str, Any]]]]] = [
    ("llama", '{"name": "f", "parameters": {"a": 1}}', "", [call("f", a=1)]),
    ("llama", ' \n{"name": "f", "parameters": {"a": "}\\" {"}}\n', "", [call("f", a='}" {')]),
    ("llama", '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}', "", [call("f"), call("g")]),
    (
        "llama",
        '{"name": "f", "parameters": {}}\n{"name": "g", "parameters": {"x": [1]}}',
        "",
        [call("f"), call("g", x=[1])],
    ),
    ("llama", TAG + '{"name": "f", "parameters": {"a": null}}', "", [call("f", a=None)]),
    ("llama", TAG + '{"name": "f"};' + TAG + 'g.call(q="x")', "", [call("f"), call("g", q="x")]),
    ("llama", '{"type": "function", "function": "f", "parameters": {}}', "", [call("f")]),
    ("llama", TAG + 'brave_search.call(query="a (b) \\"c\\"")', "", [call("brave_search", query='a (b) "c"')]),
    ("llama", 'I look.\n{"name": "f", "parameters": {}}\nDone.', "I look.\n\nDone.", [call("f")]),
    ("llama", "I run it. " + TAG + "code.call(x=1)", "I run it. ", [call("code", x=1)]),
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', "", [call("f", a=1)]),
    ("hermes", 'So: <tool_call>{"arguments": {}, "name": "f"}</tool_call>.', "So: .", [call("f")]),
    (
        "hermes",
        '<tool_call>{"name": "f"}</tool_call>\n<tool_call>{"name": "g"}</tool_call>',
        "",
        [call("f"), call("g")],
    ),
    ("hermes", '<tool_call>[{"name": "f", "arguments": {}}, {"name": "g"}]</tool_call>', "", [call("f"), call("g")]),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [call("f", a=1)]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"t": "</tool_call>"}}', "", [call("f", t="</tool_call>")]),
]


@pytest.mark.parametrize(("form", "written", "text", "calls"), CALLS)
def test_calls_and_the_text_beside_them(form: str, written: str, text: str, calls: list[tuple[str, Any]]) -> None:
    answer = answer_of(pieces_of(form, [written]))
    assert (answer.text, [(one.name, one.arguments) for one in answer.calls]) == (text, calls)
    assert answer.errors == () and len({one.id for one in answer.calls}) == len(calls)


PLAIN = [
    "Hello.",
    "",
    " \n ",
    "a < b <tool",
    "{",
    "{}",
    '{"answer": 1}',
    '{"name": "Bob", "age": 3}',
    '{"name": "Bob"}',
]
PLAIN += [
    "{ not json",
    "<|pyth",
    'see {"name": "f", "parameters": {}} there',
    "a\n  {x}\n  b",
    "</tool_call>",
    "[1, 2]",
]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("text", PLAIN)
def test_text_that_is_no_call_stays_as_it_is(form: str, text: str) -> None:
    answer = answer_of(pieces_of(form, [text]))
    assert (answer.text, answer.calls, answer.errors) == (text, [], ())


BROKEN = [
    ("llama", TAG, "nothing follows"),
    ("llama", TAG + "print(1)", "no call of a tool"),
    ("llama", TAG + '{"name": "f", "parameters": {"a": }}', "no JSON"),
    ("llama", TAG + ' {"name": 3, "parameters": {}}', "no name"),
    ("llama", '{"name": "f", "parameters": {"a": 1} "x"}', "no JSON object"),
    ("llama", '{"name": "f", "parameters": {"a": 1', "ends before the call does"),
    ("hermes", "<tool_call>hello</tool_call> and", "no JSON object"),
    ("hermes", "<tool_call>", "ends before the call does"),
    ("hermes", "<tool_call>{'name': 'f'}</tool_call>", "no JSON object"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": tru}}</tool_call>\n', "no JSON"),
    ("hermes", '<tool_call> {"name": "f", "arguments": [1]}</tool_call>', "no object"),
    ("hermes", 'x <tool_call>{"name": "f", "arguments": {"a": 1</tool_call>', "ends before the call does"),
]


@pytest.mark.parametrize(("form", "text", "why"), BROKEN)
def test_what_is_malformed_stays_text_and_is_said(form: str, text: str, why: str) -> None:
    for parts in ([text], list(text)):
        answer = answer_of(pieces_of(form, parts))
        assert (answer.text, answer.calls) == (text, [])
        assert len(answer.errors) == 1 and why in answer.errors[0]


def test_code_is_for_the_interpreter_where_there_is_one() -> None:
    answer = answer_of(pieces_of("llama", [TAG + "print(", "1)\nx = 2"], SEARCH))
    assert [(one.name, one.arguments) for one in answer.calls] == [("code_interpreter", {"code": "print(1)\nx = 2"})]
    assert answer.errors == () and answer.text == ""


def test_arguments_arrive_as_they_are_written() -> None:
    """Before the call is whole: a client sees them as they come, and their text is the arguments'."""
    reader = parser("hermes")
    first = reader.push('<tool_call>{"name": "f", "arguments": {"city": "Par')
    assert [piece.kind for piece in first] == ["begin", "arguments"]
    assert (first[0].name, first[0].index, first[1].text) == ("f", 0, '{"city": "Par')
    second = reader.push('is"}}')
    assert [piece.kind for piece in second] == ["arguments", "end"] and second[0].text == 'is"}'
    assert second[1].call == ToolCall("f", {"city": "Paris"}) and second[1].call.id == first[0].id
    assert reader.push("</tool_call>") == [] and reader.finish() == []


def test_what_may_become_a_call_is_held_back() -> None:
    llama, hermes = parser("llama"), parser("hermes")
    assert hermes.push("Yes <tool") == [ToolCallPiece("text", "Yes ")]
    assert hermes.push("s>") == [ToolCallPiece("text", "<tools>")]
    assert llama.push('{"name": "f", "par') == []
    assert llama.push('ents": 2}') == [ToolCallPiece("text", '{"name": "f", "parents"'), ToolCallPiece("text", ": 2}")]


# however it is divided ------------------------------------------------------------------------------------------------

VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(st.sampled_from('ab"{}[]\\,:;\n<é日'), max_size=6),
    lambda inside: st.lists(inside, max_size=2) | st.dictionaries(st.text("xy}", max_size=2), inside, max_size=2),
    max_leaves=5,
)
TEXTS = st.text(st.sampled_from("ab{<|\n ;"), max_size=8)
ARGUMENTS = st.dictionaries(st.sampled_from(["x", "y", "na}me"]), VALUES, max_size=3)


AROUND = {
    "llama": ("CALL", TAG + "CALL", "\nCALL", "; CALL"),
    "hermes": ("<tool_call>CALL</tool_call>", "<tool_call>\nCALL", "CALL"),
}


@st.composite
def written(draw: Any) -> tuple[str, str]:
    """A format, and text in it: calls, texts, pieces of both, cut anywhere."""
    form = draw(st.sampled_from(FORMATS))
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        body = {"name": draw(st.sampled_from(["f", "g"])), "arguments": draw(ARGUMENTS)}
        if form == "llama":
            body["parameters"] = body.pop("arguments")
        made = json.dumps(body, indent=draw(st.sampled_from([None, 1])), ensure_ascii=draw(st.booleans()))
        around = {"llama": ("", TAG + "{}", "\n{}"), "hermes": ("<tool_call>{}</tool_call>", "<tool_call>\n{}", "{}")}[
            form
        ]
        parts.append(draw(st.sampled_from(around)).replace("{}", made) or made)
        parts.append(draw(TEXTS))
    whole = "".join(parts)
    return form, whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


@settings(max_examples=300, deadline=None)
@given(written(), st.data())
def test_pieces_make_no_difference(one: tuple[str, str], data: Any) -> None:
    form, text = one
    whole = answer_of(pieces_of(form, [text]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parts = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    for divided in (parts, list(text)):
        pieces = pieces_of(form, divided)
        answer = answer_of(pieces)
        assert (answer.text, answer.calls, len(answer.errors)) == (whole.text, whole.calls, len(whole.errors))
        check_order(pieces)


def check_order(pieces: Sequence[ToolCallPiece]) -> None:
    """Each call begins, gives its arguments and ends before another begins, and these are the call's arguments."""
    begun: ToolCallPiece | None = None
    arguments = ""
    for piece in pieces:
        if piece.kind == "begin":
            assert begun is None
            begun, arguments = piece, ""
        elif piece.kind == "arguments":
            assert begun is not None and piece.index == begun.index
            arguments += piece.text
        elif piece.kind == "end":
            assert begun is not None and piece.call is not None and (piece.index, piece.id) == (begun.index, begun.id)
            assert json.loads(arguments) == piece.call.arguments
            begun = None
        elif piece.kind == "broken":
            assert begun is not None and piece.index == begun.index and arguments in piece.text
            begun = None
    assert begun is None
    indexes = [piece.index for piece in pieces if piece.kind == "begin"]
    assert indexes == list(range(len(indexes)))


@pytest.mark.parametrize("form", FORMATS)
def test_the_grammar_of_a_format_is_what_its_parser_reads(form: str) -> None:
    kind = plugin_manager().find(ToolParserDescriptor, form).load()
    tools = [{"function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}}, {"name": 'g"'}]
    grammar = kind.grammar(tools, several=True)
    rules = [line.partition(": %json ") for line in grammar.splitlines()]
    schemas = [json.loads(schema) for _, mark, schema in rules if mark]
    assert [schema["additionalProperties"] for schema in schemas] == [False, False]
    # Lark itself knows no %json: an object of any kind stands for it here.
    plain = "\n".join(f"{name}: OBJECT" if mark else name for name, mark, _ in rules) + '\nOBJECT: "{}"'
    lark.Lark(plain)
