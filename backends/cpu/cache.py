"""Keys and values in the layout the kernels read: one block of memory for all layers, which grows by doubling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ...core.dtypes import numpy_dtype
from ...core.graph.cache import Cache
from . import _kernels

KEYS = 16
"""Keys that lie side by side, so that a register holds one component of so many of them."""

STEP = 64
"""Slots that storage grows by at least."""


@dataclass(frozen=True)
class CacheShape:
    """What a model's caches hold: attentions by name with their place, key/value heads and their size."""

    layers: Mapping[str, int]
    heads: int
    head_dim: int
    element: str = "float32"

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

    def _views(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """A layer's keys and values with their axes in the order of slots and components."""
        assert self.shape is not None
        keys, values = self.parts[0][layer], self.parts[1][layer]
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

    def reset(self) -> None:
        self.length, self.mask = 0, None

    def _take(self, array: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        taken: np.ndarray = array[np.asarray(rows)]
        return taken

    def _select(self, source: Self, rows: Sequence[int]) -> None:
        self.shape = source.shape
        self.parts = [np.take(part, np.asarray(rows), axis=1) for part in source.parts]
        self.others = {name: (self._take(k, rows), self._take(v, rows)) for name, (k, v) in source.others.items()}
