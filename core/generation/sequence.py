"""One sequence that is being generated: its tokens, text and ending."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import GenerationError, PolyllamaError, warn
from .constrained import Constrained, Constraint
from .logit_processing import LogitProcessor, Processing
from .options import GenerationOptions
from .outputs import FinishReason, Generation, GenerationStats, StreamEvent
from .sampling import Filters, TokenLogprob, check_processed, filter_logits, greedy, sample, token_logprob
from .streaming import StreamDecoder, TextAssembler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a sequence begins with.

    Attributes:
        ids: the ids that are known of it, padding left out: penalties look at them, and so do results.
        embeds: ``[n, hidden_size]``, what the model is given in their place, where it is given that.
        counted: its length as limits on prompt and text together count it; in an array padding counts.
    """

    ids: list[int]
    embeds: Floats | None = None
    counted: int = 0

    @property
    def length(self) -> int:
        """Places that it takes in the model."""
        return len(self.ids) if self.embeds is None else len(self.embeds)


@dataclass(frozen=True)
class RequestPlan:
    """What all rows of a request share.

    ``ending`` maps each id that ends a row to what is reported for it: itself, or the stop string that it is.
    ``masked`` are ids that stand for no token, treated as if the vocabulary did not have them; None if there are none.
    With ``open_end`` a row that reaches its budget keeps back what is not certain, for a text that goes on. ``record``
    keeps every step's scores. `constraint` is what the texts are held to.
    """

    options: GenerationOptions
    filters: Filters | None
    processing: Processing
    ending: dict[int, int | str]
    stop_strings: tuple[str, ...]
    vocab_size: int
    masked: NDArray[np.int64] | None = None
    open_end: bool = False
    record: bool = False
    constraint: Constraint | None = None


class Proposer(Protocol):
    """Guesses what follows, so that one pass can check several tokens."""

    def propose(self, most: int) -> list[int]:
        """Up to so many tokens that are likely to follow; none where there is no good guess."""
        ...

    def learn(self, proposed: int, accepted: int, token_ids: Sequence[int]) -> None:
        """So many of the proposed tokens did follow; `token_ids` are all that were generated."""
        ...


class GeneratedSequence:
    """One row of a request while it grows.

    Attributes:
        error: why no token could be chosen.
        left: nobody wants it any more.
        ended: no token follows: it has finished, failed, or nobody wants it any more.
        proposer: what guesses the tokens that follow, if anything does; `proposed` and `accepted` count them.
    """

    def __init__(
        self,
        row: int,
        prompt: Prompt,
        budget: int,
        plan: RequestPlan,
        decoder: StreamDecoder | None,
        text: TextAssembler | None = None,
        before: str = "",
    ) -> None:
        self.row = row
        self.prompt = prompt
        self.budget = budget
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.scores: Floats | None = None
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self.error: Exception | None = None
        self.left = self.ended = False
        self.proposer: Proposer | None = None
        self.proposed = self.accepted = 0
        self._plan = plan
        self._least = least_new_tokens(plan.options, prompt)
        self._pieces: list[str] = []
        self.text = TextAssembler(decoder, plan.stop_strings, before) if text is None else text
        processing = plan.processing
        if self._least != processing.min_new_tokens:
            processing = replace(processing, min_new_tokens=self._least)
        more = () if plan.constraint is None else (plan.constraint.start(prompt.ids),)
        self._processor = LogitProcessor(processing, plan.vocab_size, prompt.ids, more)

    @property
    def length(self) -> int:
        """Tokens of prompt and generated text together."""
        return self.prompt.length + len(self.token_ids)

    @property
    def remaining(self) -> int:
        """Tokens that it may still get."""
        return self.budget - len(self.token_ids)

    @property
    def to_run(self) -> Prompt:
        """What is run before the next token can be chosen, where nothing was: the prompt and all tokens so far."""
        if not self.token_ids:
            return self.prompt
        return Prompt([*self.prompt.ids, *self.token_ids], counted=self.prompt.counted + len(self.token_ids))

    @property
    def _constrained(self) -> Constrained | None:
        """Where the row is in what it is held to."""
        return None if self._plan.constraint is None else self._processor.find(Constrained)

    def next_inputs(self, most: int) -> list[int]:
        """The newest token, and up to `most` behind it that are likely to follow."""
        most = min(most, self.remaining - 1)
        if self.ended or self.proposer is None or most < 1:
            return self.token_ids[-1:]
        try:
            return [self.token_ids[-1], *self.proposer.propose(most)]
        except Exception as error:
            self.proposer = None
            warn(f"what guesses tokens failed, and guesses no more: {error}")
            return self.token_ids[-1:]

    def prepare(self) -> None:
        """Find out what may follow, while the model runs; what goes wrong is said when the token is chosen."""
        constrained = None if self.ended else self._constrained
        if constrained is not None:
            with suppress(Exception):
                constrained.allowed()

    def proposals_were(self, proposed: int, accepted: int) -> None:
        """Of the tokens behind the newest so many were what followed."""
        self.proposed += proposed
        self.accepted += accepted
        if self.proposer is not None:
            self.proposer.learn(proposed, accepted, self.token_ids)

    def fail(self, error: Exception) -> None:
        """End here, as no token can be chosen."""
        # Its traceback holds the batch, and so all keys and values, for as long as somebody holds the error.
        if not isinstance(error, PolyllamaError) and error.__traceback__ is not None:
            error.add_note("".join(traceback.format_exception(error)).rstrip())
        self.error, self.ended = error.with_traceback(None), True

    def leave(self) -> None:
        """End here, as nobody wants more."""
        self.left = self.ended = True

    def out_of_time(self) -> None:
        """Let the next token be the last."""
        self.budget = min(self.budget, len(self.token_ids) + 1)

    def take(self, logits: Floats) -> StreamEvent:
        """Choose the next token from the model's raw logits ``[vocab]``."""
        if self._plan.masked is not None:
            logits = logits.copy()
            logits[self._plan.masked] = -np.inf
        token_id = self._choose(logits)
        if self._plan.record:
            self.scores = self._scored(logits)
        logprob = None
        if self._plan.options.logprobs is not None:
            logprob = token_logprob(logits, token_id, self._plan.options.logprobs)
            self.logprobs.append(logprob)
        self.token_ids.append(token_id)
        self._processor.append(token_id)
        text = self._advance(token_id)
        self._pieces.append(text)
        return StreamEvent(self.row, token_id, text, logprob, self.finish_reason)

    def pad(self, logits: Floats, pad_token_id: int) -> None:
        """Keep the scores of a step after the end, which goes on with padding as transformers' does."""
        if self._plan.masked is not None:
            logits = logits.copy()
            logits[self._plan.masked] = -np.inf
        if (constrained := self._constrained) is not None:
            constrained.close()
        self.scores = self._scored(logits)
        self._processor.append(pad_token_id)

    def _scored(self, logits: Floats) -> Floats:
        """The logits ``[vocab]`` as a token is chosen by them: processed, what filters leave out at -inf."""
        row = self._processor(logits).astype(np.float64)
        filters = self._plan.filters
        if filters is not None:
            kept = filter_logits(row, filters).token_ids
            scaled = np.full_like(row, -np.inf)
            scaled[kept] = row[kept] / filters.temperature
            row = scaled
        if self._plan.options.renormalize_logits:
            row = row - row.max()
            row -= np.log(np.exp(row).sum())
        return row.astype(np.float32)

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
        armed = len(self.token_ids) >= self._least
        ended = token_id in self._plan.ending
        over = ended or self._nothing_follows()
        text = self.text.push(token_id, armed=armed)
        if self.text.matched is None and (over or len(self.token_ids) >= self.budget):
            if over or not self._plan.open_end:
                text += self.text.finish(armed=armed)
            self.finish_reason = "stop" if over else "length"
            self.stop_reason = self._plan.ending[token_id] if ended else None
        if self.text.matched is not None:
            self.finish_reason, self.stop_reason = "stop", self.text.matched
        if self.finish_reason is not None:  # never the other way: somebody may have left meanwhile
            self.ended = True
        return text

    def _nothing_follows(self) -> bool:
        """Whether a constraint lets nothing but the end follow."""
        constrained = self._constrained
        if constrained is None or not constrained.finished:
            return False
        if len(self.token_ids) < self._least and self._plan.constraint is not None:
            raise GenerationError(
                f"{self._plan.constraint.asked.kind} lets nothing follow after {len(self.token_ids)} tokens, and at "
                f"least {self._least} are asked for",
                hint="give a smaller min_new_tokens or min_length",
            )
        return True

    def result(self, stats: GenerationStats) -> Generation:
        """Return what was generated; only once it has finished."""
        assert self.finish_reason is not None
        options = self._plan.options
        parsed, error = None, None
        if (constrained := self._constrained) is not None:
            parsed, error = constrained.outcome(self.token_ids, self.stop_reason)
        return Generation(
            text="".join(self._pieces),
            token_ids=list(self.token_ids),
            finish_reason=self.finish_reason,
            prompt_token_ids=list(self.prompt.ids),
            stop_reason=self.stop_reason,
            logprobs=list(self.logprobs) if options.logprobs is not None else None,
            seed=options.seed,
            row=self.row,
            stats=stats,
            parsed=parsed,
            parse_error=error,
        )


def least_new_tokens(options: GenerationOptions, prompt: Prompt) -> int:
    """How many tokens are generated before one may end the sequence."""
    return options.min_new_tokens or max(options.min_length - prompt.counted, 0)
