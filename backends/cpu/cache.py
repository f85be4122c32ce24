"""Keys and values in the layout the kernels read: one block of memory for all layers, which grows by doubling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ...core.cache import Cache
from ...core.dtypes import numpy_dtype
from . import _kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    def storage(self) -> np.dtype[Any]:
        """The array element that holds :attr:`element`: 16-bit floats as unsigned integers."""
        if self.element in ("bfloat16", "float16"):
            return np.dtype(np.uint16)
        return np.dtype(self.element)


class CpuCache(Cache):
    """Keys ``[layers, B, G, capacity / 16, D, 16]`` and values ``[layers, B, G, capacity, D up to 16]``.

    In int8 every key and value has a scale of its own ``[layers, B, G, capacity]``.
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
            self._native = _kernels.Cache(self.shape.element, *self.parts)
        return self._native

    def _allocate(self, slots: int) -> None:
        shape = self.shape
        assert shape is not None
        lead = (len(shape.layers), self.batch or 0, shape.heads)
        width = -(-shape.head_dim // KEYS) * KEYS
        parts = [
            np.zeros((*lead, slots // KEYS, shape.head_dim, KEYS), shape.storage),
            np.zeros((*lead, slots, width), shape.storage),
        ]
        if shape.element == "int8":
            parts += [np.zeros((*lead, slots), np.float32) for _ in range(2)]
        for old, new in zip(self.parts, parts, strict=bool(self.parts)):
            blocks = -(-self.length // KEYS) if new is parts[0] else self.length
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
        layer, dim = self.shape.layers[name], self.shape.head_dim
        all_keys, all_values = self.parts[0][layer], self.parts[1][layer]
        slots = np.arange(start, stop)
        stored_keys, stored_values = self._stored(layer, 2, keys, slots), self._stored(layer, 3, values, slots)
        all_keys[:, :, slots // KEYS, :, slots % KEYS] = stored_keys.transpose(2, 0, 1, 3)
        all_values[:, :, start:stop, :dim] = stored_values
        batch, heads, blocks = all_keys.shape[:3]
        flat = all_keys.transpose(0, 1, 2, 4, 3).reshape(batch, heads, blocks * KEYS, dim)[:, :, :stop]
        return self._read(layer, 2, flat), self._read(layer, 3, all_values[:, :, :stop, :dim])

    def _stored(self, layer: int, part: int, array: np.ndarray, slots: NDArray[np.int64]) -> np.ndarray:
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
