"""One sequence that is being generated: its tokens, text and ending."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .logit_processing import LogitProcessor, Processing
from .options import GenerationOptions
from .outputs import FinishReason, Generation, GenerationStats, StreamEvent
from .sampling import Filters, TokenLogprob, check_processed, greedy, sample, token_logprob
from .streaming import StreamDecoder, TextAssembler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class _Plan:
    """What all rows of a request share.

    ``ending`` maps each id that ends a row to what is reported for it: itself, or the stop string that it is.
    """

    options: GenerationOptions
    filters: Filters | None
    processing: Processing
    ending: dict[int, int | str]
    stop_strings: tuple[str, ...]
    vocab_size: int


class GeneratedSequence:
    """One row of a request while it grows."""

    def __init__(
        self, row: int, prompt_ids: list[int], budget: int, plan: _Plan, decoder: StreamDecoder | None
    ) -> None:
        self.row = row
        self.prompt_ids = prompt_ids
        self.budget = budget
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self._plan = plan
        self._pieces: list[str] = []
        self._text = TextAssembler(decoder, plan.stop_strings)
        self._processor = LogitProcessor(plan.processing, plan.vocab_size, prompt_ids)

    @property
    def length(self) -> int:
        """Tokens of prompt and generated text together."""
        return len(self.prompt_ids) + len(self.token_ids)

    def take(self, logits: Floats) -> StreamEvent:
        """Choose the next token from the model's raw logits ``[vocab]``."""
        token_id = self._choose(logits)
        logprob = None
        if self._plan.options.logprobs is not None:
            logprob = token_logprob(logits, token_id, self._plan.options.logprobs)
            self.logprobs.append(logprob)
        self.token_ids.append(token_id)
        self._processor.append(token_id)
        text = self._advance(token_id)
        self._pieces.append(text)
        return StreamEvent(self.row, token_id, text, logprob, self.finish_reason)

    def _choose(self, logits: Floats) -> int:
        plan, step = self._plan, len(self.token_ids)
        processed = self._processor(logits)
        if processed is not logits:
            check_processed(float(logits.max()), float(processed.max()), row=self.row, step=step)
        if plan.filters is None:
            return greedy(processed, row=self.row, step=step)
        assert plan.options.seed is not None  # GenerationRun seeds the options
        return sample(processed, plan.filters, seed=plan.options.seed, row=self.row, step=step)

    def _advance(self, token_id: int) -> str:
        """Return the text that the token makes certain, and see whether it ends the sequence."""
        armed = len(self.token_ids) >= self._plan.options.min_new_tokens
        ended = token_id in self._plan.ending
        text = self._text.push(token_id, armed=armed)
        if self._text.matched is None and (ended or len(self.token_ids) >= self.budget):
            text += self._text.finish(armed=armed)
            self.finish_reason = "stop" if ended else "length"
            self.stop_reason = self._plan.ending[token_id] if ended else None
        if self._text.matched is not None:
            self.finish_reason, self.stop_reason = "stop", self._text.matched
        return text

    def result(self, stats: GenerationStats) -> Generation:
        """Return what was generated; only once it has finished."""
        assert self.finish_reason is not None
        options = self._plan.options
        return Generation(
            text="".join(self._pieces),
            token_ids=list(self.token_ids),
            finish_reason=self.finish_reason,
            prompt_token_ids=list(self.prompt_ids),
            stop_reason=self.stop_reason,
            logprobs=list(self.logprobs) if options.logprobs is not None else None,
            seed=options.seed,
            row=self.row,
            stats=stats,
        )
