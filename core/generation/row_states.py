"""More of what changes a row's logits: biases of sequences, tokens that are forced, an end that is drawn nearer.

Each is a ``RowState`` of ``logit_processing.py``, which puts them in order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Wide = NDArray[np.float64]

LARGEST = float(np.finfo(np.float32).max)
"""What stands for infinity where it is removed: logits are float32 by contract."""


class SequenceBias:
    """What is added to the logit of a token that would complete a sequence of ids.

    >>> bias = SequenceBias([((4,), 1.5), ((1, 5), -2.0)], [7, 1])
    >>> row = np.zeros(6)
    >>> bias.apply(row); row.tolist()
    [0.0, 0.0, 0.0, 0.0, 1.5, -2.0]
    """

    active = True

    def __init__(self, biases: Iterable[tuple[Sequence[int], float]], token_ids: Sequence[int]) -> None:
        self._always = [(ids[0], bias) for ids, bias in biases if len(ids) == 1]
        self._after = [(tuple(ids[:-1]), ids[-1], bias) for ids, bias in biases if len(ids) > 1]
        self._longest = max((len(before) for before, _, _ in self._after), default=0)
        self._tail = tuple(token_ids[-self._longest :]) if self._longest else ()

    def append(self, token_id: int) -> None:
        """Take the next token into account."""
        if self._longest:
            self._tail = (*self._tail, token_id)[-self._longest :]

    def apply(self, row: Wide) -> None:
        """Add what completes a sequence its bias, in place."""
        for token_id, bias in self._always:
            row[token_id] += bias
        for before, last, bias in self._after:
            if self._tail[-len(before) :] == before:
                row[last] += bias

    def fork(self) -> Self:
        """A copy that goes its own way."""
        return copy.copy(self)


class _OnceAt:
    """What applies at one step alone."""

    def __init__(self, token_ids: Iterable[int], at: int) -> None:
        self._ids, self._ahead = list(token_ids), at

    @property
    def active(self) -> bool:
        return self._ahead == 0

    def append(self, token_id: int) -> None:
        """Take the next token into account."""
        self._ahead -= 1

    def fork(self) -> Self:
        """A copy that goes its own way."""
        return copy.copy(self)


class ForcedAt(_OnceAt):
    """Ids of which one is the next token, at one step: all others are impossible.

    >>> row = np.arange(3.0)
    >>> ForcedAt([1], at=0).apply(row); row.tolist()
    [-inf, 0.0, -inf]
    """

    def apply(self, row: Wide) -> None:
        """Leave nothing else possible, in place."""
        row[:] = -np.inf
        row[self._ids] = 0.0


class ForbiddenAt(_OnceAt):
    """Ids that are impossible at one step."""

    def apply(self, row: Wide) -> None:
        """Make them impossible, in place."""
        row[self._ids] = -np.inf


class OnlyFinite:
    """Numbers in the place of what is none: 0 for NaN, the largest of float32 for infinity.

    >>> row = np.array([np.nan, -np.inf, 1.0])
    >>> OnlyFinite().apply(row); row.tolist() == [0.0, -LARGEST, 1.0]
    True
    """

    active = True

    def apply(self, row: Wide) -> None:
        """Put numbers there, in place."""
        np.nan_to_num(row, copy=False, nan=0.0, posinf=LARGEST, neginf=-LARGEST)
        np.clip(row, -LARGEST, LARGEST, out=row)

    def append(self, token_id: int) -> None:
        """Take the next token into account."""

    def fork(self) -> Self:
        """The same for all rows."""
        return self


class LengthDecay:
    """Ids that end a text become likelier with every token after the first `start`: by ``|logit| * (factor**n - 1)``.

    >>> decay = LengthDecay([0], start=0, factor=2.0)
    >>> decay.append(1)
    >>> row = np.array([-1.0, 3.0])
    >>> decay.apply(row); row.tolist()
    [0.0, 3.0]
    """

    def __init__(self, ending: Iterable[int], start: int, factor: float) -> None:
        self._ids, self._factor, self._beyond = list(ending), factor, -start

    @property
    def active(self) -> bool:
        return self._beyond > 0 and bool(self._ids)

    def apply(self, row: Wide) -> None:
        """Raise their logits, in place; one that is impossible stays so."""
        logits = row[self._ids]
        with np.errstate(over="ignore", invalid="ignore"):
            more = np.abs(logits) * (np.float64(self._factor) ** self._beyond - 1.0)
        # A factor that has grown beyond all numbers makes the end certain, and no infinity of it.
        more = np.nan_to_num(np.where(np.isfinite(logits), more, 0.0), posinf=LARGEST, neginf=-LARGEST)
        row[self._ids] = logits + more

    def append(self, token_id: int) -> None:
        """Take the next token into account."""
        self._beyond += 1

    def fork(self) -> Self:
        """A copy that goes its own way."""
        return copy.copy(self)
