"""Keys and values in buffers that are allocated ahead and grow by steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import mlx.core as mx

from ...core.graph.cache import Cache, CachedRows, as_rows

STEP = 256
"""Slots that a buffer grows by."""


class MlxCache(Cache):
    """Per attention two buffers ``[B, G, capacity, D]``; what comes back are slices of their used part.

    MLX arrays are values: writing makes a new one, in the old one's memory where nothing else still reads that. So a
    cache of chosen rows, or an output that is still being computed, is never changed under somebody's hands.
    """

    joins = True

    def __init__(self, batch: int | None = None, capacity: int | None = None) -> None:
        super().__init__(batch, capacity)
        self.buffers: dict[str, tuple[mx.array, mx.array]] = {}

    def update(self, name: str, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        start, stop = self.length, self.length + keys.shape[2]
        buffers = self.buffers.get(name)
        if buffers is None or buffers[0].shape[2] < stop:
            buffers = self._grown(buffers, keys, values, stop)
            self.buffers[name] = buffers
        key_buffer, value_buffer = buffers
        key_buffer[:, :, start:stop] = keys
        value_buffer[:, :, start:stop] = values
        return key_buffer[:, :, :stop], value_buffer[:, :, :stop]

    def _grown(
        self, old: tuple[mx.array, mx.array] | None, keys: mx.array, values: mx.array, needed: int
    ) -> tuple[mx.array, mx.array]:
        capacity = -(-needed // STEP) * STEP
        if self.capacity is not None and self.capacity >= needed:
            capacity = self.capacity
        grown = []
        for index, new in enumerate((keys, values)):
            used = self.length if old is not None else 0
            fresh = mx.zeros((new.shape[0], new.shape[1], capacity - used, new.shape[3]), new.dtype)
            grown.append(fresh if old is None else mx.concatenate([old[index][:, :, :used], fresh], axis=2))
        return grown[0], grown[1]

    def names(self) -> tuple[str, ...]:
        return tuple(self.buffers)

    def read(self, name: str, start: int = 0) -> tuple[mx.array, mx.array]:
        keys, values = self.buffers[name]
        return keys[:, :, start : self.length], values[:, :, start : self.length]

    def reset(self) -> None:
        self.length, self.mask, self.history = 0, None, None

    def _assemble(self, parts: Sequence[CachedRows]) -> None:
        super()._assemble(parts)
        room = max(-(-self.length // STEP) * STEP, self.capacity or 0) - self.length
        for name in parts[0].cache.names():
            keys, values = (
                self._laid([(part.cache.buffers[name][which], part) for part in parts], axis=2, room=room)  # type: ignore[attr-defined]
                for which in range(2)
            )
            self.buffers[name] = keys, values
        # Another thread may go on, which cannot compute what this one has only described.
        held = [array for pair in self.buffers.values() for array in pair]
        history = () if self.history is None else (self.history.embeds, self.history.positions)
        mx.async_eval(*held, *history, *(() if self.mask is None else (self.mask,)))  # type: ignore[no-untyped-call]

    def _mask_of(self, part: CachedRows) -> mx.array:
        known: mx.array | None = part.cache.mask
        return mx.ones((part.cache.batch or 1, part.cache.length), mx.bool_) if known is None else known

    def _laid(self, arrays: Sequence[tuple[mx.array, CachedRows]], axis: int, room: int = 0) -> mx.array:
        laid = []
        for array, part in arrays:
            taken = mx.take(self._take(array, part.rows), mx.array(part.slots), axis=axis)
            sizes = [(0, 0)] * taken.ndim
            sizes[axis] = (self.length - len(part.slots), room)
            laid.append(mx.pad(taken, sizes))
        return mx.concatenate(laid, axis=0)

    def _take(self, array: mx.array, rows: Sequence[int]) -> mx.array:
        return array[mx.array(list(rows))]

    def _select(self, source: Self, rows: Sequence[int]) -> None:
        self.buffers = {name: (self._take(k, rows), self._take(v, rows)) for name, (k, v) in source.buffers.items()}

    def follow(self, rows: Sequence[int], shared: Sequence[int]) -> Self:
        moved = self._moved(as_rows(rows, self.batch or 0), shared)
        if not moved:
            return self
        if self.history is not None:
            return self.select_rows(rows)
        chosen, first = mx.array(list(rows)), min(shared[row] for row in moved)
        for pair in self.buffers.values():
            for buffer in pair:
                buffer[:, :, first : self.length] = buffer[:, :, first : self.length][chosen]
        if self.mask is not None:
            self.mask = self._take(self.mask, rows)
        return self
