"""Bodies of Anthropic's interface, and conversations as templates read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from ....core.http_interface import HttpError
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


class CountBody(Body):
    """A conversation."""

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    system: str | list[Block] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None


class MessagesBody(CountBody):
    """A conversation, and how it is to be answered."""

    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    stop_sequences: list[str] | None = None
    metadata: Any = no_effect()
    service_tier: Any = no_effect()


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
        if block.type == "tool_result":
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
