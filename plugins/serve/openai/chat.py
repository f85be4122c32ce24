"""``/v1/chat/completions``: a conversation in, its answer out, whole or as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ....core.http_interface import HttpError, Streamed
from ..chats import Chat, Reader
from ..fields import no_effect
from ..limits import token_limit
from .errors import stream_error
from .logprobs import TokenTexts
from .messages import ChatMessage, plain_messages
from .sampling import SamplingBody, sampling_options
from .tools import Choice, Tool, ToolChoice, delta, message, told_of_tools
from .usage import DONE, data, head, usage

if TYPE_CHECKING:
    from ....core.generation.outputs import Generation, StreamEvent
    from ....core.generation.sampling import TokenLogprob
    from ..answering import Request
    from ..engine import Ticket
    from ..hub import Prepared, Served


class ChatBody(SamplingBody):
    """A conversation, and how it is to be answered."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Choice | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    store: Any = no_effect("nothing is stored here")
    metadata: Any = no_effect("belongs to what is stored")
    service_tier: Any = no_effect()
    safety_identifier: Any = no_effect()
    prompt_cache_key: Any = no_effect("prompts that begin alike share what was run by themselves")
    prompt_cache_retention: Any = no_effect()

    @property
    def limit(self) -> int | None:
        """Tokens of the answer that are asked for."""
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise HttpError("max_tokens and max_completion_tokens are two limits", hint="give one of them")
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


async def chat(call: Request) -> Any:
    """Answer a conversation."""
    body: ChatBody = call.body
    _refuse(body)
    served = await call.model(body.model)
    made = Chat(told_of_tools(body.tools, body.tool_choice, body.parallel_tool_calls))
    ticket = await served.generate(lambda: _prepare(body, served, call, made), body.rows)
    if body.stream:
        return Streamed(_chunks(body, served, ticket, made), failed=stream_error)
    texts = TokenTexts.of(served.llm.tokenizer)
    choices = [_choice(index, made.read(result), texts) for index, result in enumerate(await ticket.results())]
    return {**head("chat.completion", "chatcmpl", served), "choices": choices, "usage": usage(ticket, body.rows)}


def _refuse(body: ChatBody) -> None:
    """Say what is not offered, before a model is loaded."""
    if body.top_logprobs and not body.logprobs:
        raise HttpError("top_logprobs goes with logprobs", param="top_logprobs", hint="send logprobs: true")
    if body.modalities not in (None, ["text"]):
        raise HttpError("answers are text alone", param="modalities", kind="unsupported")


def _prepare(body: ChatBody, served: Served, call: Request, made: Chat) -> Prepared:
    """The prompt's tokens and the options; in a thread."""
    llm, server = served.llm, call.server.options
    options = sampling_options(body, llm, server)
    if body.logprobs:
        options["logprobs"] = body.top_logprobs or 0
    how: dict[str, Any] = {"template_variables": body.chat_template_kwargs or {}}
    if body.add_generation_prompt is not None:
        how["add_generation_prompt"] = body.add_generation_prompt
    if body.continue_final_message:
        how["continue_final_message"] = True

    def limit(prompt: int) -> int:
        return token_limit(body.limit, prompt, llm, server)

    return made.prepare(served, server, plain_messages(body.messages), options, limit, **how)


def _choice(index: int, result: Generation, texts: TokenTexts) -> dict[str, Any]:
    return {
        "index": index,
        "message": message(result.text, result.tool_calls),
        "logprobs": None if result.logprobs is None else texts.chat(result.logprobs),
        "finish_reason": "tool_calls" if result.tool_calls and result.finish_reason == "stop" else result.finish_reason,
    }


class _Row:
    """One answer as it comes.

    Args:
        texts: of tokens, where their log-probabilities are wanted.
    """

    def __init__(self, reader: Reader, texts: TokenTexts | None) -> None:
        self._reader, self._texts = reader, texts
        self._scores: list[TokenLogprob] = []

    def take(self, events: Sequence[StreamEvent]) -> list[tuple[dict[str, Any], Any, str | None]]:
        """What is to be sent of the next tokens: deltas, log-probabilities and why it ended.

        Log-probabilities go with the first delta that comes with their token or after it: text that may yet become a
        call of a tool is held back, and a call's own marks are in no delta.
        """
        found: list[tuple[dict[str, Any], Any, str | None]] = []
        self._scores += [event.logprob for event in events if event.logprob is not None]
        deltas = [made for piece in self._reader.take(events) if (made := delta(piece)) is not None]
        reason = events[-1].finish_reason
        if not deltas and reason is not None and self._texts is not None:
            deltas.append({"content": ""})
        for made in deltas:
            found.append((made, None if self._texts is None else self._texts.chat(self._scores), None))
            self._scores = []
        if reason is not None:
            found.append(({}, None, self._reader.reason(reason)))
        return found


async def _chunks(body: ChatBody, served: Served, ticket: Ticket, made: Chat) -> AsyncIterator[bytes]:
    """The answer's pieces as events; as many tokens in one as have come since the last."""
    begin = head("chat.completion.chunk", "chatcmpl", served)
    texts = TokenTexts.of(served.llm.tokenizer)
    more: dict[str, Any] = {"usage": None} if body.with_usage else {}

    def chunk(index: int, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return data({**begin, "choices": [choice], **more})

    rows = [_Row(made.reader(), texts if body.logprobs else None) for _ in range(body.rows)]
    begun = False
    async for events in ticket.events():
        if not begun:  # with the first token, so that what fails before has a status of its own
            begun = True
            yield b"".join(chunk(index, {"role": "assistant", "content": ""}) for index in range(body.rows))
        by_row: dict[int, list[StreamEvent]] = {}
        for event in events:
            by_row.setdefault(event.row, []).append(event)
        chunks = [chunk(index, *sent) for index, own in sorted(by_row.items()) for sent in rows[index].take(own)]
        if chunks:
            yield b"".join(chunks)
    if body.with_usage:
        yield data({**begin, "choices": [], "usage": usage(ticket, body.rows)})
    yield DONE
