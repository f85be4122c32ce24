"""Calls of tools, the pieces in which they arrive, and what a parser of a format has to be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from ..public import for_plugins, public


def new_call_id() -> str:
    """An id that no other call has, in the form that OpenAI's have."""
    import secrets  # which most generations do without

    return "call_" + secrets.token_hex(12)


@public
@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that a model asks for.

    Attributes:
        name: the tool's.
        arguments: by name.
        id: tells it from other calls of a conversation; a ``tool`` message answers it by ``tool_call_id``.

    >>> ToolCall("add", {"a": 1}, "call_1").as_message()["function"]
    {'name': 'add', 'arguments': {'a': 1}}
    """

    name: str
    arguments: Mapping[str, Any]
    id: str = field(default_factory=new_call_id, compare=False)

    def as_message(self) -> dict[str, Any]:
        """The call as ``tool_calls`` of a message have it."""
        function = {"name": self.name, "arguments": dict(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


@for_plugins
@dataclass(frozen=True)
class ToolCallPiece:
    """A piece of an answer that may call tools, as it arrives.

    Attributes:
        kind: ``"text"``: text that is part of no call. ``"begin"``: a call begins, whose `name` and `id` are known.
            ``"arguments"``: more of the JSON text of its arguments. ``"end"``: it is whole; `call` is it.
            ``"broken"``: what had begun as a call is none; `text` is all of it, as the model wrote it.
        text: of texts and arguments.
        index: which of the answer's calls it is about, from 0. One that breaks off keeps its number: who was told of
            its beginning would take the next one of this number for its continuation.
        error: why there is no call, of what is broken and of text that looked like a call.
    """

    kind: Literal["text", "begin", "arguments", "end", "broken"]
    text: str = ""
    index: int = 0
    name: str = ""
    id: str = ""
    call: ToolCall | None = None
    error: str | None = None


@for_plugins
class ToolParser(Protocol):
    """Reads one answer; made with the schemas of the tools that the model may call, as the template is given them.

    Attributes:
        shown: special tokens that the format is made of, and that must therefore be in the text it is given.
    """

    shown: ClassVar[Sequence[str]]

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None: ...

    def push(self, text: str) -> list[ToolCallPiece]:
        """What the next text makes certain; what may yet become a call is held back."""
        ...

    def finish(self) -> list[ToolCallPiece]:
        """What is still held back, when no more text follows."""
        ...

    @classmethod
    def grammar(cls, tools: Sequence[Mapping[str, Any]], *, several: bool) -> str:
        """A Lark grammar of answers that are calls of these tools and nothing else.

        Args:
            several: whether an answer may have more than one call.
        """
        ...


@dataclass(frozen=True)
class Answer:
    """What an answer says, its calls, and why parts of it that look like calls are none."""

    text: str
    calls: list[ToolCall]
    errors: tuple[str, ...]


def answer_of(pieces: Iterable[ToolCallPiece]) -> Answer:
    """Put the pieces of an answer together; text that is no call is all in its text.

    >>> answer_of([ToolCallPiece("text", "Yes."), ToolCallPiece("end", call=ToolCall("add", {}))]).text
    'Yes.'
    """
    pieces = list(pieces)
    return Answer(
        "".join(piece.text for piece in pieces if piece.kind in ("text", "broken")),
        [piece.call for piece in pieces if piece.call is not None],
        tuple(piece.error for piece in pieces if piece.error is not None),
    )


@for_plugins
def json_call_rules(
    tools: Sequence[Mapping[str, Any]], arguments: str, whitespace: str = r" |\n( {2}){0,12}"
) -> tuple[str, str]:
    """A rule of a Lark grammar for a call as a JSON object, and the rules that it needs.

    Args:
        arguments: what the format calls them: ``"arguments"`` or ``"parameters"``.

    >>> json_call_rules([{"type": "function", "function": {"name": "now"}}], "arguments")[0]
    '(call_0)'
    """
    rules = []
    for index, tool in enumerate(tools):
        function = tool_function(tool)
        begin = json.dumps('{"name": ' + json.dumps(function.get("name")) + f', "{arguments}": ')
        schema = {**held_schema(function), "x-guidance": {"whitespace_pattern": whitespace}}
        rules += [f'call_{index}: {begin} of_{index} "}}"', f"of_{index}: %json {json.dumps(schema)}"]
    return "(" + " | ".join(f"call_{index}" for index in range(len(tools))) + ")", "\n".join(rules)


def tool_function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a tool's schema says of the function, with or without the wrapping that OpenAI's interface has."""
    inside = tool.get("function")
    return inside if isinstance(inside, Mapping) else tool


def tool_name(tool: Mapping[str, Any]) -> str | None:
    """The name of a tool, if it has one."""
    name = tool_function(tool).get("name")
    return name if isinstance(name, str) else None


def arguments_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments: an object, without names that the tool does not know unless it says so."""
    schema = dict(function.get("parameters") or {"type": "object", "properties": {}})
    schema.setdefault("type", "object")
    schema.setdefault("properties", {})
    schema.setdefault("additionalProperties", False)
    return schema


def held_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema that arguments are held to where a call must be made."""
    found: dict[str, Any] = _with_null(arguments_schema(function))
    return found


def _with_null(schema: Any) -> Any:
    """A schema whose ``nullable`` parts, a word of OpenAPI's, are JSON Schema's."""
    if isinstance(schema, list):
        return [_with_null(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {name: _with_null(part) for name, part in schema.items() if name not in ("nullable", "return")}
    return {"anyOf": [found, {"type": "null"}]} if schema.get("nullable") is True else found
