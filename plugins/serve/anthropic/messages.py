"""``/v1/messages``: a conversation in, its answer out, whole or as events; ``/v1/messages/count_tokens``."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ....core.http_interface import HttpError, Streamed
from ..fields import given
from ..limits import token_limit, with_defaults
from .bodies import CountBody, MessagesBody, plain_messages
from .errors import event, stream_error

if TYPE_CHECKING:
    from ..answering import Request
    from ..engine import Ticket
    from ..hub import Served

NAMES: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop": "stop_sequences",
}
"""Generation's options as this interface calls them."""


async def count_tokens(call: Request) -> Any:
    """Count the tokens of a conversation."""
    body: CountBody = call.body
    _refuse(body)
    served = await call.model(body.model)
    ids = await call.run(served.llm.chat_prompt, plain_messages(body))
    return {"input_tokens": len(ids)}


async def answer(call: Request) -> Any:
    """Answer a conversation."""
    body: MessagesBody = call.body
    _refuse(body)
    served = await call.model(body.model)
    ticket = await served.generate(lambda: _prepare(body, served, call))
    if body.stream:
        return Streamed(_events(served, ticket), failed=stream_error)
    [result] = await ticket.results()
    content = [{"type": "text", "text": result.text}] if result.text else []
    return {**_head(served), "content": content, **_stop(ticket), "usage": _usage(ticket)}


def _refuse(body: CountBody) -> None:
    if body.tools and (body.tool_choice or {}).get("type") != "none":
        raise HttpError("tools are not offered by this version", param="tools", kind="unsupported")
    if body.thinking is not None and body.thinking.get("type") != "disabled":
        raise HttpError("thinking is not offered", param="thinking", kind="unsupported")


def _prepare(body: MessagesBody, served: Served, call: Request) -> tuple[Sequence[Sequence[int]], Mapping[str, Any]]:
    llm, server = served.llm, call.server.options
    options = given(body, {name: field for name, field in NAMES.items() if name != "max_new_tokens"})
    if not options.get("stop", True):
        del options["stop"]
    ids = llm.chat_prompt(plain_messages(body))
    options["max_new_tokens"] = token_limit(body.max_tokens, len(ids), llm, server)
    return [ids], with_defaults(options, llm, server, temperature=1.0)


def _head(served: Served) -> dict[str, Any]:
    return {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": served.name}


def _stop(ticket: Ticket) -> dict[str, Any]:
    """Why the answer ended there."""
    [row] = ticket.job.rows
    if row.finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if isinstance(row.stop_reason, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": row.stop_reason}
    return {"stop_reason": "end_turn", "stop_sequence": None}


def _usage(ticket: Ticket, new: int | None = None) -> dict[str, Any]:
    [row] = ticket.job.rows
    cached = int(ticket.job.stats.cached_tokens)
    return {
        "input_tokens": row.prompt.counted - cached,
        "output_tokens": len(row.token_ids) if new is None else new,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }


async def _events(served: Served, ticket: Ticket) -> AsyncIterator[bytes]:
    """The answer's pieces as Anthropic's events."""
    begun = False
    async for events in ticket.events():
        if not begun:
            begun = True
            stop = {"stop_reason": None, "stop_sequence": None}
            message = {**_head(served), "content": [], **stop, "usage": _usage(ticket, new=1)}
            block = {"type": "text", "text": ""}
            yield event("message_start", message=message) + event("content_block_start", index=0, content_block=block)
        text = "".join(one.text for one in events)
        if text:
            yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
    [row] = ticket.job.rows
    end = event("message_delta", delta=_stop(ticket), usage={"output_tokens": len(row.token_ids)})
    yield event("content_block_stop", index=0) + end + event("message_stop")
