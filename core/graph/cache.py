"""The key/value cache: state that goes into a forward pass and comes out of it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ..errors import InputError
from ..public import for_plugins

if TYPE_CHECKING:
    import numpy as np

    from ..dtypes import Array


@for_plugins
@dataclass(frozen=True)
class History:
    """What a length-dependent RoPE needs to start over: the embedded inputs so far and how they were rotated.

    When a row grows into other frequencies, every hidden state of that row changes, below the keys as much as in them;
    so keeping keys unrotated would not make cached equal uncached beyond the first layer. The inputs are kept instead,
    and the pass is run again over all of them when (and only when) a row's frequencies change.
    """

    embeds: Array  # [B, n, E]
    positions: Array  # [B or 1, n]
    regime: np.ndarray  # [B], see Rope.regime


@for_plugins
class Cache:
    """Base of the caches: how many slots are used and which of them hold attended tokens.

    A backend's cache says where keys and values live (:meth:`update`, :meth:`reset`, :meth:`_select`); the rest is
    here.

    Attributes:
        length: slots used so far, padding included.
        batch: rows, or ``None`` until the first pass.
        mask: ``[B, length]`` booleans, true where a slot holds an attended token; ``None`` while all do.
    """

    def __init__(self, batch: int | None = None, capacity: int | None = None) -> None:
        self.batch = batch
        self.capacity = capacity
        self.length = 0
        self.mask: Array | None = None
        self.history: History | None = None
        self.owner: object = None

    def update(self, name: str, keys: Array, values: Array) -> tuple[Array, Array]:
        """Add the new `keys` and `values` ``[B, G, S, D]`` of the attention called `name`; all of them come back."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget all keys and values, keep the storage."""
        raise NotImplementedError

    def _select(self, source: Self, rows: Sequence[int]) -> None:
        """Take over the given rows of `source`'s keys and values."""
        raise NotImplementedError

    def _take(self, array: Array, rows: Sequence[int]) -> Array:
        """Rows of a native array."""
        raise NotImplementedError

    def advance(self, count: int, mask: Array | None) -> None:
        """`count` slots have been written; `mask` covers all slots now used."""
        self.length += count
        self.mask = mask

    def claim(self, owner: object, batch: int) -> None:
        """Refuse another model than the one that filled this cache, and inputs of another batch size."""
        if self.owner is not None and self.owner is not owner:
            raise InputError(
                "past_key_values comes from another model", hint="a cache goes with the model that filled it"
            )
        self.owner = owner
        if self.batch is None:
            self.batch = batch
        elif self.batch != batch:
            raise InputError(
                f"past_key_values holds {self.batch} rows, the inputs have {batch}",
                hint="use cache.select_rows(...) to change the batch, or start with a new cache",
            )

    def select_rows(self, rows: Sequence[int]) -> Self:
        """A cache of the given rows, in that order; a row may be taken several times or dropped.

        The new cache does not share storage with this one, so either may go on.
        """
        rows = as_rows(rows, self.batch or 0)
        chosen = type(self)(len(rows), self.capacity)
        chosen.length, chosen.owner = self.length, self.owner
        chosen.mask = None if self.mask is None else self._take(self.mask, rows)
        chosen._select(self, rows)
        if self.history is not None:
            old = self.history
            positions = old.positions if old.positions.shape[0] == 1 else self._take(old.positions, rows)
            chosen.history = History(self._take(old.embeds, rows), positions, old.regime[rows])
        return chosen

    def __len__(self) -> int:
        return self.length

    def __bool__(self) -> bool:
        # An empty cache is still a cache; without this, `if cache` would ask for its length.
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch={self.batch}, length={self.length})"


def as_rows(rows: Any, batch: int) -> list[int]:
    """Row numbers as a list of integers within a batch."""
    try:
        found = [operator.index(row) for row in rows]
    except TypeError:
        raise InputError(f"select_rows: {rows!r} is not a list of row numbers") from None
    if not found or any(not 0 <= row < batch for row in found):
        raise InputError(f"select_rows: rows {found} of a cache of {batch} rows")
    return found


@for_plugins
class ConcatenatingCache(Cache):
    """A cache for any array namespace: new keys and values are concatenated to the old ones."""

    def __init__(self, batch: int | None = None, capacity: int | None = None, xp: Any = None) -> None:
        super().__init__(batch, capacity)
        self.xp = xp
        self.entries: dict[str, tuple[Array, Array]] = {}

    def update(self, name: str, keys: Array, values: Array) -> tuple[Array, Array]:
        old = self.entries.get(name)
        if old is not None and self.length:
            # What a pass that failed half-way wrote lies beyond `length`, and is cut off here.
            keys = self.xp.concat([old[0][:, :, : self.length], keys], axis=2)
            values = self.xp.concat([old[1][:, :, : self.length], values], axis=2)
        self.entries[name] = (keys, values)
        return keys, values

    def reset(self) -> None:
        self.entries.clear()
        self.length, self.mask = 0, None

    def _take(self, array: Array, rows: Sequence[int]) -> Array:
        return self.xp.take(array, self.xp.asarray(rows), axis=0)

    def _select(self, source: Self, rows: Sequence[int]) -> None:
        self.xp = source.xp
        self.entries = {name: (self._take(k, rows), self._take(v, rows)) for name, (k, v) in source.entries.items()}

    def select_rows(self, rows: Sequence[int]) -> Self:
        if self.xp is None:
            raise InputError("select_rows: this cache has no array namespace yet")
        return super().select_rows(rows)
