"""Beam search over one prompt: which texts go on, which have ended, and when no better one can come.

It is what transformers' ``_beam_search`` computes, in float32 as there: log probabilities add up, each step takes the
best continuations of all beams together, and a text that ends is ranked by its sum over its generated length to the
power of `length_penalty`. There is no model in here: scores go in, and which beam each goes on from comes out.

Where two are equally good the one of the lower beam, then of the lower id, goes first; transformers leaves that to
``torch.topk``, which promises no order. Sampling beams draw without replacement by the Gumbel top-k trick (Kool et al.
2019, "Stochastic Beams and Where to Find Them"), with the noise of ``sampling.py``: the distribution is that of
transformers' ``multinomial``, and the draws are the same on every backend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import GenerationError
from ..messages import mention
from .sampling import TokenLogprob, best, gumbel_noise, noise_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .callables import RowCriteria
    from .logit_processing import LogitProcessor
    from .streaming import TextAssembler

    Floats = NDArray[np.float32]
    Indices = NDArray[np.int64]

NOWHERE = np.float32(-1e9)
"""What is added to a score that is not to be chosen while there is another."""


@dataclass(frozen=True)
class BeamRules:
    """What a beam search goes by.

    Attributes:
        beams: texts that go on at a time, and that are kept once they have ended.
        per_beam: continuations that are looked at, by beam: one more than ids that end a text, and 2 at least, so that
            as many texts go on as there are beams.
        length_penalty: above 0 favours long texts, below 0 short ones.
        early_stopping: ``True`` ends with the first `beams` texts that have ended; ``False`` when no running text would
            be better if it ended now; ``"never"`` when none could become better.
        longest: tokens that a text may get.
        seed: of the noise, where continuations are drawn and not the best ones taken.
        row: number of the first beam in its request, which the noise is keyed by.
    """

    beams: int
    per_beam: int = 2
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    longest: int = 1 << 30
    seed: int | None = None
    row: int = 0


@dataclass
class Beam:
    """A text that goes on, or has ended.

    Attributes:
        places: of each token, the beam that it was run in: two texts are one as long as these are the same.
        parents: of each token, the beam that it was chosen in.
        processor: changes its logits; `text` finds stop strings, `criteria` are the caller's, where there are any.
        met: the criterion of the caller's that ends it.
    """

    processor: LogitProcessor
    text: TextAssembler | None = None
    criteria: RowCriteria | None = None
    met: str | None = None
    token_ids: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    score: np.float32 = field(default_factory=np.float32)

    def common(self, other: Beam) -> int:
        """How many tokens two texts have in common, as keys and values.

        >>> one, two = (Beam(None, places=list(places)) for places in ((0, 2, 1), (0, 2, 0)))
        >>> one.common(two)
        2
        """
        count = min(len(self.places), len(other.places))
        while count and self.places[count - 1] != other.places[count - 1]:  # those before the same are the same
            count -= 1
        return count

    def extended(self, parent: int, token_id: int, score: np.float32) -> Beam:
        """The text with another token; its processor is still this one's."""
        return dataclasses.replace(
            self,
            text=None if self.text is None else self.text.fork(),
            criteria=None if self.criteria is None else self.criteria.fork(),
            token_ids=[*self.token_ids, token_id],
            parents=[*self.parents, parent],
            score=score,
        )


class Ended(NamedTuple):
    """A text that has ended, or ``None`` in a place where there is none yet."""

    score: np.float32
    beam: Beam | None


class BeamSearch:
    """The beams of one prompt.

    Attributes:
        running: the texts that go on, best first.
        ended: those that have ended, best first; as many places as beams.
        done: no better one can come.
        steps: tokens so far.

    Args:
        first: the text that all begin as.
        ends: takes the newest token of a text into account, and says whether the text ends with it.

    >>> from polyllama.core.generation.logit_processing import LogitProcessor, Processing
    >>> first = Beam(LogitProcessor(Processing(), vocab_size=3, prompt_ids=[]))
    >>> search = BeamSearch(first, BeamRules(beams=2, longest=2), lambda beam: False)
    >>> search.step(np.log(np.array([[0.6, 0.3, 0.1]] * 2, np.float32)))
    [0, 0]
    >>> [beam.token_ids for beam in search.running]
    [[0], [1]]
    >>> _ = search.step(np.log(np.array([[0.4, 0.4, 0.2], [0.0001, 0.0099, 0.99]], np.float32)))
    >>> search.done, [end.beam.token_ids for end in search.ended]
    (True, [[1, 2], [0, 0]])
    """

    def __init__(self, first: Beam, rules: BeamRules, ends: Callable[[Beam], bool]) -> None:
        self.rules, self._ends = rules, ends
        self.running = [first, *(self._fork(first) for _ in range(rules.beams - 1))]
        for beam in self.running[1:]:
            beam.score = NOWHERE  # all are the same text still, so one of them counts
        self.ended = [Ended(NOWHERE, None)] * rules.beams
        self.done = False
        self.steps = 0
        self._longest = rules.longest
        self._improves = True

    def out_of_time(self) -> None:
        """Let the next token of every text be its last."""
        self._longest = self.steps + 1

    def step(self, scores: NDArray[Any], logprobs: Callable[[int, int], TokenLogprob] | None = None) -> list[int]:
        """Choose the next tokens; returns the beam that each running text was before.

        Args:
            scores: ``[beams, vocab]``, log probabilities as they are to be added.
            logprobs: what to report of a beam and a token.

        Raises:
            GenerationError: no token is possible in any beam.
        """
        rules = self.rules
        totals = scores.astype(np.float32) + np.array([[beam.score] for beam in self.running], np.float32)
        if not np.isfinite(totals.max()):
            raise GenerationError(
                f"step {self.steps}: no token is possible in any of {rules.beams} beams",
                hint="loosen logit_bias, penalties, "
                + mention("no_repeat_ngram_size")
                + " or "
                + mention("min_new_tokens"),
            )
        values, indices = self._continuations(totals)
        parents, tokens = (part.tolist() for part in np.divmod(indices, totals.shape[1]))
        candidates = [self._candidate(*found) for found in zip(parents, tokens, values, strict=True)]
        self.steps += 1
        last = self.steps >= self._longest
        ends = np.array([last or self._ends(beam) for beam in candidates])
        open_values = values + np.where(ends, NOWHERE, np.float32(0))
        going_on = best(open_values, rules.beams).tolist()
        if logprobs is not None:
            for place in {*going_on, *np.flatnonzero(ends).tolist()}:
                beam = candidates[place]
                beam.logprobs = [*beam.logprobs, logprobs(parents[place], tokens[place])]
        self._keep_best(candidates, values, ends)
        self.running = self._go_on(candidates, going_on, open_values)
        self._improves = self._improves and self._may_improve()
        full = rules.early_stopping is True and self._full
        self.done = self.done or not self._improves or full or bool((ends | ~np.isfinite(values)).all())
        return [parents[place] for place in going_on]

    @property
    def _full(self) -> bool:
        return all(end.beam is not None for end in self.ended)

    def _continuations(self, totals: NDArray[np.float32]) -> tuple[Floats, Indices]:
        """The best continuations of all beams, or some that are drawn: their scores and places in `totals`."""
        rules, flat = self.rules, totals.reshape(-1)
        count = min(rules.per_beam * rules.beams, flat.size)
        if rules.seed is None:
            chosen = best(flat, count)
        else:
            noisy = np.full(totals.shape, -np.inf)
            for beam, row in enumerate(totals):
                possible = np.flatnonzero(np.isfinite(row))
                key = noise_key(rules.seed, rules.row + beam, self.steps)
                noisy[beam, possible] = row[possible] + gumbel_noise(key, possible)
            chosen = best(noisy.reshape(-1), count)
        return flat[chosen], chosen

    def _candidate(self, parent: int, token_id: int, score: np.float32) -> Beam:
        return self.running[parent].extended(parent, token_id, score)

    def _keep_best(self, candidates: Sequence[Beam], values: Floats, ends: NDArray[np.bool_]) -> None:
        """Rank the texts that end among those that have."""
        rules = self.rules
        counted = (
            ends & np.isfinite(values) & (np.arange(len(ends)) < rules.beams)
        )  # the others are there so that enough go on
        ranked = values / np.float32(self.steps**rules.length_penalty)
        if rules.early_stopping is True and self._full:
            ranked = ranked + NOWHERE
        if not self._improves or self.done:
            ranked = ranked + NOWHERE
        ranked = ranked + np.where(counted, np.float32(0), NOWHERE)
        merged = [
            *self.ended,
            *(
                Ended(score, beam if ended else None)
                for score, beam, ended in zip(ranked, candidates, counted, strict=True)
            ),
        ]
        order = best(np.array([end.score for end in merged], np.float32), rules.beams)
        self.ended = [merged[place] for place in order]

    def _go_on(self, candidates: Sequence[Beam], places: Sequence[int], values: Floats) -> list[Beam]:
        """The chosen continuations as beams of their own."""
        found = []
        for number, place in enumerate(places):
            beam = candidates[place]
            beam = dataclasses.replace(beam, processor=beam.processor.fork(), score=values[place])
            if np.isfinite(beam.score):  # what is impossible is here for want of another
                beam.processor.append(beam.token_ids[-1])
            beam.places = [*beam.places, number]
            found.append(beam)
        return found

    def _may_improve(self) -> bool:
        """Whether the best running text might still become better than the worst that has ended."""
        rules = self.rules
        length = rules.longest if rules.early_stopping == "never" and rules.length_penalty > 0 else self.steps
        possible = self.running[0].score / np.float32(length**rules.length_penalty)
        worst = min(end.score for end in self.ended)
        return any(possible > (NOWHERE if end.beam is None else worst) for end in self.ended)

    @staticmethod
    def _fork(beam: Beam) -> Beam:
        text = None if beam.text is None else beam.text.fork()
        criteria = None if beam.criteria is None else beam.criteria.fork()
        return dataclasses.replace(beam, processor=beam.processor.fork(), text=text, criteria=criteria)
