"""``/v1/responses``, without state: a request brings the whole conversation, and nothing of it is kept."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ....core.http_interface import HttpError, Streamed
from ..answering import as_json
from ..chats import Chat, Reader
from ..fields import Body, Part, given, no_effect
from ..limits import token_limit, with_defaults
from .errors import openai_error
from .messages import CalledFunction, ContentPart, ToolCall, plain_call, text_of_parts
from .response_items import Event, Output
from .sampling import ResponseFormat, constraint
from .tools import Choice, FlatTool, FlatToolChoice, told_of_tools

if TYPE_CHECKING:
    from ..answering import Request
    from ..engine import Ticket
    from ..hub import Prepared, Served


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
    output: str | list[ContentPart] | None = None


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
    tools: list[FlatTool] | None = None
    tool_choice: Choice | FlatToolChoice | None = None
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
    chat = Chat(told_of_tools(body.tools, body.tool_choice, body.parallel_tool_calls))
    ticket = await served.generate(lambda: _prepare(body, messages, served, call, chat))
    made = Response(body, served, ticket, chat.reader())
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
        if item.type == "function_call":
            _add_call(found, item, where)
            continue
        if item.type == "function_call_output":
            found.append(_output(item, where))
            continue
        if item.type != "message" or item.role is None:
            raise HttpError(f"{where} is of type {item.type[:40]!r}, which is not offered", param=where)
        content = item.content if isinstance(item.content, str) else text_of_parts(item.content or [], where)
        found.append({"role": "system" if item.role == "developer" else item.role, "content": content})
    return found


def _add_call(messages: list[dict[str, Any]], item: InputItem, where: str) -> None:
    """A call of an earlier answer: its message has the text before it and the calls beside it, as templates want it."""
    if not item.name or not item.call_id:
        name = "call_id" if item.name else "name"
        raise HttpError(f"the request lacks the field '{where}.{name}'", param=f"{where}.{name}", kind="missing_field")
    call = ToolCall(id=item.call_id, function=CalledFunction(name=item.name, arguments=item.arguments or ""))
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    messages[-1].setdefault("tool_calls", []).append(plain_call(call, where))


def _output(item: InputItem, where: str) -> dict[str, Any]:
    """What came of a call."""
    if not item.call_id or item.output is None:
        name = "output" if item.call_id else "call_id"
        raise HttpError(f"the request lacks the field '{where}.{name}'", param=f"{where}.{name}", kind="missing_field")
    text = item.output if isinstance(item.output, str) else text_of_parts(item.output, f"{where}.output")
    return {"role": "tool", "content": text, "tool_call_id": item.call_id}


def _prepare(
    body: ResponsesBody, messages: Sequence[Mapping[str, Any]], served: Served, call: Request, chat: Chat
) -> Prepared:
    llm, server = served.llm, call.server.options
    options = given(body, {"temperature": "temperature", "top_p": "top_p"})
    if body.text is not None and body.text.format is not None:
        wanted = body.text.format
        schema = wanted.model_dump(by_alias=True, exclude={"type"})
        form = {"type": wanted.type, **({"json_schema": schema} if wanted.type == "json_schema" else {})}
        options |= constraint(ResponseFormat.model_validate(form), {})
    options = with_defaults(options, llm, server, temperature=1.0)

    def limit(prompt: int) -> int:
        return token_limit(body.max_output_tokens, prompt, llm, server, names=("max_output_tokens", "input"))

    return chat.prepare(served, server, messages, options, limit)


class Response:
    """An answer, whole and as events."""

    def __init__(self, body: ResponsesBody, served: Served, ticket: Ticket, reader: Reader) -> None:
        self._body, self._served, self._ticket, self._reader = body, served, ticket, reader
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._number = 0
        self._output = Output()

    @property
    def _end(self) -> str:
        return "incomplete" if self._ticket.job.rows[0].finish_reason == "length" else "completed"

    def whole(self, text: str) -> dict[str, Any]:
        """The response to an answer that has come to its end."""
        self._output.take(self._reader.take_whole(text))
        self._output.finish(self._end)
        return self._shown(self._end)

    def _shown(self, state: str) -> dict[str, Any]:
        """The response as it is."""
        body, begun = self._body, state == "in_progress"
        form = body.text.format if body.text is not None else None
        choice = body.tool_choice if isinstance(body.tool_choice, str | None) else body.tool_choice.model_dump()
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": state,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if state == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self._served.name,
            "output": self._output.items,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"} if form is None else form.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": choice or "auto",
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None if begun else self._usage(),
        }

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

    def _told(self, events: Sequence[Event]) -> bytes:
        return b"".join(self._event(f"response.{kind}", **values) for kind, values in events)

    async def events(self) -> AsyncIterator[bytes]:
        """The pieces of the answer as OpenAI's events."""
        begun = False
        async for events in self._ticket.events():
            if not begun:
                begun = True
                yield self._event("response.created", response=self._shown("in_progress"))
                yield self._event("response.in_progress", response=self._shown("in_progress"))
            if told := self._output.take(self._reader.take(events)):
                yield self._told(told)
        told = self._output.finish(self._end)
        yield self._told(told) + self._event(f"response.{self._end}", response=self._shown(self._end))

    def failed(self, error: HttpError) -> bytes:
        """An error as an event of a stream that has begun."""
        found = openai_error(error)["error"]
        return self._event("error", code=found["code"], message=found["message"], param=found["param"])
