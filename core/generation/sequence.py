"""One sequence that is being generated: its tokens, text and ending."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import GenerationError, PolyllamaError, warn
from ..messages import counted
from .callables import NO_CODE, RowCriteria
from .constrained import Constrained, NothingPossible
from .frames import forget_frames
from .log_softmax import log_softmax
from .logit_processing import LogitProcessor
from .outputs import FinishReason, Generation, GenerationStats, StreamEvent
from .request_plan import Prompt, RequestPlan, least_new_tokens
from .sampling import TokenLogprob, check_processed, filter_logits, greedy, sample, token_logprob
from .streaming import StreamDecoder, TextAssembler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .beams import Beam, BeamSearch

    Floats = NDArray[np.floating[Any]]


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
        negative: ids of a second prompt, away from which the text is guided.
        error: why no token could be chosen.
        left: nobody wants it any more.
        ended: no token follows: it has finished, failed, or nobody wants it any more.
        proposer: what guesses the tokens that follow, if anything does; `proposed` and `accepted` count them.
        ahead: tokens that its beams have, as long as it has none of its own.
        score: of a text that a beam search has found; `beams`: of each token, the beam that it was chosen in.
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
        self.negative: Sequence[int] | None = None
        self.scores: Floats | None = None
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self.error: Exception | None = None
        self.left = self.ended = False
        self.proposer: Proposer | None = None
        self.proposed = self.accepted = 0
        self.ahead = 0
        self.score: float | None = None
        self.beams: list[int] = []
        self._plan = plan
        self._least = least_new_tokens(plan.options, prompt)
        self._pieces: list[str] = []
        self.text = TextAssembler(decoder, plan.stop_strings, before) if text is None else text
        # As transformers has it, a function of a beam is given the number of its prompt.
        number = row // plan.options.num_return_sequences if plan.options.num_beams > 1 else row
        custom, allowed, criteria = NO_CODE if plan.code is None else plan.code.of_row(prompt.ids, number)
        self._criteria: RowCriteria | None = criteria
        more = () if plan.constraint is None else (plan.constraint.start(prompt.ids),)
        own: dict[str, Any] = {"more": more, "custom": custom, "allowed": allowed}
        self._processor = LogitProcessor(plan.processing_of(prompt, budget), plan.vocab_size, prompt.ids, **own)

    @property
    def length(self) -> int:
        """Tokens of prompt and generated text together."""
        return self.prompt.length + len(self.token_ids) + self.ahead

    @property
    def remaining(self) -> int:
        """Tokens that it may still get."""
        return self.budget - len(self.token_ids) - self.ahead

    @property
    def to_run(self) -> Prompt:
        """What is run before the next token can be chosen, where nothing was: the prompt and all tokens so far."""
        if not self.token_ids:
            return self.prompt
        ids, counted = [*self.prompt.ids, *self.token_ids], self.prompt.counted + len(self.token_ids)
        return replace(self.prompt, ids=ids, counted=counted)

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
        if not isinstance(error, PolyllamaError) and error.__traceback__ is not None:
            error.add_note("".join(traceback.format_exception(error)).rstrip())
        forget_frames(error)
        self.error, self.ended = error, True

    def leave(self) -> None:
        """End here, as nobody wants more."""
        self.left = self.ended = True

    def out_of_time(self) -> None:
        """Let the next token be the last."""
        self.budget = min(self.budget, len(self.token_ids) + self.ahead + 1)

    # ---- beams

    def search(self) -> BeamSearch:
        """A search for the best texts of this row's prompt, of which the row is to get one: see :meth:`end_as`."""
        from .beams import Beam, BeamRules, BeamSearch

        plan, options = self._plan, self._plan.options
        rules = BeamRules(
            options.num_beams,
            plan.per_beam,
            options.length_penalty,
            options.early_stopping,
            self.budget,
            options.seed if options.do_sample else None,
            self.row // options.num_return_sequences * options.num_beams,
        )
        text = self.text.fork() if plan.stop_strings else None
        criteria = None if self._criteria is None else self._criteria.fork()
        return BeamSearch(Beam(self._processor.fork(), text, criteria), rules, self._ends)

    def _ends(self, beam: Beam) -> bool:
        """Whether a beam ends with its newest token."""
        matched = False
        if beam.text is not None:
            beam.text.push(beam.token_ids[-1], armed=len(beam.token_ids) >= self._least)
            matched = beam.text.matched is not None
        if beam.criteria is not None:
            beam.met = beam.criteria.met(beam.token_ids[-1], None)
        over = matched or beam.met is not None or beam.token_ids[-1] in self._plan.ending
        if over or self._plan.constraint is None or not np.isfinite(beam.score):
            return over
        state = beam.processor.find(Constrained)
        assert state is not None
        state = state.fork()
        state.append(beam.token_ids[-1])
        return state.finished

    def beam_scores(self, beam: Beam, logits: Floats) -> Floats:
        """What a beam's next tokens ``[vocab]`` add to its score, by raw logits: processed log probabilities.

        Raises:
            GenerationError: the model's logits are no numbers, or penalties make them overflow.
        """
        if self._plan.masked is not None:
            logits = logits.copy()
            logits[self._plan.masked] = -np.inf
        raw, step = float(logits.max()), len(beam.token_ids)
        numbers = not self._plan.options.remove_invalid_values
        if numbers:
            check_processed(raw, raw, row=self.row, step=step)
        constrained = None if self._plan.constraint is None else beam.processor.find(Constrained)
        if constrained is not None and constrained.finished:  # it has ended, and is here for want of another
            return np.full(len(logits), -np.inf, np.float32)
        try:
            row = beam.processor(log_softmax(logits, np.float32))
        except NothingPossible:  # others may go on
            return np.full(len(logits), -np.inf, np.float32)
        if numbers:
            check_processed(raw, float(row.max()), row=self.row, step=step)
        if np.isneginf(row.max()):
            return row.astype(np.float32)
        return self._filtered(row)

    def beam_logprob(self, logits: Floats, token_id: int) -> TokenLogprob:
        """What is reported of a beam's token."""
        assert self._plan.options.logprobs is not None
        if self._plan.masked is not None:
            logits = logits.copy()
            logits[self._plan.masked] = -np.inf
        return token_logprob(logits, token_id, self._plan.options.logprobs)

    def end_as(self, beam: Beam, score: float) -> list[StreamEvent]:
        """End as a text that a beam search has found; its tokens as events."""
        self.ahead, self.score, self.beams = 0, score, list(beam.parents)
        if self._plan.constraint is not None:
            self._processor = beam.processor.fork()
            self._processor.append(beam.token_ids[-1])
        reports: list[Any] = [*beam.logprobs] or [None] * len(beam.token_ids)
        events = []
        for token_id, logprob in zip(beam.token_ids, reports, strict=True):
            if logprob is not None:
                self.logprobs.append(logprob)
            self.token_ids.append(token_id)
            last = len(self.token_ids) == len(beam.token_ids)
            text = self._advance(token_id, beam.met, last) if last else self._pushed(token_id)
            self._pieces.append(text)
            events.append(StreamEvent(self.row, token_id, text, logprob, self.finish_reason if last else None))
        return events

    # ---- tokens of its own

    def take(self, logits: Floats, guided: Floats | None = None) -> StreamEvent:
        """Choose the next token from the model's raw logits ``[vocab]``.

        Args:
            guided: what is chosen from in their place, where a second prompt has changed them.
        """
        logits = self._without_masked(logits)
        processed = self._processed(logits if guided is None else self._without_masked(guided))
        token_id = self._choose(processed)
        if self._plan.record:
            self.scores = self._scored(processed)
        logprob = None
        if self._plan.options.logprobs is not None:
            logprob = token_logprob(logits, token_id, self._plan.options.logprobs)
            self.logprobs.append(logprob)
        self.token_ids.append(token_id)
        self._processor.append(token_id)
        met = None if self._criteria is None else self._criteria.met(token_id, self.scores)
        text = self._advance(token_id, met)
        self._pieces.append(text)
        return StreamEvent(self.row, token_id, text, logprob, self.finish_reason)

    def pad(self, logits: Floats, pad_token_id: int) -> None:
        """Keep the scores of a step after the end, which goes on with padding as transformers' does."""
        if (constrained := self._constrained) is not None:
            constrained.close()
        self.scores = self._scored(self._processor(self._without_masked(logits)))
        self._processor.append(pad_token_id)

    def _without_masked(self, logits: Floats) -> Floats:
        """The logits without those of ids that stand for no token."""
        if self._plan.masked is None:
            return logits
        logits = logits.copy()
        logits[self._plan.masked] = -np.inf
        return logits

    def _scored(self, processed: Floats) -> Floats:
        """The logits ``[vocab]`` as a token is chosen by them: processed, what filters leave out at -inf."""
        return self._filtered(processed)

    def _filtered(self, row: Floats) -> Floats:
        """Processed logits with temperature, what filters leave out at -inf, and normalized where that is asked for."""
        if self._plan.filters is None and not self._plan.options.renormalize_logits:
            return row.astype(np.float32, copy=False)
        row = row.astype(np.float64)
        filters = self._plan.filters
        if filters is not None:
            kept = filter_logits(row, filters).token_ids
            scaled = np.full_like(row, -np.inf)
            scaled[kept] = row[kept] / filters.temperature
            row = scaled
        if self._plan.options.renormalize_logits:
            row = row - row.max()
            row -= np.log(np.exp(row).sum())
        with np.errstate(over="ignore"):
            return row.astype(np.float32)

    def _processed(self, logits: Floats) -> Floats:
        """The logits after all that changes them, checked."""
        processed = self._processor(logits)
        if processed is not logits and not self._plan.options.remove_invalid_values:
            check_processed(float(logits.max()), float(processed.max()), row=self.row, step=len(self.token_ids))
        return processed

    def _choose(self, processed: Floats) -> int:
        plan, step = self._plan, len(self.token_ids)
        if plan.filters is None:
            return greedy(processed, row=self.row, step=step)
        assert plan.options.seed is not None  # GenerationRun seeds the options
        return sample(processed, plan.filters, seed=plan.options.seed, row=self.row, step=step)

    def _pushed(self, token_id: int) -> str:
        """The text that the newest token makes certain."""
        return self.text.push(token_id, armed=len(self.token_ids) >= self._least)

    def _advance(self, token_id: int, met: str | None, last: bool = False) -> str:
        """Return the text that the token makes certain, and see whether it ends the sequence, as the `last` does.

        Args:
            met: the criterion of the caller's that says so.
        """
        armed = len(self.token_ids) >= self._least
        ended = token_id in self._plan.ending or met is not None
        over = ended or self._nothing_follows()
        text = self._pushed(token_id)
        if self.text.matched is None and (last or over or len(self.token_ids) >= self.budget):
            if over or not self._plan.open_end:
                text += self.text.finish(armed=armed)
            self.finish_reason = "stop" if over else "length"
            self.stop_reason = self._plan.ending.get(token_id, met) if ended else None
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
                f"{self._plan.constraint.asked.name} lets nothing follow after "
                f"{counted(len(self.token_ids), 'token')}, and at least {self._least} are asked for",
                hint="give a smaller min_new_tokens or min_length",
            )
        return True

    def _ended_by(self) -> str:
        """What ended it, as messages say it."""
        reason = self.stop_reason
        if reason is None:
            return "a limit on its length or time"
        if not isinstance(reason, str):
            return f"stop id {reason}"
        by_text = self.text.matched is not None or self.token_ids[-1] in self._plan.ending
        return f"the stop string {reason!r}" if by_text else f"the stopping criterion {reason}"

    def result(self, stats: GenerationStats) -> Generation:
        """Return what was generated; only once it has finished."""
        assert self.finish_reason is not None
        options = self._plan.options
        parsed, error = None, None
        if (constrained := self._constrained) is not None:
            parsed, error = constrained.outcome(self.token_ids, self.text.matched, self._ended_by())
        return Generation(
            text="".join(self._pieces),
            token_ids=list(self.token_ids),
            finish_reason=self.finish_reason,
            prompt_token_ids=list(self.prompt.ids),
            stop_reason=self.stop_reason,
            logprobs=list(self.logprobs) if options.logprobs is not None else None,
            seed=options.seed,
            row=self.row,
            score=self.score,
            stats=stats,
            parsed=parsed,
            parse_error=error,
        )
