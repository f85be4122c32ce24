"""``/api/chat`` and ``/api/generate``: answers as lines of JSON, or whole."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ....core.generation.option_rules import is_option
from ....core.http_interface import HttpError, Streamed, plain_error
from ....core.messages import counted
from ..answering import as_json
from ..limits import token_limit, with_defaults
from .bodies import AnyBody, ChatBody, GenerateBody, Options, model_name, seconds

if TYPE_CHECKING:
    from ..answering import Request
    from ..engine import Ticket
    from ..hub import Served

Content = Callable[[str], dict[str, Any]]
"""The part of an answer that holds its text."""

TEMPERATURE = 0.8
"""Where neither a request nor the checkpoint name one, as Ollama has it."""


async def chat(call: Request) -> Any:
    """Answer a conversation."""
    body: ChatBody = call.body
    if body.tools:
        raise HttpError("tools are not offered by this version", param="tools", kind="unsupported")
    messages = [message.plain() for message in body.messages or []]

    def prompt(served: Served) -> list[int]:
        return served.llm.chat_prompt(messages)

    return await _answer(call, body, prompt if messages else None, _message)


async def generate(call: Request) -> Any:
    """Answer a prompt: as a message by the model's template, or as it is where it has none or `raw` is said."""
    body: GenerateBody = call.body
    for name in ("suffix", "template", "images"):
        if getattr(body, name):
            raise HttpError(f"{name} is not offered", param=name, kind="unsupported")
    text = body.prompt or ""

    def prompt(served: Served) -> list[int]:
        tokenizer = served.llm.tokenizer
        if body.raw or (not tokenizer.chat_template and not body.system):
            return list(tokenizer.encode(text))
        before = [{"role": "system", "content": body.system}] if body.system else []
        return served.llm.chat_prompt([*before, {"role": "user", "content": text}])

    return await _answer(call, body, prompt if text else None, lambda piece: {"response": piece})


def _message(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


async def _answer(call: Request, body: AnyBody, prompt: Callable[[Served], list[int]] | None, content: Content) -> Any:
    """Answer by what a prompt becomes; without one, load the model or let it go."""
    body.refuse()
    began = time.perf_counter()
    served = await call.model(model_name(body.model))
    loading = time.perf_counter() - began
    keep_alive = None if body.keep_alive is None else seconds(body.keep_alive)
    if body.keep_alive is not None:
        served.held.keep_alive = keep_alive
    if prompt is None:
        reason = "unload" if body.keep_alive is not None and keep_alive == 0 else "load"
        return {**_head(body), **content(""), "done": True, "done_reason": reason}
    ticket = await served.generate(lambda: _prepare(body, served, call, prompt))

    def end() -> dict[str, Any]:
        return {"done": True, **_counts(ticket, began, loading)}

    if body.stream is not False:
        lines = _lines(body, ticket, content, end)
        return Streamed(lines, "application/x-ndjson", failed=lambda error: _line(plain_error(error)))
    [result] = await ticket.results()
    return {**_head(body), **content(result.text), **end()}


def _prepare(
    body: AnyBody, served: Served, call: Request, prompt: Callable[[Served], list[int]]
) -> tuple[Sequence[Sequence[int]], Mapping[str, Any]]:
    asked = body.options or Options()
    llm, server = served.llm, call.server.options
    options = asked.generation() | _format(body.format)
    ids = prompt(served)
    if asked.num_ctx is not None and len(ids) >= asked.num_ctx:
        raise HttpError(f"the prompt has {counted(len(ids), 'token')}, num_ctx is {asked.num_ctx}", param="num_ctx")
    limit = None if asked.num_predict is None or asked.num_predict < 0 else asked.num_predict
    most = token_limit(limit, len(ids), llm, server, names=("num_predict", "prompt"))
    if asked.num_ctx is not None:
        most = min(most, asked.num_ctx - len(ids))
    options["max_new_tokens"] = most
    return [ids], with_defaults(options, llm, server, temperature=TEMPERATURE)


def _format(wanted: str | dict[str, Any] | None) -> dict[str, Any]:
    """What the text has to be, as an option of generation's."""
    if wanted is None or wanted == "":
        return {}
    if isinstance(wanted, str) and wanted != "json":
        raise HttpError(f"format is {wanted[:40]!r}, wanted 'json' or a JSON schema", param="format")
    if not is_option("json_schema"):
        raise HttpError("format is not offered by this version", param="format", kind="unsupported")
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
    body: AnyBody, ticket: Ticket, content: Content, end: Callable[[], dict[str, Any]]
) -> AsyncIterator[bytes]:
    """The answer's pieces as lines of JSON."""
    async for events in ticket.events():
        text = "".join(event.text for event in events)
        if text:
            yield _line({**_head(body), **content(text), "done": False})
    yield _line({**_head(body), **content(""), **end()})


def _line(value: Any) -> bytes:
    return as_json(value) + b"\n"
