"""``/api/chat`` and ``/api/generate``: answers as lines of JSON, or whole."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ....core.http_interface import HttpError, Streamed, plain_error
from ....core.messages import counted
from ....core.tool_calls.protocol import ToolCall, ToolCallPiece
from ..answering import as_json
from ..chats import Chat, Reader
from ..limits import token_limit, with_defaults
from ..openai.tools import told_of_tools
from .bodies import AnyBody, ChatBody, GenerateBody, Options, model_name, seconds

if TYPE_CHECKING:
    from ..answering import Request
    from ..engine import Ticket
    from ..hub import Prepared, Served

Content = Callable[[str, Sequence[ToolCallPiece]], dict[str, Any]]
"""The part of an answer that holds its text and its calls of tools."""

Said = str | Sequence[Mapping[str, Any]]
"""A prompt, or messages."""

TEMPERATURE = 0.8
"""Where neither a request nor the checkpoint name one, as Ollama has it."""


async def chat(call: Request) -> Any:
    """Answer a conversation."""
    body: ChatBody = call.body
    messages = [message.plain() for message in body.messages or []]
    made = Chat(told_of_tools(body.tools, None, None))
    return await _answer(call, body, made, messages or None, _message)


async def generate(call: Request) -> Any:
    """Answer a prompt: as a message by the model's template, or as it is where it has none or `raw` is said."""
    body: GenerateBody = call.body
    for name in ("suffix", "template", "images"):
        if getattr(body, name):
            raise HttpError(f"{name} is not offered", param=name, kind="unsupported")
    return await _answer(call, body, Chat(), body.prompt or None, lambda text, calls: {"response": text})


def _message(text: str, calls: Sequence[ToolCallPiece]) -> dict[str, Any]:
    found: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        found["tool_calls"] = [_call(piece.index, piece.call) for piece in calls if piece.call is not None]
    return {"message": found}


def _call(index: int, call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": dict(call.arguments)}}


async def _answer(call: Request, body: AnyBody, made: Chat, said: Said | None, content: Content) -> Any:
    """Answer messages or a prompt; without any, load the model or let it go."""
    body.refuse()
    began = time.perf_counter()
    served = await call.model(model_name(body.model))
    loading = time.perf_counter() - began
    keep_alive = None if body.keep_alive is None else seconds(body.keep_alive)
    if body.keep_alive is not None:
        served.held.keep_alive = keep_alive
    if said is None:
        reason = "unload" if body.keep_alive is not None and keep_alive == 0 else "load"
        return {**_head(body), **content("", ()), "done": True, "done_reason": reason}
    ticket = await served.generate(lambda: _prepare(body, served, call, made, said))

    def end() -> dict[str, Any]:
        return {"done": True, **_counts(ticket, began, loading)}

    if body.stream is not False:
        lines = _lines(body, ticket, made.reader(), content, end)
        return Streamed(lines, "application/x-ndjson", failed=lambda error: _line(plain_error(error)))
    [result] = await ticket.results()
    pieces = made.reader().take_whole(result.text)
    return {**_head(body), **content(_text(pieces), _calls(pieces)), **end()}


def _text(pieces: Sequence[ToolCallPiece]) -> str:
    return "".join(piece.text for piece in pieces if piece.kind in ("text", "broken"))


def _calls(pieces: Sequence[ToolCallPiece]) -> list[ToolCallPiece]:
    """Those that bring a call, which is sent as a whole: arguments are no text here."""
    return [piece for piece in pieces if piece.kind == "end"]


def _prepare(body: AnyBody, served: Served, call: Request, made: Chat, said: Said) -> Prepared:
    asked = body.options or Options()
    llm, server = served.llm, call.server.options
    options = with_defaults(asked.generation() | _format(body.format), llm, server, temperature=TEMPERATURE)
    wanted = None if asked.num_predict is None or asked.num_predict < 0 else asked.num_predict

    def limit(prompt: int) -> int:
        if asked.num_ctx is not None and prompt >= asked.num_ctx:
            raise HttpError(f"the prompt has {counted(prompt, 'token')}, num_ctx is {asked.num_ctx}", param="num_ctx")
        most = token_limit(wanted, prompt, llm, server, names=("num_predict", "prompt"))
        return most if asked.num_ctx is None else min(most, asked.num_ctx - prompt)

    if isinstance(said, str):
        assert isinstance(body, GenerateBody)
        if body.raw or (not llm.tokenizer.chat_template and not body.system):
            ids = list(llm.tokenizer.encode(said))
            return [ids], {**options, "max_new_tokens": limit(len(ids))}
        before = [{"role": "system", "content": body.system}] if body.system else []
        said = [*before, {"role": "user", "content": said}]
    return made.prepare(served, server, said, options, limit)


def _format(wanted: str | dict[str, Any] | None) -> dict[str, Any]:
    """What the text has to be, as an option of generation's."""
    if wanted is None or wanted == "":
        return {}
    if isinstance(wanted, str) and wanted != "json":
        raise HttpError(f"format is {wanted[:40]!r}, wanted 'json' or a JSON schema", param="format")
    return {"json_schema": {"type": "object"} if wanted == "json" else wanted}


def _head(body: AnyBody) -> dict[str, Any]:
    return {"model": body.model, "created_at": now()}


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _counts(ticket: Ticket, began: float, loading: float) -> dict[str, Any]:
    """Counts, and times in nanoseconds."""
    job, [row] = ticket.job, ticket.job.rows
    times = {
        "total_duration": time.perf_counter() - began,
        "load_duration": loading,
        "prompt_eval_duration": job.stats.prefill_seconds,
        "eval_duration": job.stats.decode_seconds,
    }
    return {
        "done_reason": row.finish_reason,
        "prompt_eval_count": row.prompt.counted,
        "eval_count": len(row.token_ids),
        **{name: int(value * 1e9) for name, value in times.items()},
    }


async def _lines(
    body: AnyBody, ticket: Ticket, reader: Reader, content: Content, end: Callable[[], dict[str, Any]]
) -> AsyncIterator[bytes]:
    """The answer's pieces as lines of JSON."""
    async for events in ticket.events():
        pieces = reader.take(events)
        text, calls = _text(pieces), _calls(pieces)
        if text or calls:
            yield _line({**_head(body), **content(text, calls), "done": False})
    yield _line({**_head(body), **content("", ()), **end()})


def _line(value: Any) -> bytes:
    return as_json(value) + b"\n"
