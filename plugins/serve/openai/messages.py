"""Messages of a conversation as OpenAI's interface has them, and as templates read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from ....core.http_interface import HttpError
from ..fields import Part, no_effect


class ContentPart(Part):
    """A part of a message's content; only texts are taken."""

    type: str
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    cache_control: Any = no_effect()
    annotations: Any = no_effect()
    logprobs: Any = no_effect()


class CalledFunction(Part):
    name: str
    arguments: str | dict[str, Any]


class ToolCall(Part):
    id: str | None = None
    type: Literal["function"] = "function"
    index: int | None = None
    function: CalledFunction


class ChatMessage(Part):
    """Who says what."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    audio: Any = no_effect()
    annotations: Any = no_effect()


def plain_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as a template reads them: contents as texts, a developer's as the system's.

    Raises:
        HttpError: a content that is no text.
    """
    return [_plain(message, f"messages[{place}]") for place, message in enumerate(messages)]


def _plain(message: ChatMessage, where: str) -> dict[str, Any]:
    found: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role}
    content = message.content if isinstance(message.content, str) else text_of_parts(message.content or [], where)
    found["content"] = content or message.refusal or ""
    if message.name is not None:
        found["name"] = message.name
    if message.tool_call_id is not None:
        found["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        found["tool_calls"] = [plain_call(call, f"{where}.tool_calls") for call in message.tool_calls]
    return found


def text_of_parts(parts: Sequence[ContentPart], where: str) -> str:
    """The text of a content in parts.

    Raises:
        HttpError: a part is no text.
    """
    for place, part in enumerate(parts):
        if part.type not in ("text", "input_text", "output_text") or part.text is None:
            text = f"{where}.content[{place}] is of type {part.type[:40]!r}, this model takes text alone"
            raise HttpError(text, param=f"{where}.content", kind="unsupported")
    return "".join(part.text or "" for part in parts)


def plain_call(call: ToolCall, where: str) -> dict[str, Any]:
    """A call of a tool; templates want the arguments as an object."""
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            raise HttpError(f"{where}: the arguments are no JSON", param=where) from None
    if not isinstance(arguments, dict):
        raise HttpError(f"{where}: the arguments are no JSON object", param=where)
    made: dict[str, Any] = {"type": "function", "function": {"name": call.function.name, "arguments": arguments}}
    return made if call.id is None else {"id": call.id, **made}
