"""Keys and values in the layout the kernels read: one block of memory for all layers, which grows by doubling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ...core.dtypes import numpy_dtype
from ...core.graph.cache import Cache, CachedRows, as_rows
from . import _kernels

KEYS = 16
"""Keys that lie side by side, so that a register holds one component of so many of them."""

STEP = 64
"""Slots that storage grows by at least."""


@dataclass(frozen=True)
class CacheShape:
    """What a model's caches hold: attentions by name with their place, key/value heads and their size.

    Attributes:
        order: all of the model's attentions, also those that run by their own definition.
    """

    layers: Mapping[str, int]
    heads: int
    head_dim: int
    element: str = "float32"
    order: tuple[str, ...] = ()

    @property
    def key_stride(self) -> int:
        """Components of a key as stored: in bfloat16 whole pairs."""
        return self.head_dim + self.head_dim % 2 if self.element == "bfloat16" else self.head_dim

    @property
    def storage(self) -> np.dtype[Any]:
        """The array element that holds :attr:`element`: 16-bit floats as unsigned integers."""
        if self.element in ("bfloat16", "float16"):
            return np.dtype(np.uint16)
        return np.dtype(self.element)


class CpuCache(Cache):
    """Keys ``[layers, B, G, capacity / 16, D, 16]`` and values ``[layers, B, G, capacity, D up to 16]``.

    In bfloat16 two components of a key lie side by side ``[D / 2, 16, 2]``, and so do two values
    ``[capacity / 2, D, 2]`` (D up to 16): see native/formats.h. In int8 every key and value has a scale of its own,
    ``[layers, B, G, capacity]``.
    """

    joins = True

    def __init__(self, batch: int | None = None, capacity: int | None = None, shape: CacheShape | None = None) -> None:
        super().__init__(batch, capacity)
        self.shape = shape
        self.parts: list[np.ndarray] = []
        self.others: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._native: _kernels.Cache | None = None

    @property
    def slots(self) -> int:
        """Slots there is storage for."""
        return self.parts[1].shape[3] if self.parts else 0

    @property
    def nbytes(self) -> int:
        """Bytes of storage."""
        return sum(part.nbytes for part in self.parts)

    def reserve(self, slots: int) -> _kernels.Cache:
        """Storage for at least so many slots; what is held stays."""
        assert self.shape is not None and self.batch is not None
        if not self.parts or slots > self.slots:
            wanted = max(slots, self.capacity or 0, 2 * self.slots)
            self._allocate(-(-wanted // STEP) * STEP)
        if self._native is None:
            self._native = _kernels.Cache(self.shape.element, self.shape.head_dim, *self.parts)
        return self._native

    def _allocate(self, slots: int) -> None:
        shape = self.shape
        assert shape is not None
        lead = (len(shape.layers), self.batch or 0, shape.heads)
        width = -(-shape.head_dim // KEYS) * KEYS
        parts = [
            np.zeros((*lead, slots // KEYS, shape.key_stride, KEYS), shape.storage),
            np.zeros((*lead, slots, width), shape.storage),
        ]
        if shape.element == "int8":
            parts += [np.zeros((*lead, slots), np.float32) for _ in range(2)]
        for old, new in zip(self.parts, parts, strict=bool(self.parts)):
            # Whole blocks of keys, and values to the end of theirs, as pairs may reach beyond the length.
            blocks = -(-self.length // KEYS) * (1 if new is parts[0] else KEYS)
            new[:, :, :, :blocks] = old[:, :, :, :blocks]
        self.parts, self._native = parts, None

    def update(self, name: str, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For attentions that run by their own definition: float32 arrays in, all of them out."""
        start, stop = self.length, self.length + keys.shape[2]
        if self.shape is None or name not in self.shape.layers:
            old = self.others.get(name)
            if old is not None and start:
                keys = np.concatenate([old[0][:, :, :start], keys], axis=2)
                values = np.concatenate([old[1][:, :, :start], values], axis=2)
            self.others[name] = keys, values
            return keys, values
        self.reserve(stop)
        layer = self.shape.layers[name]
        slots, found = slice(start, stop), []
        for place, (view, new) in enumerate(zip(self._views(layer), (keys, values), strict=True)):
            batch, heads, size = *view.shape[:2], self.slots
            by_slot = np.array(view).reshape(batch, heads, size, -1)
            by_slot[:, :, slots, : new.shape[3]] = self._stored(layer, 2 + place, new, slots)
            view[...] = by_slot.reshape(view.shape)
            found.append(self._read(layer, 2 + place, by_slot[:, :, :stop, : new.shape[3]]))
        return found[0], found[1]

    def _views(self, layer: int, rows: Any = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """A layer's keys and values, of all rows or some, with their axes in the order of slots and components."""
        assert self.shape is not None
        keys, values = self.parts[0][layer][rows], self.parts[1][layer][rows]
        if self.shape.element != "bfloat16":
            return keys.transpose(0, 1, 2, 4, 3), values
        batch, heads, blocks, width, _ = keys.shape
        pairs = keys.reshape(batch, heads, blocks, width // 2, KEYS, 2).transpose(0, 1, 2, 4, 3, 5)
        rows = values.reshape(batch, heads, values.shape[2] // 2, values.shape[3], 2).transpose(0, 1, 2, 4, 3)
        return pairs, rows

    def _stored(self, layer: int, part: int, array: np.ndarray, slots: slice) -> np.ndarray:
        assert self.shape is not None
        element = self.shape.element
        if element != "int8":
            return array.astype(numpy_dtype(element)).view(self.shape.storage)
        scale = np.abs(array).max(axis=-1) / np.float32(127)
        self.parts[part][layer][:, :, slots] = scale
        whole = array / np.where(scale > 0, scale, np.float32(1))[..., None]
        rounded: np.ndarray = np.rint(whole).astype(np.int8)
        return rounded

    def _read(self, layer: int, part: int, stored: np.ndarray) -> np.ndarray:
        assert self.shape is not None
        if self.shape.element == "int8":
            scale = self.parts[part][layer][:, :, : stored.shape[2]]
            return np.asarray(stored.astype(np.float32) * scale[..., None])
        floats: np.ndarray = np.ascontiguousarray(stored).view(numpy_dtype(self.shape.element)).astype(np.float32)
        return floats

    def names(self) -> tuple[str, ...]:
        known = () if self.shape is None else self.shape.order
        held = {*self.others, *(self.shape.layers if self.shape is not None and self.parts else ())}
        return (*(name for name in known if name in held), *(name for name in self.others if name not in known))

    def read(self, name: str, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
        if name in self.others:
            keys, values = self.others[name]
            return keys[:, :, start : self.length], values[:, :, start : self.length]
        assert self.shape is not None
        layer, found = self.shape.layers[name], []
        for place, view in enumerate(self._views(layer)):
            by_slot = np.array(view).reshape(*view.shape[:2], self.slots, -1)
            used = by_slot[:, :, : self.length, : self.shape.head_dim]
            found.append(self._read(layer, 2 + place, used)[:, :, start:])
        return found[0], found[1]

    def reset(self) -> None:
        self.length, self.mask, self.history = 0, None, None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_native": None}

    def _take(self, array: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        taken: np.ndarray = array[np.asarray(rows)]
        return taken

    def _assemble(self, parts: Sequence[CachedRows]) -> None:
        first = parts[0].cache
        assert isinstance(first, CpuCache)
        self.shape = first.shape
        super()._assemble(parts)
        for name in first.others:
            keys, values = (
                self._laid([(part.cache.others[name][which], part) for part in parts], axis=2)  # type: ignore[attr-defined]
                for which in range(2)
            )
            self.others[name] = keys, values
        if not first.parts:
            return
        self._allocate(-(-max(self.length, self.capacity or 0) // STEP) * STEP)
        place = 0
        for part in parts:
            self._lay_rows(part, slice(place, place + len(part.rows)))
            place += len(part.rows)

    def _lay_rows(self, part: CachedRows, into: slice) -> None:
        """Put a part's keys and values into rows of the storage: whole blocks, where they come to lie on whole ones."""
        source, rows = part.cache, np.asarray(part.rows)
        assert isinstance(source, CpuCache)
        run, start = part.run, self.length - len(part.slots)
        if run is not None and run.start % KEYS == 0 and start % KEYS == 0:
            # Slots beyond the length are written before they are read.
            blocks = -(-len(part.slots) // KEYS)
            for index, (new, old) in enumerate(zip(self.parts, source.parts, strict=True)):
                unit = 1 if index == 0 else KEYS
                taken = slice(run.start // KEYS * unit, (run.start // KEYS + blocks) * unit)
                here = slice(start // KEYS * unit, (start // KEYS + blocks) * unit)
                for place, row in enumerate(rows, into.start):  # much faster than an array of rows
                    new[:, place, :, here] = old[:, row, :, taken]
            return
        slots = slice(start, self.length)
        for layer in range(len(self.parts[0])):
            for view, old in zip(self._views(layer, into), source._views(layer, rows), strict=True):
                by_slot = np.array(view).reshape(*view.shape[:2], self.slots, -1)
                found = np.array(old).reshape(*old.shape[:2], source.slots, -1)
                by_slot[:, :, slots] = found[:, :, part.slots]
                view[...] = by_slot.reshape(view.shape)
            for new, old in zip(self.parts[2:], source.parts[2:], strict=True):
                new[layer, into, :, slots] = old[layer][rows][:, :, part.slots]

    def _mask_of(self, part: CachedRows) -> np.ndarray:
        known: np.ndarray | None = part.cache.mask
        return np.ones((part.cache.batch or 1, part.cache.length), bool) if known is None else known

    def _laid(self, arrays: Sequence[tuple[np.ndarray, CachedRows]], axis: int, room: int = 0) -> np.ndarray:
        first = arrays[0][0]
        shape = [sum(len(part.rows) for _, part in arrays), *first.shape[1:]]
        shape[axis] = self.length + room
        laid, place = np.zeros(shape, first.dtype), 0
        for array, part in arrays:
            here = [slice(place, place + len(part.rows)), *[slice(None)] * (first.ndim - 1)]
            here[axis] = slice(self.length - len(part.slots), self.length)
            laid[tuple(here)] = np.take(self._take(array, part.rows), part.slots, axis=axis)
            place += len(part.rows)
        return laid

    def _select(self, source: Self, rows: Sequence[int]) -> None:
        self.shape = source.shape
        self.parts = [np.take(part, np.asarray(rows), axis=1) for part in source.parts]
        self.others = {name: (self._take(k, rows), self._take(v, rows)) for name, (k, v) in source.others.items()}

    def follow(self, rows: Sequence[int], shared: Sequence[int]) -> Self:
        moved = self._moved(as_rows(rows, self.batch or 0), shared)
        if not moved:
            return self
        if self.history is not None:
            return self.select_rows(rows)
        sources, first = [rows[row] for row in moved], min(shared[row] for row in moved)
        blocks = slice(first // KEYS, -(-self.length // KEYS))
        for index, part in enumerate(self.parts):
            here = blocks if index == 0 else slice(blocks.start * KEYS, blocks.stop * KEYS)
            part[:, moved, :, here] = part[:, sources, :, here]  # what is read is a copy, so rows may change places
        for pair in self.others.values():
            for array in pair:
                array[moved, :, first : self.length] = array[sources, :, first : self.length]
        if self.mask is not None:
            self.mask = self._take(self.mask, rows)
        return self
