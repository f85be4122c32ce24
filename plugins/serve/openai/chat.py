"""``/v1/chat/completions``: a conversation in, its answer out, whole or as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ....core.http_interface import HttpError, Streamed
from ..fields import no_effect
from ..limits import token_limit
from .errors import stream_error
from .logprobs import TokenTexts
from .messages import ChatMessage, plain_messages
from .sampling import SamplingBody, sampling_options
from .usage import DONE, data, head, usage

if TYPE_CHECKING:
    from ....core.generation.outputs import Generation, StreamEvent
    from ..answering import Request
    from ..engine import Ticket
    from ..hub import Served


class ChatBody(SamplingBody):
    """A conversation, and how it is to be answered."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
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
    ticket = await served.generate(lambda: _prepare(body, served, call), body.rows)
    if body.stream:
        return Streamed(_chunks(body, served, ticket), failed=stream_error)
    results = await ticket.results()
    texts = TokenTexts.of(served.llm.tokenizer)
    choices = [_choice(index, result, texts) for index, result in enumerate(results)]
    return {**head("chat.completion", "chatcmpl", served), "choices": choices, "usage": usage(ticket, body.rows)}


def _refuse(body: ChatBody) -> None:
    """Say what is not offered, before a model is loaded."""
    if body.tools and body.tool_choice != "none":
        raise HttpError("tools are not offered by this version", param="tools", kind="unsupported")
    if body.top_logprobs and not body.logprobs:
        raise HttpError("top_logprobs goes with logprobs", param="top_logprobs", hint="send logprobs: true")
    if body.modalities not in (None, ["text"]):
        raise HttpError("answers are text alone", param="modalities", kind="unsupported")


def _prepare(body: ChatBody, served: Served, call: Request) -> tuple[Sequence[Sequence[int]], Mapping[str, Any]]:
    """The prompt's tokens and the options; in a thread."""
    llm, server = served.llm, call.server.options
    options = sampling_options(body, llm, server)
    if body.logprobs:
        options["logprobs"] = body.top_logprobs or 0
    how: dict[str, Any] = {}
    if body.add_generation_prompt is not None:
        how["add_generation_prompt"] = body.add_generation_prompt
    if body.continue_final_message:
        how["continue_final_message"] = True
    variables = body.chat_template_kwargs or {}
    ids = llm.chat_prompt(plain_messages(body.messages), template_variables=variables, **how)
    options["max_new_tokens"] = token_limit(body.limit, len(ids), llm, server)
    return [ids], options


def _choice(index: int, result: Generation, texts: TokenTexts) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": result.text, "refusal": None},
        "logprobs": None if result.logprobs is None else texts.chat(result.logprobs),
        "finish_reason": result.finish_reason,
    }


async def _chunks(body: ChatBody, served: Served, ticket: Ticket) -> AsyncIterator[bytes]:
    """The answer's pieces as events; as many tokens in one as have come since the last."""
    begin = head("chat.completion.chunk", "chatcmpl", served)
    texts = TokenTexts.of(served.llm.tokenizer)
    more: dict[str, Any] = {"usage": None} if body.with_usage else {}

    def chunk(index: int, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return data({**begin, "choices": [choice], **more})

    held: dict[int, list[StreamEvent]] = {index: [] for index in range(body.rows)}
    begun = False
    async for events in ticket.events():
        if not begun:  # with the first token, so that what fails before has a status of its own
            begun = True
            yield b"".join(chunk(index, {"role": "assistant", "content": ""}) for index in held)
        for event in events:
            held[event.row].append(event)
        made = []
        for index, own in held.items():
            text = "".join(event.text for event in own)
            ended = bool(own) and own[-1].finish_reason is not None
            if text or (ended and body.logprobs):
                logprobs = texts.chat([event.logprob for event in own if event.logprob]) if body.logprobs else None
                made.append(chunk(index, {"content": text}, logprobs))
            if ended:
                made.append(chunk(index, {}, None, own[-1].finish_reason))
            if text or ended:
                own.clear()
        if made:
            yield b"".join(made)
    if body.with_usage:
        yield data({**begin, "choices": [], "usage": usage(ticket, body.rows)})
    yield DONE
