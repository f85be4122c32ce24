"""``/v1/completions``: texts or token ids in, what follows them out, whole or as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ....core.http_interface import HttpError, Streamed
from ..fields import no_effect
from ..limits import token_limit
from .errors import stream_error
from .logprobs import TokenTexts
from .prompt_scores import PromptScores, score_prompt
from .sampling import SamplingBody, Token, sampling_options
from .usage import DONE, data, head, usage

if TYPE_CHECKING:
    from ....core.generation.outputs import StreamEvent
    from ..answering import Request
    from ..engine import Ticket
    from ..hub import Served

DEFAULT_TOKENS = 16
"""New tokens where a request names no number, as OpenAI has it."""

MOST_PROMPTS = 256
"""Prompts of a request."""


class CompletionBody(SamplingBody):
    """Texts, and how they are to go on."""

    prompt: str | list[str] | list[Token] | list[list[Token]]
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    service_tier: Any = no_effect()

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt by itself."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            return [prompt]
        return list(prompt)


class Prompts:
    """The prompts of a request as ids, once they have been read."""

    def __init__(self) -> None:
        self.ids: list[list[int]] = []
        self.texts: list[str] = []
        self.scores: list[PromptScores] = []

    def read(self, body: CompletionBody, served: Served) -> None:
        """Make ids of texts; in a thread."""
        tokenizer = served.llm.tokenizer
        for prompt in body.prompts:
            ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
            if not ids and tokenizer.bos_token_id is not None:
                ids = [tokenizer.bos_token_id]
            self.ids.append(list(ids))
            if body.echo:
                self.texts.append(prompt if isinstance(prompt, str) else tokenizer.decode(ids))
        if body.echo and body.logprobs is not None:
            self.scores = [score_prompt(served.llm, ids, body.logprobs, **served.chosen) for ids in self.ids]


async def complete(call: Request) -> Any:
    """Go on with texts."""
    body: CompletionBody = call.body
    _refuse(body)
    served = await call.model(body.model)
    prompts = Prompts()
    if body.max_tokens == 0:
        return await _only_scored(body, served, call, prompts)
    ticket = await served.generate(lambda: _prepare(body, served, call, prompts), body.rows * len(body.prompts))
    texts = TokenTexts.of(served.llm.tokenizer)
    if body.stream:
        return Streamed(_chunks(body, served, ticket, prompts), failed=stream_error)
    choices = []
    for index, result in enumerate(await ticket.results()):
        echoed = prompts.texts[index // body.rows] if body.echo else ""
        logprobs = None
        if body.logprobs is not None:
            scores = prompts.scores[index // body.rows] if prompts.scores else PromptScores([], [])
            logprobs = texts.completion([*scores.logprobs, *(result.logprobs or [])], scores.ids + result.token_ids, 0)
        choices.append(_choice(index, echoed + result.text, logprobs, result.finish_reason))
    return {**head("text_completion", "cmpl", served), "choices": choices, "usage": usage(ticket, body.rows)}


def _refuse(body: CompletionBody) -> None:
    """Say what is not offered, before a model is loaded."""
    if body.suffix:
        raise HttpError("suffix is not offered: the model goes on at the end alone", param="suffix", kind="unsupported")
    if body.best_of not in (None, 1, body.rows):
        raise HttpError("best_of is not offered", param="best_of", kind="unsupported", hint="ask for n and choose")
    if not body.prompts or len(body.prompts) > MOST_PROMPTS:
        raise HttpError(f"prompt holds {len(body.prompts)} prompts, wanted 1 to {MOST_PROMPTS}", param="prompt")
    if body.max_tokens == 0 and not body.echo:
        raise HttpError("max_tokens=0 without echo gives nothing", param="max_tokens")


def _prepare(
    body: CompletionBody, served: Served, call: Request, prompts: Prompts
) -> tuple[Sequence[Sequence[int]], Mapping[str, Any]]:
    """The prompts' tokens and the options; in a thread."""
    llm, server = served.llm, call.server.options
    options = sampling_options(body, llm, server)
    if body.logprobs is not None:
        options["logprobs"] = body.logprobs
    prompts.read(body, served)
    longest = max(map(len, prompts.ids))
    how: dict[str, Any] = {"otherwise": DEFAULT_TOKENS, "names": ("max_tokens", "prompt")}
    options["max_new_tokens"] = token_limit(body.max_tokens, longest, llm, server, **how)
    return prompts.ids, options


async def _only_scored(body: CompletionBody, served: Served, call: Request, prompts: Prompts) -> Any:
    """The prompts themselves, with how likely the model finds them."""
    await call.run(prompts.read, body, served)
    texts = TokenTexts.of(served.llm.tokenizer)
    choices = []
    for index, text in enumerate(prompts.texts):
        scores = prompts.scores[index] if prompts.scores else None
        logprobs = None if scores is None else texts.completion(scores.logprobs, scores.ids, 0)
        choices += [_choice(index * body.rows + n, text, logprobs, "length") for n in range(body.rows)]
    count = sum(map(len, prompts.ids))
    counts = {"prompt_tokens": count, "completion_tokens": 0, "total_tokens": count}
    whole = {**head("text_completion", "cmpl", served), "choices": choices, "usage": counts}
    if not body.stream:
        return whole

    async def pieces() -> AsyncIterator[bytes]:
        yield data({name: value for name, value in whole.items() if name != "usage"})
        if body.with_usage:
            yield data({**whole, "choices": []})
        yield DONE

    return Streamed(pieces(), failed=stream_error)


def _choice(index: int, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


async def _chunks(body: CompletionBody, served: Served, ticket: Ticket, prompts: Prompts) -> AsyncIterator[bytes]:
    """The texts' pieces as events; as many tokens in one as have come since the last."""
    begin = head("text_completion", "cmpl", served)
    texts = TokenTexts.of(served.llm.tokenizer)
    more: dict[str, Any] = {"usage": None} if body.with_usage else {}
    count = body.rows * len(prompts.ids)
    held: dict[int, list[StreamEvent]] = {index: [] for index in range(count)}
    written = dict.fromkeys(held, 0)

    def chunk(index: int, text: str, logprobs: Any = None, reason: str | None = None) -> bytes:
        return data({**begin, "choices": [_choice(index, text, logprobs, reason)], **more})

    def echoed() -> bytes:
        made = []
        for index in held:
            text, logprobs = prompts.texts[index // body.rows], None
            if prompts.scores:
                scores = prompts.scores[index // body.rows]
                logprobs = texts.completion(scores.logprobs, scores.ids, 0)
                written[index] = sum(map(len, logprobs["tokens"]))
            made.append(chunk(index, text, logprobs))
        return b"".join(made)

    begun = False
    async for events in ticket.events():
        if body.echo and not begun:
            yield echoed()
        begun = True
        for event in events:
            held[event.row].append(event)
        made = []
        for index, own in held.items():
            text = "".join(event.text for event in own)
            reason = own[-1].finish_reason if own else None
            if not text and reason is None:
                continue
            logprobs = None
            if body.logprobs is not None:
                ids = [event.token_id for event in own]
                logprobs = texts.completion([event.logprob for event in own], ids, written[index])
                written[index] += sum(map(len, logprobs["tokens"]))
            made.append(chunk(index, text, logprobs, reason))
            own.clear()
        if made:
            yield b"".join(made)
    if body.with_usage:
        yield data({**begin, "choices": [], "usage": usage(ticket, body.rows)})
    yield DONE
