"""``/v1/messages``: a conversation in, its answer out, whole or as events; ``/v1/messages/count_tokens``."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ....core.http_interface import HttpError, Streamed
from ....core.tool_calls.protocol import ToolCallPiece
from ..chats import Chat, Reader
from ..fields import given
from ..limits import token_limit, with_defaults
from .bodies import CountBody, MessagesBody, plain_messages, told_of_tools
from .errors import event, stream_error

if TYPE_CHECKING:
    from ..answering import Request
    from ..engine import Ticket
    from ..hub import Prepared, Served

NAMES: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop": "stop_sequences",
    "json_schema": "output_config",
}
"""Generation's options as this interface calls them."""


async def count_tokens(call: Request) -> Any:
    """Count the tokens of a conversation."""
    body: CountBody = call.body
    _refuse(body)
    chat, messages = Chat(told_of_tools(body)), plain_messages(body)
    served = await call.model(body.model)
    [ids], _ = await call.run(lambda: chat.prepare(served, call.server.options, messages, {}, lambda prompt: 1))
    return {"input_tokens": len(ids)}


async def answer(call: Request) -> Any:
    """Answer a conversation."""
    body: MessagesBody = call.body
    _refuse(body)
    chat, messages = Chat(told_of_tools(body)), plain_messages(body)
    served = await call.model(body.model)
    ticket = await served.generate(lambda: _prepare(body, messages, served, call, chat))
    if body.stream:
        return Streamed(_events(served, ticket, chat.reader()), failed=stream_error)
    [found] = await ticket.results()
    result = chat.read(found)
    content: list[dict[str, Any]] = [{"type": "text", "text": result.text}] if result.text else []
    calls = result.tool_calls or []
    content += [{"type": "tool_use", "id": one.id, "name": one.name, "input": dict(one.arguments)} for one in calls]
    return {**_head(served), "content": content, **_stop(ticket, len(calls)), "usage": _usage(ticket)}


def _refuse(body: CountBody) -> None:
    if body.thinking is not None and body.thinking.get("type") != "disabled":
        raise HttpError("thinking is not offered", param="thinking", kind="unsupported")


def _prepare(
    body: MessagesBody, messages: Sequence[Mapping[str, Any]], served: Served, call: Request, chat: Chat
) -> Prepared:
    llm, server = served.llm, call.server.options
    options = given(body, {name: NAMES[name] for name in NAMES if name not in ("max_new_tokens", "json_schema")})
    if body.output_config is not None and body.output_config.format is not None:
        options["json_schema"] = body.output_config.format.schema_
    if not options.get("stop", True):
        del options["stop"]
    options = with_defaults(options, llm, server, temperature=1.0)
    return chat.prepare(
        served, server, messages, options, lambda prompt: token_limit(body.max_tokens, prompt, llm, server)
    )


def _head(served: Served) -> dict[str, Any]:
    return {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": served.name}


def _stop(ticket: Ticket, calls: int) -> dict[str, Any]:
    """Why the answer ended there."""
    [row] = ticket.job.rows
    if row.finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if isinstance(row.stop_reason, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": row.stop_reason}
    return {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}


def _usage(ticket: Ticket, new: int | None = None) -> dict[str, Any]:
    [row] = ticket.job.rows
    cached = int(ticket.job.stats.cached_tokens)
    return {
        "input_tokens": row.prompt.counted - cached,
        "output_tokens": len(row.token_ids) if new is None else new,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }


class _Blocks:
    """The blocks of an answer as they come: at most one is open."""

    def __init__(self) -> None:
        self._index = -1
        self._open: str | None = None

    def take(self, pieces: Sequence[ToolCallPiece]) -> bytes:
        """The events that tell of the next pieces."""
        made = b""
        for piece in pieces:
            if piece.kind == "begin":
                made += self._begin({"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}})
            elif piece.kind == "arguments":
                made += self._delta({"type": "input_json_delta", "partial_json": piece.text})
            elif piece.kind == "end":
                made += self.close()
            else:  # what breaks off as a call is text, all of it
                if self._open != "text":
                    made += self._begin({"type": "text", "text": ""})
                made += self._delta({"type": "text_delta", "text": piece.text})
        return made

    def close(self) -> bytes:
        """End the block that is open."""
        if self._open is None:
            return b""
        self._open = None
        return event("content_block_stop", index=self._index)

    def _begin(self, block: dict[str, Any]) -> bytes:
        made = self.close()
        self._index += 1
        self._open = block["type"]
        return made + event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return event("content_block_delta", index=self._index, delta=delta)


async def _events(served: Served, ticket: Ticket, reader: Reader) -> AsyncIterator[bytes]:
    """The answer's pieces as Anthropic's events."""
    blocks, begun = _Blocks(), False
    async for events in ticket.events():
        made = b""
        if not begun:
            begun = True
            stop = {"stop_reason": None, "stop_sequence": None}
            message = {**_head(served), "content": [], **stop, "usage": _usage(ticket, new=1)}
            made = event("message_start", message=message)
        made += blocks.take(reader.take(events))
        if made:
            yield made
    [row] = ticket.job.rows
    end = event("message_delta", delta=_stop(ticket, reader.calls), usage={"output_tokens": len(row.token_ids)})
    yield blocks.close() + end + event("message_stop")
