"""Tools as OpenAI's interfaces have them, and as templates are told of them; calls of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from ....core.tool_calls.protocol import ToolCall, ToolCallPiece
from ..chats import arguments_text, check_names, function_schema
from ..fields import Part, no_effect

Name = Annotated[str, Field(min_length=1, max_length=256)]


class Function(Part):
    """A function that the model may call: its arguments as a JSON schema."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Any = no_effect("arguments follow the schema where a call is asked for, and are the model's own else")


class Tool(Part):
    """A tool of a chat."""

    type: Literal["function"] = "function"
    function: Function


class FlatTool(Part):
    """A tool of a response."""

    type: Literal["function"]  # first, as what is wrong with the first field is said
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Any = no_effect("arguments follow the schema where a call is asked for, and are the model's own else")


class Named(Part):
    name: Name


class ToolChoice(Part):
    """The tool that is to be called, in a chat."""

    type: Literal["function"]
    function: Named


class FlatToolChoice(Part):
    """The tool that is to be called, in a response."""

    type: Literal["function"]
    name: Name


Choice = Literal["auto", "none", "required"]


def told_of_tools(tools: Sequence[Tool | FlatTool] | None, choice: Any, parallel: bool | None) -> dict[str, Any]:
    """What ``chat_request`` is told of a request's tools.

    Raises:
        HttpError: two of one name.
    """
    found: dict[str, Any] = {}
    if tools:
        functions = [tool.function if isinstance(tool, Tool) else tool for tool in tools]
        found["tools"] = [function_schema(one.name, one.description, one.parameters) for one in functions]
        check_names(found["tools"])
        found["parallel_tool_calls"] = parallel
    if isinstance(choice, ToolChoice):
        choice = choice.model_dump()
    elif isinstance(choice, FlatToolChoice):
        choice = {"type": "function", "function": {"name": choice.name}}
    return found if choice is None else {**found, "tool_choice": choice}


def message(text: str, calls: Sequence[ToolCall] | None) -> dict[str, Any]:
    """An answer as a message of a chat."""
    found: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if not calls:
        return found
    made = [_call(call.id, call.name, arguments_text(call.arguments)) for call in calls]
    return {**found, "content": text or None, "tool_calls": made}


def delta(piece: ToolCallPiece) -> dict[str, Any] | None:
    """A piece of an answer as a chunk of a chat's stream has it; ``None`` where there is nothing to say."""
    if piece.kind == "begin":
        return {"tool_calls": [{"index": piece.index, **_call(piece.id, piece.name, "")}]}
    if piece.kind == "arguments":
        return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}
    return {"content": piece.text} if piece.kind in ("text", "broken") else None


def _call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
