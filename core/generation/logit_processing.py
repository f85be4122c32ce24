"""Changing logits by what a sequence already holds, before a token is chosen, greedily or not.

The order is the one transformers uses: logit_bias, sequence_bias, repetition_penalty, (frequency_penalty,
presence_penalty, which transformers does not have, at the place vLLM gives them), no_repeat_ngram_size, bad_words_ids,
min_new_tokens, prefix_allowed_tokens_fn, forced_bos_token_id, forced_eos_token_id, remove_invalid_values,
exponential_decay_length_penalty, suppress_tokens, begin_suppress_tokens; then logits_processor. Filters come after.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np

from .row_states import ForbiddenAt, ForcedAt, LengthDecay, OnlyFinite, SequenceBias

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Wide = NDArray[np.float64]

Kind = TypeVar("Kind")


def add_logit_bias(logits: Wide, token_ids: NDArray[np.int64], biases: Wide) -> None:
    """Add each bias to its token's logit, in place; -inf forbids the token.

    >>> row = np.zeros(3)
    >>> add_logit_bias(row, np.array([1]), np.array([2.5])); row.tolist()
    [0.0, 2.5, 0.0]
    """
    logits[token_ids] += biases


def penalize_repetition(logits: Wide, seen: NDArray[np.int64], penalty: float) -> None:
    """Divide positive and multiply negative logits of the `seen` ids (each once) by `penalty`, in place.

    Source: Keskar et al. 2019, "CTRL", section 4.1; the sign rule is what implementations agree on.

    >>> row = np.array([2.0, -2.0, 2.0])
    >>> penalize_repetition(row, np.array([0, 1]), 2.0); row.tolist()
    [1.0, -4.0, 2.0]
    """
    chosen = logits[seen]
    logits[seen] = np.where(chosen < 0, chosen * penalty, chosen / penalty)


def penalize_counts(
    logits: Wide, generated: NDArray[np.int64], counts: NDArray[np.int64], *, frequency: float, presence: float
) -> None:
    """Subtract ``count * frequency + presence`` from the logits of the `generated` ids (each once), in place.

    Source: OpenAI API reference, "Frequency and presence penalties"; as there, the prompt does not count.

    >>> row = np.zeros(3)
    >>> penalize_counts(row, np.array([1]), np.array([2]), frequency=0.5, presence=0.1); row.tolist()
    [0.0, -1.1, 0.0]
    """
    logits[generated] -= counts * frequency + presence


def forbid(logits: Wide, token_ids: Iterable[int]) -> None:
    """Make tokens impossible, in place.

    >>> row = np.zeros(2)
    >>> forbid(row, [0]); row.tolist()
    [-inf, 0.0]
    """
    logits[list(token_ids)] = -np.inf


class Ngrams:
    """The n-grams of a growing sequence: which tokens would repeat one (Paulus et al. 2017).

    >>> seen = Ngrams(2, [1, 5, 2, 1])
    >>> seen.repeating()
    [5]
    """

    def __init__(self, size: int, token_ids: Sequence[int]) -> None:
        self.size = size
        self._followers: dict[tuple[int, ...], list[int]] = {}
        self._tail: tuple[int, ...] = ()
        for token_id in token_ids:
            self.append(token_id)

    def append(self, token_id: int) -> None:
        """Take the next token into account."""
        if len(self._tail) == self.size - 1:
            self._followers.setdefault(self._tail, []).append(token_id)
        self._tail = (*self._tail, token_id)[1 if len(self._tail) == self.size - 1 else 0 :]

    active = True

    def apply(self, row: Wide) -> None:
        """Forbid what would repeat an n-gram."""
        forbid(row, self.repeating())

    def fork(self) -> Ngrams:
        """A copy that goes its own way."""
        other = Ngrams(self.size, ())
        other._followers = {tail: list(ids) for tail, ids in self._followers.items()}
        other._tail = self._tail
        return other

    def repeating(self) -> list[int]:
        """The tokens that would complete an n-gram the sequence already holds."""
        return self._followers.get(self._tail, []) if len(self._tail) == self.size - 1 else []


class BadWords:
    """Sequences of ids that are not to be completed: which tokens would complete one.

    >>> words = BadWords([(4,), (1, 5)], [7, 1])
    >>> words.completing()
    [4, 5]
    """

    def __init__(self, sequences: Sequence[Sequence[int]], token_ids: Sequence[int]) -> None:
        self._always = [sequence[0] for sequence in sequences if len(sequence) == 1]
        self._after = [(tuple(sequence[:-1]), sequence[-1]) for sequence in sequences if len(sequence) > 1]
        self._longest = max((len(before) for before, _ in self._after), default=0)
        self._tail = tuple(token_ids[-self._longest :]) if self._longest else ()

    def append(self, token_id: int) -> None:
        """Take the next token into account."""
        if self._longest:
            self._tail = (*self._tail, token_id)[-self._longest :]

    active = True

    def apply(self, row: Wide) -> None:
        """Forbid what would complete a sequence."""
        forbid(row, self.completing())

    def fork(self) -> BadWords:
        """A copy that goes its own way."""
        return copy.copy(self)

    def completing(self) -> list[int]:
        """The tokens that would complete a sequence."""
        return self._always + [last for before, last in self._after if self._tail[-len(before) :] == before]


class RowState(Protocol):
    """What changes one row's logits by the tokens that it has got so far.

    Attributes:
        active: whether it would change anything at this step.
    """

    @property
    def active(self) -> bool: ...

    def apply(self, row: Wide) -> None:
        """Change the logits ``[vocab]``, in place."""
        ...

    def append(self, token_id: int) -> None:
        """Take the next token into account."""
        ...

    def fork(self) -> RowState:
        """A copy that goes its own way: of a beam that continues in two."""
        ...


class _Always:
    """A state that applies at every step and is the same for all rows."""

    active = True

    def append(self, token_id: int) -> None:
        pass

    def fork(self) -> Self:
        return self


class _Bias(_Always):
    def __init__(self, biases: Sequence[tuple[int, float]]) -> None:
        ids, values = zip(*biases, strict=True)
        self._ids, self._values = np.array(ids, np.int64), np.array(values, np.float64)

    def apply(self, row: Wide) -> None:
        add_logit_bias(row, self._ids, self._values)


class _Repetition:
    active = True

    def __init__(self, penalty: float, seen: NDArray[np.bool_]) -> None:
        self._penalty, self._seen = penalty, seen

    def apply(self, row: Wide) -> None:
        penalize_repetition(row, np.flatnonzero(self._seen), self._penalty)

    def append(self, token_id: int) -> None:
        self._seen[token_id] = True

    def fork(self) -> _Repetition:
        return _Repetition(self._penalty, self._seen.copy())


class _Counts:
    active = True

    def __init__(self, frequency: float, presence: float, counts: NDArray[np.int64]) -> None:
        self._frequency, self._presence, self._counts = frequency, presence, counts

    def apply(self, row: Wide) -> None:
        used = np.flatnonzero(self._counts)
        penalize_counts(row, used, self._counts[used], frequency=self._frequency, presence=self._presence)

    def append(self, token_id: int) -> None:
        self._counts[token_id] += 1

    def fork(self) -> _Counts:
        return _Counts(self._frequency, self._presence, self._counts.copy())


class _Forbidden:
    """Ids that are impossible for the first `steps` tokens, or for all."""

    def __init__(self, token_ids: Iterable[int], steps: float = math.inf) -> None:
        self._ids, self._steps = list(token_ids), steps

    @property
    def active(self) -> bool:
        return self._steps > 0

    def apply(self, row: Wide) -> None:
        forbid(row, self._ids)

    def append(self, token_id: int) -> None:
        self._steps -= 1

    def fork(self) -> _Forbidden:
        return _Forbidden(self._ids, self._steps)


class PlacedState(RowState, Protocol):
    """What a caller's own code does to a row's logits.

    Attributes:
        name: of a class of transformers' the name: where an option has built the same, it takes that one's place.
    """

    @property
    def name(self) -> str | None: ...


@dataclass(frozen=True)
class Processing:
    """What to do to the logits of every step; the defaults do nothing.

    ``min_new_tokens`` forbids ``ending`` (the ids that would end the sequence) until that many tokens were generated;
    ``decay`` is the number of tokens after which they become likelier, and the factor. ``forced_at_first`` and
    ``forced_at`` are ids of which one must follow after so many tokens; ``first`` is after how many tokens
    ``suppressed_at_first`` are forbidden.
    """

    logit_bias: tuple[tuple[int, float], ...] = ()
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    bad_words: tuple[tuple[int, ...], ...] = ()
    suppressed: tuple[int, ...] = ()
    suppressed_at_first: tuple[int, ...] = ()
    min_new_tokens: int = 0
    ending: tuple[int, ...] = ()
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    forced_at_first: tuple[tuple[int, ...], int] = ((), 0)
    forced_at: tuple[tuple[int, ...], int] = ((), 0)
    only_finite: bool = False
    decay: tuple[int, float] | None = None
    first: int = 0

    def states(
        self, vocab_size: int, prompt_ids: Sequence[int], allowed: RowState | None = None
    ) -> Iterator[tuple[str, RowState]]:
        """What it comes to for one row, in order, with the names that transformers has for it."""
        if self.logit_bias:
            yield "", _Bias(self.logit_bias)
        if self.sequence_bias:
            yield "SequenceBiasLogitsProcessor", SequenceBias(self.sequence_bias, prompt_ids)
        if self.repetition_penalty != 1.0:
            seen = np.zeros(vocab_size, np.bool_)
            seen[list(prompt_ids)] = True
            yield "RepetitionPenaltyLogitsProcessor", _Repetition(self.repetition_penalty, seen)
        if self.frequency_penalty or self.presence_penalty:
            yield "", _Counts(self.frequency_penalty, self.presence_penalty, np.zeros(vocab_size, np.int64))
        if self.no_repeat_ngram_size:
            yield "NoRepeatNGramLogitsProcessor", Ngrams(self.no_repeat_ngram_size, prompt_ids)
        if self.bad_words:
            yield "NoBadWordsLogitsProcessor", BadWords(self.bad_words, prompt_ids)
        if self.ending and self.min_new_tokens:
            yield "MinNewTokensLengthLogitsProcessor", _Forbidden(self.ending, self.min_new_tokens)
        if allowed is not None:
            yield "PrefixConstrainedLogitsProcessor", allowed
        yield from self._later_states()

    def _later_states(self) -> Iterator[tuple[str, RowState]]:
        if self.forced_at_first[0]:
            yield "ForcedBOSTokenLogitsProcessor", ForcedAt(*self.forced_at_first)
        if self.forced_at[0]:
            yield "ForcedEOSTokenLogitsProcessor", ForcedAt(*self.forced_at)
        if self.only_finite:
            yield "InfNanRemoveLogitsProcessor", OnlyFinite()
        if self.decay is not None:
            yield "ExponentialDecayLengthPenalty", LengthDecay(self.ending, *self.decay)
        if self.suppressed:
            yield "SuppressTokensLogitsProcessor", _Forbidden(self.suppressed)
        if self.suppressed_at_first:
            yield "SuppressTokensAtBeginLogitsProcessor", ForbiddenAt(self.suppressed_at_first, self.first)


class LogitProcessor:
    """Applies a :class:`Processing` to one sequence, and keeps what it needs to know of that sequence.

    Args:
        more: further states of the row, applied after all others.
        custom: a caller's own states, applied after those of `processing`, or in the place of one of them.
        allowed: which tokens may follow, where a caller's own code says so.

    >>> processor = LogitProcessor(Processing(repetition_penalty=2.0), vocab_size=3, prompt_ids=[1])
    >>> processor.append(2)
    >>> processor(np.ones(3, np.float32)).tolist()
    [1.0, 0.5, 0.5]
    """

    def __init__(
        self,
        processing: Processing,
        vocab_size: int,
        prompt_ids: Sequence[int],
        more: Iterable[RowState] = (),
        *,
        custom: Iterable[PlacedState] = (),
        allowed: RowState | None = None,
    ) -> None:
        left = list(custom)
        self._states: list[RowState] = []
        for name, state in processing.states(vocab_size, prompt_ids, allowed):
            place = next((place for place, own in enumerate(left) if name and own.name == name), None)
            self._states.append(state if place is None else left.pop(place))
        self._states += [*left, *more]

    def append(self, token_id: int) -> None:
        """Take the token that was generated into account."""
        for state in self._states:
            state.append(token_id)

    def find(self, kind: type[Kind]) -> Kind | None:
        """The state of that kind, if the row has one."""
        return next((state for state in self._states if isinstance(state, kind)), None)

    def fork(self) -> LogitProcessor:
        """A copy that goes its own way."""
        other = LogitProcessor.__new__(LogitProcessor)
        other._states = [state.fork() for state in self._states]
        return other

    def __call__(self, logits: Floats) -> Floats:
        """Return the processed logits ``[vocab]``: the same array where nothing applies, else a float64 copy."""
        active = [state for state in self._states if state.active]
        if not active:
            return logits
        row = logits.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # whoever asked sees to what is not finite
            for state in active:
                state.apply(row)
        return row
