"""What generation gives back: results, events of a stream, and how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..public import public
from ..tool_calls.protocol import ToolCall
from .sampling import TokenLogprob

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class GenerationStats:
    """How long one request took. Time spent by whoever consumes a stream is not counted.

    Attributes:
        prompt_tokens: tokens run in prefill; a prompt that occurs twice, or has several sequences, is run once.
        cached_tokens: tokens of prompts that were not run, as their keys and values were there from before.
        new_tokens: tokens generated, over all rows.
        proposed_tokens: tokens that were guessed, to check several in one pass; accepted_tokens: those that held.
        prefill_seconds: until the first token of each row was chosen.
        decode_seconds: for all the tokens after those.

    >>> GenerationStats(prompt_tokens=4, new_tokens=11, first_tokens=1, decode_seconds=2.0).tokens_per_second
    5.0
    """

    prompt_tokens: int = 0
    new_tokens: int = 0
    first_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    cached_tokens: int = 0
    proposed_tokens: int = 0
    accepted_tokens: int = 0

    def plus(self, **more: float) -> GenerationStats:
        """Counts and times with more added.

        >>> GenerationStats(new_tokens=2).plus(new_tokens=1).new_tokens
        3
        """
        return replace(self, **{name: getattr(self, name) + value for name, value in more.items()})

    @property
    def tokens_per_second(self) -> float | None:
        """Decoding speed over all rows, the first tokens (which prefill gives) left out; ``None`` before the second."""
        decoded = self.new_tokens - self.first_tokens
        return decoded / self.decode_seconds if decoded and self.decode_seconds else None

    @property
    def prompt_tokens_per_second(self) -> float | None:
        """Prefill speed; ``None`` before there is any."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else None


@dataclass(frozen=True)
class StreamEvent:
    """One generated token of one row.

    Attributes:
        row: the sequence's index in the request: prompt index * num_return_sequences + i.
        token_id: the token; the one that ended the sequence is an event too (an eos id has text only if shown).
        text: what became certain with it: empty in the middle of a character or of a possible stop string. The texts of
            a row concatenate to its :class:`Generation`'s text.
        finish_reason: set on a row's last event.
    """

    row: int
    token_id: int
    text: str
    logprob: TokenLogprob | None = None
    finish_reason: FinishReason | None = None


@public
@dataclass(frozen=True)
class Generation:
    """One generated sequence; ``str()`` of it is its text.

    Attributes:
        text: what was generated, so that prompt + text is ``decode(prompt_token_ids + token_ids)``, special tokens
            skipped. Where a stop string ended it, the text is cut before that string, which may be inside a token.
        token_ids: the generated ids, the one that ended the sequence (an eos or stop id) included.
        finish_reason: ``"stop"`` (an eos id, a stop id or a stop string) or ``"length"``, `max_time` included.
        stop_reason: the id or string that ended it; ``None`` for ``"length"``, and where a constraint let nothing
            follow.
        logprobs: one entry per token of `token_ids`, where asked for: of the model's own logits, before any processing.
        seed: what to pass to get the same again: the one given, else the one drawn; ``None`` if greedy needed none.
        row: its index in the request, which the noise is keyed by.
        score: of beam search, what texts were ranked by: the sum of log probabilities over a power of the length.
        stats: of the whole request.
        parsed: what a text under a constraint means: an instance of the pydantic model, the value of the JSON, the
            choice; ``None`` without a constraint, of regular expressions and grammars, and with a `parse_error`.
        parse_error: why the text is not what the constraint asks for: it was cut off, or a validator refuses it.
        tool_calls: of a chat with tools those that the model asks for; ``None`` without tools.
        tool_call_errors: why parts of the text that look like calls are none.

    >>> str(Generation("a story", [5, 6], "length", [1]))
    'a story'
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_token_ids: list[int]
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprob] | None = None
    seed: int | None = None
    row: int = 0
    score: float | None = None
    stats: GenerationStats = field(default=GenerationStats(), compare=False, repr=False)
    parsed: Any = field(default=None, compare=False)
    parse_error: str | None = field(default=None, compare=False)
    tool_calls: list[ToolCall] | None = None
    tool_call_errors: tuple[str, ...] = ()

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message of the conversation, for its next turn.

        >>> Generation("Hi", [5], "stop", [1]).message
        {'role': 'assistant', 'content': 'Hi'}
        """
        calls = {"tool_calls": [call.as_message() for call in self.tool_calls]} if self.tool_calls else {}
        return {"role": "assistant", "content": self.text, **calls}

    def __str__(self) -> str:
        return self.text


def by_prompt(results: Sequence[Generation], num_return_sequences: int) -> list[Any]:
    """Group results by prompt: each prompt has one Generation, or with ``num_return_sequences > 1`` a list of them.

    >>> a, b, c, d = (Generation(t, [], "length", []) for t in "abcd")
    >>> [[str(g) for g in group] for group in by_prompt([a, b, c, d], 2)]
    [['a', 'b'], ['c', 'd']]
    """
    n = num_return_sequences
    return list(results) if n == 1 else [list(results[i : i + n]) for i in range(0, len(results), n)]
