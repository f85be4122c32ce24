"""``/v1/responses``, without state: a request brings the whole conversation, and nothing of it is kept."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ....core.http_interface import HttpError, Streamed
from ..answering import as_json
from ..fields import Body, Part, given, no_effect
from ..limits import token_limit, with_defaults
from .errors import openai_error
from .messages import ContentPart, text_of_parts
from .sampling import ResponseFormat, constraint

if TYPE_CHECKING:
    from ..answering import Request
    from ..engine import Ticket
    from ..hub import Served


class InputItem(Part):
    """A message, or what else a conversation holds."""

    type: str = "message"
    role: str | None = None
    content: str | list[ContentPart] | None = None
    id: Any = no_effect()
    status: Any = no_effect()
    summary: Any = no_effect()
    encrypted_content: Any = no_effect()
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Any = None


class TextFormat(Part):
    type: Annotated[str, Field(pattern="^(text|json_object|json_schema)$")]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextAnswer(Part):
    format: TextFormat | None = None
    verbosity: Any = no_effect()


class ResponsesBody(Body):
    """A conversation, and how it is to be answered."""

    model: str | None = None
    input: str | Annotated[list[InputItem], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stream: bool | None = None
    text: TextAnswer | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    truncation: str | None = None
    reasoning: dict[str, Any] | None = None
    store: Any = no_effect("nothing is stored here")
    metadata: dict[str, str] | None = None
    include: Any = no_effect()
    user: Any = no_effect()
    service_tier: Any = no_effect()
    safety_identifier: Any = no_effect()
    prompt_cache_key: Any = no_effect("prompts that begin alike share what was run by themselves")
    stream_options: Any = no_effect()


async def respond(call: Request) -> Any:
    """Answer a conversation."""
    body: ResponsesBody = call.body
    _refuse(body)
    messages = _messages(body)
    served = await call.model(body.model)
    ticket = await served.generate(lambda: _prepare(body, messages, served, call))
    made = Response(body, served, ticket)
    if body.stream:
        return Streamed(made.events(), failed=made.failed)
    [result] = await ticket.results()
    return made.whole(result.text)


def _refuse(body: ResponsesBody) -> None:
    """Say what is not offered, before a model is loaded."""
    for name in ("previous_response_id", "conversation"):
        if getattr(body, name) is not None:
            text = f"{name} is not offered: nothing is kept here, send the whole conversation"
            raise HttpError(text, param=name, kind="unsupported")
    if body.tools and body.tool_choice != "none":
        raise HttpError("tools are not offered by this version", param="tools", kind="unsupported")
    if body.background:
        raise HttpError("background is not offered", param="background", kind="unsupported")
    if body.truncation not in (None, "disabled"):
        raise HttpError("truncation is not offered: a text that does not fit is an error", param="truncation")


def _messages(body: ResponsesBody) -> list[dict[str, Any]]:
    found = [{"role": "system", "content": body.instructions}] if body.instructions else []
    if isinstance(body.input, str):
        return [*found, {"role": "user", "content": body.input}]
    for place, item in enumerate(body.input):
        where = f"input[{place}]"
        if item.type == "reasoning":  # what other models thought is nothing that this one has said
            continue
        if item.type != "message" or item.role is None:
            raise HttpError(f"{where} is of type {item.type[:40]!r}, which is not offered", param=where)
        content = item.content if isinstance(item.content, str) else text_of_parts(item.content or [], where)
        found.append({"role": "system" if item.role == "developer" else item.role, "content": content})
    return found


def _prepare(
    body: ResponsesBody, messages: Sequence[Mapping[str, Any]], served: Served, call: Request
) -> tuple[Sequence[Sequence[int]], Mapping[str, Any]]:
    llm, server = served.llm, call.server.options
    options = given(body, {"temperature": "temperature", "top_p": "top_p"})
    if body.text is not None and body.text.format is not None:
        wanted = body.text.format
        schema = wanted.model_dump(by_alias=True, exclude={"type"})
        form = {"type": wanted.type, **({"json_schema": schema} if wanted.type == "json_schema" else {})}
        options |= constraint(ResponseFormat.model_validate(form), {})
    ids = llm.chat_prompt(messages)
    names = ("max_output_tokens", "input")
    options["max_new_tokens"] = token_limit(body.max_output_tokens, len(ids), llm, server, names=names)
    return [ids], with_defaults(options, llm, server, temperature=1.0)


class Response:
    """An answer, whole and as events."""

    def __init__(self, body: ResponsesBody, served: Served, ticket: Ticket) -> None:
        self._body, self._served, self._ticket = body, served, ticket
        self._id, self._message_id = f"resp_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._number = 0

    def whole(self, text: str | None) -> dict[str, Any]:
        """The response as it is: in progress without a text."""
        body, row = self._body, self._ticket.job.rows[0]
        cut = row.finish_reason == "length"
        state = "in_progress" if text is None else "incomplete" if cut else "completed"
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": state,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if text is not None and cut else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self._served.name,
            "output": [] if text is None else [self._message(text, state)],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None if text is None else self._usage(),
        }

    def _message(self, text: str, state: str) -> dict[str, Any]:
        content = [self._part(text)] if state != "in_progress" else []
        return {"type": "message", "id": self._message_id, "status": state, "role": "assistant", "content": content}

    @staticmethod
    def _part(text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _usage(self) -> dict[str, Any]:
        row, cached = self._ticket.job.rows[0], int(self._ticket.job.stats.cached_tokens)
        prompt, new = row.prompt.counted, len(row.token_ids)
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": new,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + new,
        }

    def _event(self, kind: str, **values: Any) -> bytes:
        value = {"type": kind, "sequence_number": self._number, **values}
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + as_json(value) + b"\n\n"

    async def events(self) -> AsyncIterator[bytes]:
        """The pieces of the answer as OpenAI's events."""
        where = {"item_id": self._message_id, "output_index": 0, "content_index": 0}
        text, begun = "", False
        async for events in self._ticket.events():
            if not begun:
                begun = True
                yield self._event("response.created", response=self.whole(None))
                yield self._event("response.in_progress", response=self.whole(None))
                item = self._message("", "in_progress")
                yield self._event("response.output_item.added", output_index=0, item=item)
                yield self._event("response.content_part.added", **where, part=self._part(""))
            piece = "".join(event.text for event in events)
            if piece:
                text += piece
                yield self._event("response.output_text.delta", **where, delta=piece, logprobs=[])
        whole = self.whole(text)
        yield self._event("response.output_text.done", **where, text=text, logprobs=[])
        yield self._event("response.content_part.done", **where, part=self._part(text))
        yield self._event("response.output_item.done", output_index=0, item=whole["output"][0])
        yield self._event(f"response.{whole['status']}", response=whole)

    def failed(self, error: HttpError) -> bytes:
        """An error as an event of a stream that has begun."""
        found = openai_error(error)["error"]
        return self._event("error", code=found["code"], message=found["message"], param=found["param"])
