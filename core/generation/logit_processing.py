"""Changing logits by what a sequence already holds, before a token is chosen, greedily or not.

The order is the one transformers uses: logit_bias, repetition_penalty, (frequency_penalty, presence_penalty, which
transformers does not have, at the place vLLM gives them), no_repeat_ngram_size, bad_words_ids, min_new_tokens,
suppress_tokens, begin_suppress_tokens; filters come after.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Wide = NDArray[np.float64]


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

    def completing(self) -> list[int]:
        """The tokens that would complete a sequence."""
        return self._always + [last for before, last in self._after if self._tail[-len(before) :] == before]


@dataclass(frozen=True)
class Processing:
    """What to do to the logits of every step; the defaults do nothing.

    ``min_new_tokens`` forbids ``ending`` (the ids that would end the sequence) until that many tokens were generated.
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


@dataclass
class LogitProcessor:
    """Applies a :class:`Processing` to one sequence, and keeps what it needs to know of that sequence.

    >>> processor = LogitProcessor(Processing(repetition_penalty=2.0), vocab_size=3, prompt_ids=[1])
    >>> processor.append(2)
    >>> processor(np.ones(3, np.float32)).tolist()
    [1.0, 0.5, 0.5]
    """

    processing: Processing
    vocab_size: int
    prompt_ids: Sequence[int]
    generated: int = 0
    _bias: tuple[NDArray[np.int64], Wide] | None = field(default=None, repr=False)
    _seen: NDArray[np.bool_] | None = field(default=None, repr=False)
    _counts: NDArray[np.int64] | None = field(default=None, repr=False)
    _ngrams: Ngrams | None = field(default=None, repr=False)
    _words: BadWords | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        processing = self.processing
        if processing.logit_bias:
            ids, biases = zip(*processing.logit_bias, strict=True)
            self._bias = np.array(ids, np.int64), np.array(biases, np.float64)
        if processing.repetition_penalty != 1.0:
            self._seen = np.zeros(self.vocab_size, np.bool_)
            self._seen[list(self.prompt_ids)] = True
        if processing.frequency_penalty or processing.presence_penalty:
            self._counts = np.zeros(self.vocab_size, np.int64)
        if processing.no_repeat_ngram_size:
            self._ngrams = Ngrams(processing.no_repeat_ngram_size, self.prompt_ids)
        if processing.bad_words:
            self._words = BadWords(processing.bad_words, self.prompt_ids)

    def append(self, token_id: int) -> None:
        """Take the token that was generated into account."""
        self.generated += 1
        if self._seen is not None:
            self._seen[token_id] = True
        if self._counts is not None:
            self._counts[token_id] += 1
        if self._ngrams is not None:
            self._ngrams.append(token_id)
        if self._words is not None:
            self._words.append(token_id)

    def __call__(self, logits: Floats) -> Floats:
        """Return the processed logits ``[vocab]``: the same array where nothing applies, else a float64 copy."""
        processing = self.processing
        forbidden = processing.ending if self.generated < processing.min_new_tokens else ()
        forbidden += processing.suppressed
        if not self.generated:
            forbidden += processing.suppressed_at_first
        state = (self._bias, self._seen, self._counts, self._ngrams, self._words)
        if not forbidden and all(part is None for part in state):
            return logits
        row = logits.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # whoever asked sees to what is not finite
            self._apply(row)
        forbid(row, forbidden)
        return row

    def _apply(self, row: Wide) -> None:
        processing = self.processing
        if self._bias is not None:
            add_logit_bias(row, *self._bias)
        if self._seen is not None:
            penalize_repetition(row, np.flatnonzero(self._seen), processing.repetition_penalty)
        if self._counts is not None:
            used = np.flatnonzero(self._counts)
            frequency, presence = processing.frequency_penalty, processing.presence_penalty
            penalize_counts(row, used, self._counts[used], frequency=frequency, presence=presence)
        if self._ngrams is not None:
            forbid(row, self._ngrams.repeating())
        if self._words is not None:
            forbid(row, self._words.completing())
