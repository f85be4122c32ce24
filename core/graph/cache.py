"""The key/value cache: state that goes into a forward pass and comes out of it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from ..array_kinds import to_kind
from ..errors import InputError
from ..messages import counted
from ..public import for_plugins
from .cache_names import CacheNames

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..dtypes import Array


Kind = TypeVar("Kind", bound="Cache")


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
    seen: Array | None = None  # [B or 1, 1, n, n], the attention mask so far, where it is not just causal


@for_plugins
@dataclass(frozen=True, eq=False)
class CachedRows:
    """Rows of a cache, and which of its slots they bring into another: see :meth:`Cache.assembled`.

    Attributes:
        rows: row numbers, in the order in which they come.
        slots: ``[n]`` slot numbers, rising; the same of every row.
    """

    cache: Cache
    rows: Sequence[int]
    slots: NDArray[np.int64]

    @property
    def run(self) -> slice | None:
        """The slots as a slice, where they are next to each other."""
        first = int(self.slots[0])
        return slice(first, first + len(self.slots)) if int(self.slots[-1]) - first + 1 == len(self.slots) else None

    def copied(self) -> CachedRows:
        """The same in a cache of its own, which holds nothing else."""
        whole = type(self.cache).assembled([self], len(self.slots))
        return replace(self, cache=whole, rows=range(len(self.rows)), slots=self.slots * 0 + range(len(self.slots)))


@for_plugins
class Cache(CacheNames):
    """Base of the caches: how many slots are used and which of them hold attended tokens.

    A backend's cache says where keys and values live (:meth:`update`, :meth:`read`, :meth:`reset`, :meth:`_select`);
    the rest is here. As the reference documentation has it, it is a sequence of layers too: ``cache[layer]`` is its
    ``(keys, values)``, each ``[batch, kv heads, length, head_dim]``, and ``len(cache)`` counts layers. Like the other
    outputs of a pass these are of the kind that came in.

    Attributes:
        length: slots used so far, padding included.
        batch: rows, or ``None`` until the first pass.
        mask: ``[B, length]`` booleans, true where a slot holds an attended token; ``None`` while all do.
        shown_as: the kind of array that layers are handed out as, and on which device; ``None`` for native ones.
        adapters: the name of each row's adapter, ``None`` for none; ``None`` while nobody has said.
        joins: whether rows can go from one cache to another: :meth:`assembled`.
        counts_itself: whether :attr:`length` is data of the pass, which a compiler is not to look at; then
            :meth:`lay_out` says where new tokens are.
    """

    joins: ClassVar[bool] = False
    counts_itself: ClassVar[bool] = False

    def __init__(self, batch: int | None = None, capacity: int | None = None) -> None:
        self.batch = batch
        self.capacity = capacity
        self.length = 0
        self.mask: Array | None = None
        self.history: History | None = None
        self.owner: object = None
        self.shown_as: tuple[str, Any] | None = None
        self.adapters: tuple[str | None, ...] | None = None

    def update(self, name: str, keys: Array, values: Array) -> tuple[Array, Array]:
        """Add the new `keys` and `values` ``[B, G, S, D]`` of the attention called `name`; all of them come back."""
        raise NotImplementedError

    def names(self) -> tuple[str, ...]:
        """The attentions that it holds keys and values of, in the order of layers; none before the first pass."""
        raise NotImplementedError

    def read(self, name: str, start: int = 0) -> tuple[Array, Array]:
        """The keys and values ``[B, G, length - start, D]`` of the attention called `name`, from slot `start` on."""
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

    def lay_out(self, request: Any, new: int) -> Any:
        """Where `new` tokens are: a :class:`~polyllama.core.forward.layout.Layout`, of caches that count themselves."""
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
                f"past_key_values holds {counted(self.batch, 'row')}, the inputs have {batch}",
                hint="use cache.select_rows(...) to change the batch, or start with a new cache",
            )

    def select_rows(self, rows: Sequence[int]) -> Self:
        """A cache of the given rows, in that order; a row may be taken several times or dropped.

        The new cache does not share storage with this one, so either may go on.
        """
        rows = as_rows(rows, self.batch or 0)
        chosen = type(self)(len(rows), self.capacity)
        chosen.length, chosen.owner, chosen.shown_as = self.length, self.owner, self.shown_as
        chosen.adapters = None if self.adapters is None else tuple(self.adapters[row] for row in rows)
        chosen.mask = None if self.mask is None else self._take(self.mask, rows)
        chosen._select(self, rows)
        if self.history is not None:
            old = self.history
            positions, seen = (
                part if part is None or part.shape[0] == 1 else self._take(part, rows)
                for part in (old.positions, old.seen)
            )
            chosen.history = History(self._take(old.embeds, rows), positions, old.regime[rows], seen)
        return chosen

    def follow(self, rows: Sequence[int], shared: Sequence[int]) -> Self:
        """The cache in which each row goes on from the text of one of `rows`, as beams do; this one is not used again.

        Args:
            shared: of each row, how many of its first slots hold the same as those of the row that it goes on from. A
                backend may leave them alone, and write the others in place.
        """
        rows = as_rows(rows, self.batch or 0)
        return self if not self._moved(rows, shared) else self.select_rows(rows)

    def _moved(self, rows: Sequence[int], shared: Sequence[int]) -> list[int]:
        """The rows that do not hold what they are to go on from."""
        return [row for row, other in enumerate(rows) if row != other and shared[row] < self.length]

    @classmethod
    def assembled(cls, parts: Sequence[CachedRows], length: int, capacity: int | None = None) -> Self:
        """A cache of `length` slots made of rows of others, which share no storage with it.

        Rows end in the last slot, each after its own slots in their order; the slots before them are no part of the
        text, so the cache's `mask` leaves them out.

        Args:
            parts: of caches of this class that one model has filled.
            capacity: slots that are planned for.
        """
        whole = cls(sum(len(part.rows) for part in parts), capacity)
        first = parts[0].cache
        whole.length, whole.owner = length, first.owner
        whole._assemble(parts)
        return whole

    def _assemble(self, parts: Sequence[CachedRows]) -> None:
        """Take over rows and slots of other caches, with their masks and histories; `length` is known."""
        masks = [part.cache.mask for part in parts]
        if any(mask is not None for mask in masks) or any(len(part.slots) < self.length for part in parts):
            self.mask = self._laid([(self._mask_of(part), part) for part in parts], axis=1)
        histories = [part.cache.history for part in parts]
        if histories[0] is not None:
            self.history = self._joined_history(parts)

    def _laid(self, arrays: Sequence[tuple[Array, CachedRows]], axis: int, room: int = 0) -> Array:
        """Native arrays' rows (the first axis) and slots (`axis`) in one, right-aligned in :attr:`length` slots.

        Args:
            room: slots that are to follow behind them.
        """
        raise NotImplementedError

    def _mask_of(self, part: CachedRows) -> Array:
        """``[B, length]`` booleans of a part's cache."""
        raise NotImplementedError

    def _joined_history(self, parts: Sequence[CachedRows]) -> History:
        import numpy as np

        old = [part.cache.history for part in parts]
        embeds, positions, regimes = [], [], []
        for history, part in zip(old, parts, strict=True):
            if history is None or history.seen is not None:
                raise InputError("rows whose attention has a mask of its own do not join others")
            embeds.append((history.embeds, part))
            whole = history.positions
            positions.append((whole if whole.shape[0] > 1 else self._take(whole, [0] * (part.cache.batch or 1)), part))
            regimes.append(history.regime[list(part.rows)])
        return History(self._laid(embeds, 1), self._laid(positions, 1), np.concatenate(regimes))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """:attr:`length` by the reference documentation's name for it; every layer has as many slots."""
        return self.length

    def crop(self, max_length: int) -> None:
        """Keep the first `max_length` slots of each row; a negative number is how many of the last to drop."""
        kept = max_length if max_length >= 0 else max(0, self.length + max_length)
        if kept >= self.length:
            return
        self.length = kept
        self.mask = None if self.mask is None else self.mask[:, :kept]
        if self.history is not None:
            old = self.history
            # Frequencies may be those of longer rows, so the next pass starts over.
            self.history = replace(
                old,
                embeds=old.embeds[:, :kept],
                positions=old.positions[:, :kept],
                regime=old.regime * 0 - 1,
                seen=None if old.seen is None else old.seen[:, :, :kept, :kept],
            )

    def reorder_cache(self, beam_idx: Any) -> None:
        """Become the cache of the given rows, in that order; :meth:`select_rows` gives a new one instead."""
        vars(self).update(vars(self.select_rows(beam_idx)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Become a cache that holds each row `repeats` times in a row."""
        self.reorder_cache([row for row in range(self.batch or 0) for _ in range(repeats)])

    def __getitem__(self, layer: int) -> tuple[Array, Array]:
        names = self.names()
        try:
            name = names[operator.index(layer)]
        except IndexError:
            raise IndexError(f"past_key_values holds {counted(len(names), 'layer')}, there is no {layer}") from None
        return self._shown(name)

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        return (self._shown(name) for name in self.names())

    def _shown(self, name: str) -> tuple[Array, Array]:
        keys, values = self.read(name)
        if self.shown_as is None:
            return keys, values
        return to_kind(keys, *self.shown_as), to_kind(values, *self.shown_as)

    def __len__(self) -> int:
        return len(self.names())

    def __deepcopy__(self, memo: Any) -> Self:
        # Of keys and values, not of the model that they belong to.
        return self.select_rows(range(self.batch)) if self.batch else type(self)(self.batch, self.capacity)

    def __getstate__(self) -> dict[str, Any]:
        # A pickle holds no model and no device: the next pass says whose it is and where.
        shown_as = None if self.shown_as is None else (self.shown_as[0], None)
        return {**vars(self), "owner": None, "shown_as": shown_as}

    def __bool__(self) -> bool:
        # An empty cache is still a cache; without this, `if cache` would count its layers.
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch={self.batch}, length={self.length})"


def filled(
    cache: Kind, entries: Mapping[str, Sequence[Array]], length: int, native: Callable[[Any], Array | None]
) -> Kind:
    """Write keys and values ``[B, G, length, D]`` by attention into an empty cache, made the backend's by `native`."""
    for name, (keys, values) in entries.items():
        cache.update(name, native(keys), native(values))
    cache.advance(length, None)
    return cache


def as_rows(rows: Any, batch: int) -> list[int]:
    """Row numbers as a list of integers within a batch."""
    try:
        found = [operator.index(row) for row in rows]
    except TypeError:
        raise InputError(f"select_rows: {rows!r} is not a list of row numbers") from None
    if not found or any(not 0 <= row < batch for row in found):
        raise InputError(f"select_rows: rows {found} of a cache of {counted(batch, 'row')}")
    return found


@for_plugins
class ConcatenatingCache(Cache):
    """A cache for any array namespace: new keys and values are concatenated to the old ones."""

    joins = True

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

    def names(self) -> tuple[str, ...]:
        return tuple(self.entries)

    def read(self, name: str, start: int = 0) -> tuple[Array, Array]:
        keys, values = self.entries[name]
        return keys[:, :, start : self.length], values[:, :, start : self.length]

    def reset(self) -> None:
        self.entries.clear()
        self.length, self.mask, self.history = 0, None, None

    def _take(self, array: Array, rows: Sequence[int]) -> Array:
        return self.xp.take(array, self.xp.asarray(rows), axis=0)

    def _assemble(self, parts: Sequence[CachedRows]) -> None:
        self.xp = parts[0].cache.xp  # type: ignore[attr-defined]
        super()._assemble(parts)
        for name in parts[0].cache.names():
            keys, values = (
                self._laid([(part.cache.entries[name][which], part) for part in parts], axis=2)  # type: ignore[attr-defined]
                for which in range(2)
            )
            self.entries[name] = keys, values

    def _mask_of(self, part: CachedRows) -> Array:
        known = part.cache.mask
        return self.xp.ones((part.cache.batch, part.cache.length), dtype=self.xp.bool) if known is None else known

    def _laid(self, arrays: Sequence[tuple[Array, CachedRows]], axis: int, room: int = 0) -> Array:
        xp, laid = self.xp, []
        for array, part in arrays:
            taken = self._take(array, part.rows)
            taken = xp.take(taken, xp.asarray(part.slots), axis=axis)
            shape = list(taken.shape)
            shape[axis] = self.length - shape[axis]
            laid.append(xp.concat([xp.zeros(shape, dtype=taken.dtype), taken], axis=axis) if shape[axis] else taken)
        return laid[0] if len(laid) == 1 else xp.concat(laid, axis=0)

    def _select(self, source: Self, rows: Sequence[int]) -> None:
        self.xp = source.xp
        self.entries = {name: (self._take(k, rows), self._take(v, rows)) for name, (k, v) in source.entries.items()}

    def select_rows(self, rows: Sequence[int]) -> Self:
        if self.xp is None:
            raise InputError("select_rows: this cache has no array namespace yet")
        return super().select_rows(rows)
