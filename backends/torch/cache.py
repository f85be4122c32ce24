"""Keys and values in buffers that are written in place and grow by doubling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from ...core.graph.cache import Cache, CachedRows, as_rows

SMALLEST_BUFFER = 64
"""Slots of a first buffer when nobody said how many will be needed."""


class TorchCache(Cache):
    """Per attention two buffers ``[B, G, capacity, D]``; what comes back are views of their used part."""

    joins = True

    def __init__(self, batch: int | None = None, capacity: int | None = None) -> None:
        super().__init__(batch, capacity)
        self.buffers: dict[str, tuple[Tensor, Tensor]] = {}

    def update(self, name: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        start, stop = self.length, self.length + keys.shape[2]
        buffers = self.buffers.get(name)
        if torch.is_grad_enabled() and (keys.requires_grad or values.requires_grad):
            # Writing in place would rewrite what autograd has saved.
            if buffers is not None and start:
                keys = torch.cat([buffers[0][:, :, :start], keys], dim=2)
                values = torch.cat([buffers[1][:, :, :start], values], dim=2)
            self.buffers[name] = (keys, values)
            return keys, values
        if buffers is not None and buffers[0].is_inference() and not torch.is_inference_mode_enabled():
            buffers = buffers[0].clone(), buffers[1].clone()  # torch forbids writing into what inference mode made
            self.buffers[name] = buffers
        if buffers is None or buffers[0].shape[2] < stop:
            buffers = self._grow(buffers, keys, values, stop)
            self.buffers[name] = buffers
        key_buffer, value_buffer = buffers
        key_buffer.narrow(2, start, stop - start).copy_(keys)
        value_buffer.narrow(2, start, stop - start).copy_(values)
        return key_buffer.narrow(2, 0, stop), value_buffer.narrow(2, 0, stop)

    def _grow(
        self, old: tuple[Tensor, Tensor] | None, keys: Tensor, values: Tensor, needed: int
    ) -> tuple[Tensor, Tensor]:
        before = 0 if old is None else old[0].shape[2]
        capacity = max(needed, self.capacity or 0, 2 * before, SMALLEST_BUFFER)
        grown = []
        for index, new in enumerate((keys, values)):
            buffer = new.new_empty((new.shape[0], new.shape[1], capacity, new.shape[3]))
            if old is not None:
                buffer[:, :, : self.length] = old[index][:, :, : self.length]
            grown.append(buffer)
        return grown[0], grown[1]

    def names(self) -> tuple[str, ...]:
        return tuple(self.buffers)

    def read(self, name: str, start: int = 0) -> tuple[Tensor, Tensor]:
        keys, values = self.buffers[name]
        return keys[:, :, start : self.length], values[:, :, start : self.length]

    def reset(self) -> None:
        self.length, self.mask, self.history = 0, None, None

    def _assemble(self, parts: Sequence[CachedRows]) -> None:
        super()._assemble(parts)
        room = max(self.length, self.capacity or 0, SMALLEST_BUFFER) - self.length
        for name in parts[0].cache.names():
            keys, values = (
                self._laid([(part.cache.buffers[name][which], part) for part in parts], axis=2, room=room)  # type: ignore[attr-defined]
                for which in range(2)
            )
            self.buffers[name] = keys, values

    def _mask_of(self, part: CachedRows) -> Tensor:
        cache = part.cache
        assert isinstance(cache, TorchCache)
        known: Tensor | None = cache.mask
        if known is not None:
            return known
        device = next(iter(cache.buffers.values()))[0].device
        return torch.ones((cache.batch or 1, cache.length), dtype=torch.bool, device=device)

    def _laid(self, arrays: Sequence[tuple[Tensor, CachedRows]], axis: int, room: int = 0) -> Tensor:
        first = arrays[0][0]
        shape = [sum(len(part.rows) for _, part in arrays), *first.shape[1:]]
        shape[axis] = self.length + room
        laid, place = first.new_zeros(shape), 0
        for array, part in arrays:
            run = part.run
            if run is not None:
                found = array.narrow(axis, run.start, len(part.slots))
            else:
                found = array.index_select(axis, torch.from_numpy(part.slots).to(array.device))
            here = laid.narrow(0, place, len(part.rows)).narrow(axis, self.length - len(part.slots), len(part.slots))
            here.copy_(found if list(part.rows) == list(range(len(found))) else self._take(found, part.rows))
            place += len(part.rows)
        return laid

    def _take(self, array: Tensor, rows: Sequence[int]) -> Tensor:
        return array[torch.tensor(rows, device=array.device)]

    def _select(self, source: Self, rows: Sequence[int]) -> None:
        self.buffers = {name: (self._take(k, rows), self._take(v, rows)) for name, (k, v) in source.buffers.items()}

    def follow(self, rows: Sequence[int], shared: Sequence[int]) -> Self:
        moved = self._moved(as_rows(rows, self.batch or 0), shared)
        if not moved:
            return self
        buffers = [buffer for pair in self.buffers.values() for buffer in pair]
        if self.history is not None or any(buffer.requires_grad for buffer in buffers):
            return self.select_rows(rows)
        device, first = buffers[0].device, min(shared[row] for row in moved)
        here, sources = (torch.tensor(found, device=device) for found in (moved, [rows[row] for row in moved]))
        with torch.inference_mode(buffers[0].is_inference()):  # what it made is written to in it alone
            for buffer in buffers:
                used = buffer.narrow(2, first, self.length - first)
                used.index_copy_(0, here, used.index_select(0, sources))
        if self.mask is not None:
            self.mask = self._take(self.mask, rows)
        return self
