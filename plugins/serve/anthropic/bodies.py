"""Bodies of Anthropic's interface, and conversations as templates read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from ....core.http_interface import HttpError
from ..chats import check_names, function_schema
from ..fields import Body, Part, no_effect


class Block(Part):
    """A part of a message's content."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None
    source: Any = None
    thinking: str | None = None
    signature: Any = no_effect()
    data: Any = None
    title: str | None = None
    context: str | None = None
    citations: Any = None
    cache_control: Any = no_effect("prompts that begin alike share what was run by themselves")


class Message(Part):
    """Who says what."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(Part):
    """A tool that the model may call: its arguments as a JSON schema."""

    type: str | None = None
    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: Any = no_effect("arguments follow the schema where a call is asked for, and are the model's own else")
    cache_control: Any = no_effect("prompts that begin alike share what was run by themselves")


class ToolChoice(Part):
    """Whether a tool is to be called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Format(Part):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Part):
    """What the answer has to be."""

    format: Format | None = None


class CountBody(Body):
    """A conversation."""

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: dict[str, Any] | None = None


class MessagesBody(CountBody):
    """A conversation, and how it is to be answered."""

    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    stop_sequences: list[str] | None = None
    output_config: OutputConfig | None = None
    metadata: Any = no_effect()
    service_tier: Any = no_effect()


def told_of_tools(body: CountBody) -> dict[str, Any]:
    """What ``chat_request`` is told of a request's tools.

    Raises:
        HttpError: a tool that runs elsewhere, two of one name, or a choice that names none.
    """
    found: dict[str, Any] = {}
    for place, tool in enumerate(body.tools or ()):
        if tool.type not in (None, "custom") or tool.input_schema is None:
            text = f"tools[{place}] is of type {tool.type!r:.40}, which is not offered"
            if tool.type in (None, "custom"):
                text = f"the request lacks the field 'tools[{place}].input_schema'"
            raise HttpError(text, param=f"tools[{place}]", kind="unsupported")
        found.setdefault("tools", []).append(function_schema(tool.name, tool.description, tool.input_schema))
    check_names(found.get("tools", ()))
    choice = body.tool_choice
    if choice is None:
        return found
    if choice.type == "tool" and not choice.name:
        raise HttpError("the request lacks the field 'tool_choice.name'", param="tool_choice", kind="missing_field")
    named = {"type": "function", "function": {"name": choice.name}}
    found["tool_choice"] = named if choice.type == "tool" else {"any": "required"}.get(choice.type, choice.type)
    if choice.disable_parallel_tool_use is not None:
        found["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return found


def plain_messages(body: CountBody) -> list[dict[str, Any]]:
    """A conversation as a template reads it.

    Raises:
        HttpError: a content that is no text.
    """
    found: list[dict[str, Any]] = []
    if body.system:
        found.append({"role": "system", "content": _text(body.system, "system")})
    for place, message in enumerate(body.messages):
        found += _plain(message, f"messages[{place}]")
    return found


def _plain(message: Message, where: str) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    found: list[dict[str, Any]] = []
    calls = [block for block in message.content if block.type == "tool_use"]
    for block in message.content:
        if block.type == "tool_use" and not (block.name and block.id):
            name = "id" if block.name else "name"
            raise HttpError(f"{where} has a tool_use without {name!r}", param=where, kind="missing_field")
        if block.type == "tool_result":
            if not block.tool_use_id:
                raise HttpError(f"{where} has a tool_result without 'tool_use_id'", param=where, kind="missing_field")
            text = _text(block.content or "", where)
            found.append({"role": "tool", "content": text, "tool_call_id": block.tool_use_id})
    others = [block for block in message.content if block.type not in ("tool_use", "tool_result", "thinking")]
    if others or calls:
        made: dict[str, Any] = {"role": message.role, "content": _text(others, where)}
        if calls:
            made["tool_calls"] = [
                {"type": "function", "id": b.id, "function": {"name": b.name, "arguments": b.input or {}}}
                for b in calls
            ]
        found.append(made)
    return found


def _text(content: str | Sequence[Block], where: str) -> str:
    if isinstance(content, str):
        return content
    for place, block in enumerate(content):
        if block.type != "text" or block.text is None:
            text = f"{where}.content[{place}] is of type {block.type[:40]!r}, this model takes text alone"
            raise HttpError(text, param=where, kind="unsupported")
    return "".join(block.text or "" for block in content)
