"""Keys and values in buffers of a fixed number of slots, written at an offset, so that decoding never retraces."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from ...core.errors import InputError
from ...core.graph.cache import Cache, CachedRows
from .lengths import SMALLEST_CACHE, padded_length

if TYPE_CHECKING:
    from ...core.dtypes import Array

Buffers = dict[str, tuple[Any, ...]]
"""By attention its keys and values ``[B * G, slots, D]``; under ``""`` the embedded inputs ``[B, slots, E]``.

Rows and heads share an axis because attention multiplies them so: through any reshape in between XLA would write the
buffer once for the multiplication and once to give it back, and copy all of it for each.
"""

INPUTS = ""
"""The name that embedded inputs are kept under, for a RoPE that depends on the length; no attention is called that."""


class JaxCache(Cache):
    """Buffers of a static shape, grown by doubling; a compiled pass takes them and gives them back.

    A pass donates the old buffers to the new ones, so they are written in place and nobody else may hold them.

    Attributes:
        buffers: empty until the first pass.
        order: names of the attentions in the order of layers; what comes out of a compiled pass has lost it.
        positions: ``[B, length]`` on the host, for length-dependent RoPE only, as `regime` and `seen`; see
            ``core.graph.cache.History``.
    """

    joins = True

    def __init__(self, batch: int | None = None, capacity: int | None = None) -> None:
        super().__init__(batch, capacity)
        self.buffers: Buffers = {}
        self.order: tuple[str, ...] = ()
        self.positions: np.ndarray | None = None
        self.regime: np.ndarray | None = None
        self.seen: np.ndarray | None = None

    @property
    def slots(self) -> int:
        """Slots that the buffers have; 0 before the first pass."""
        return int(next(iter(self.buffers.values()))[0].shape[-2]) if self.buffers else 0

    def reserve(self, shapes: Mapping[str, tuple[jax.ShapeDtypeStruct, ...]], slots: int, sharding: Any) -> int:
        """Make room for `slots`: new buffers at first, then twice as many slots until it is enough.

        Args:
            shapes: per buffer its shape with one row and one slot, and its dtype.

        Returns:
            The slots there are now.
        """
        if not self.buffers:
            slots = padded_length(max(slots, self.capacity or 0, SMALLEST_CACHE), SMALLEST_CACHE)
            self.buffers = {
                name: tuple(
                    jnp.zeros((like.shape[0] * (self.batch or 1), slots, like.shape[2]), like.dtype, device=sharding)
                    for like in parts
                )
                for name, parts in shapes.items()
            }
            self.order = tuple(name for name in shapes if name != INPUTS)
            return self.slots
        wanted = self.slots
        while wanted < slots:
            wanted *= 2
        if wanted > self.slots:
            self.buffers = _grow(self.buffers, wanted - self.slots)
        return self.slots

    def put(self, name: str, *parts: Any) -> None:
        """Write keys and values ``[B, G, S, D]`` into the first slots of buffers that there are."""
        self.buffers[name] = tuple(
            write(buffer, jax.device_put(part.reshape(-1, *part.shape[2:]), buffer.sharding), jnp.int32(0))
            for buffer, part in zip(self.buffers[name], parts, strict=True)
        )

    def names(self) -> tuple[str, ...]:
        return self.order

    def read(self, name: str, start: int = 0) -> tuple[Any, Any]:
        count, batch = self.length - start, self.batch or 1
        keys, values = (
            # The start is data: one trace for each count, not for each place.
            jax.lax.dynamic_slice_in_dim(buffer, start, count, axis=1).reshape(
                batch, buffer.shape[0] // batch, count, buffer.shape[-1]
            )
            for buffer in self.buffers[name]
        )
        return keys, values

    def crop(self, max_length: int) -> None:
        super().crop(max_length)
        if self.positions is not None and self.regime is not None and self.positions.shape[1] > self.length:
            kept = self.length
            self.positions, self.regime = self.positions[:, :kept], self.regime * 0 - 1  # the next pass starts over
            self.seen = None if self.seen is None else self.seen[:, :, :kept, :kept]

    def reset(self) -> None:
        self.length, self.mask = 0, None
        self.positions = self.regime = self.seen = None

    def _take(self, array: Any, rows: Sequence[int]) -> Any:
        return array[np.asarray(rows, np.int32)]

    def _assemble(self, parts: Sequence[CachedRows]) -> None:
        caches = [part.cache for part in parts]
        first = caches[0]
        assert isinstance(first, JaxCache)
        self.order = first.order
        if any(cache.mask is not None for cache in caches) or any(len(part.slots) < self.length for part in parts):
            self.mask = self._on_host(parts, [_host_mask(cache) for cache in caches])
        if first.positions is not None:
            if any(cache.seen is not None for cache in caches):  # type: ignore[attr-defined]
                raise InputError("rows whose attention has a mask of its own do not join others")
            self.positions = self._on_host(parts, [cache.positions for cache in caches])  # type: ignore[attr-defined]
            regimes = [cache.regime[list(part.rows)] for part, cache in zip(parts, caches, strict=True)]  # type: ignore[attr-defined]
            self.regime = np.concatenate(regimes)
        slots = padded_length(max(self.length, self.capacity or 0, SMALLEST_CACHE), SMALLEST_CACHE)
        whole, place = None, 0
        for part, cache in zip(parts, caches, strict=True):
            # Which row and slot each is from, and whether it is from this part at all: data, so few shapes are traced.
            rows, taken = np.zeros(self.batch or 1, np.int32), np.zeros(slots, np.int32)
            here = np.zeros((self.batch or 1, slots), bool)
            rows[place : place + len(part.rows)] = part.rows
            taken[self.length - len(part.slots) : self.length] = part.slots
            here[place : place + len(part.rows), self.length - len(part.slots) : self.length] = True
            whole = _taken(cache.buffers, rows, taken, here, whole, cache.batch or 1)  # type: ignore[attr-defined]
            place += len(part.rows)
        self.buffers = whole or {}

    def _on_host(self, parts: Sequence[CachedRows], arrays: Sequence[Any]) -> np.ndarray:
        """``[B, length]`` arrays of the host, right-aligned in one."""
        laid, place = np.zeros((self.batch or 1, self.length), arrays[0].dtype), 0
        for part, array in zip(parts, arrays, strict=True):
            laid[place : place + len(part.rows), self.length - len(part.slots) :] = array[list(part.rows)][
                :, part.slots
            ]
            place += len(part.rows)
        return laid

    def _select(self, source: Self, rows: Sequence[int]) -> None:
        self.order = source.order
        self.buffers = _rows(source.buffers, np.asarray(rows, np.int32), source.batch or 1)
        self.positions = None if source.positions is None else source.positions[rows]
        self.regime = None if source.regime is None else source.regime[rows]
        self.seen = source.seen
        if source.seen is not None and source.seen.shape[0] > 1:
            self.seen = source.seen[rows]


@functools.partial(jax.jit, static_argnums=1)
def _grow(buffers: Buffers, more: int) -> Buffers:
    def grow(buffer: Array) -> Array:
        return jnp.pad(buffer, [(0, 0), (0, more), (0, 0)])

    return {name: tuple(grow(part) for part in parts) for name, parts in buffers.items()}


@functools.partial(jax.jit, static_argnums=2)
def _rows(buffers: Buffers, rows: Array, batch: int) -> Buffers:
    def take(buffer: Array) -> Array:
        by_row = buffer.reshape(batch, -1, *buffer.shape[1:])
        return jnp.take(by_row, rows, axis=0).reshape(-1, *buffer.shape[1:])

    return {name: tuple(take(part) for part in parts) for name, parts in buffers.items()}


@functools.partial(jax.jit, static_argnums=5)
def _taken(buffers: Buffers, rows: Array, slots: Array, here: Array, whole: Buffers | None, batch: int) -> Buffers:
    """Rows and slots of some buffers where `here` ``[B, slots]`` is true; elsewhere what `whole` has, or zeros."""

    def take(buffer: Array, other: Array | None) -> Array:
        by_row = buffer.reshape(batch, -1, *buffer.shape[1:])  # [B, G, slots, D]
        found = jnp.take(jnp.take(by_row, rows, axis=0), slots, axis=2)
        before = jnp.zeros((), found.dtype) if other is None else other.reshape(found.shape)
        return jnp.where(here[:, None, :, None], found, before).reshape(-1, *found.shape[2:])

    return {
        name: tuple(take(part, None if whole is None else whole[name][index]) for index, part in enumerate(parts))
        for name, parts in buffers.items()
    }


def _host_mask(cache: Cache) -> np.ndarray:
    return np.ones((cache.batch or 1, cache.length), bool) if cache.mask is None else np.asarray(cache.mask)


class CacheWindow(Cache):
    """What attention sees of a cache inside a traced pass: it writes at `start` and gets all slots back.

    Slots beyond the written ones hold nothing; the mask of the pass covers them.

    Args:
        buffers: the cache's, or ``None`` for a pass without one.
        written: ``[S]`` booleans, false for tokens that only pad the pass to its length. Their values are zeroed,
            because even with a weight of zero an infinite one would spoil the sum.
    """

    def __init__(self, buffers: Buffers | None, start: Array, written: Array) -> None:
        super().__init__()
        self.buffers = buffers
        self.start = start
        self.written = written

    def update(self, name: str, keys: Array, values: Array) -> tuple[Array, Array]:
        if keys.shape[2] > 1:
            values = jnp.where(self.written[:, None], values, jnp.zeros((), values.dtype))
        if self.buffers is None:
            return keys, values
        self.buffers[name] = tuple(
            write(buffer, new.reshape(-1, *new.shape[2:]), self.start)
            for buffer, new in zip(self.buffers[name], (keys, values), strict=True)
        )
        all_keys, all_values = (buffer.reshape(*keys.shape[:2], *buffer.shape[1:]) for buffer in self.buffers[name])
        return all_keys, all_values


def write(buffer: Array, new: Array, start: Array) -> Array:
    """`buffer` ``[n, slots, D]`` with `new` ``[n, S, D]`` put into its slots from `start` on."""
    zero = jnp.int32(0)
    return jax.lax.dynamic_update_slice(buffer, new.astype(buffer.dtype), (zero, start, zero))


def shape_of(array: Array) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array, traced or not."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype)  # type: ignore[no-untyped-call]


class CacheShapes(Cache):
    """Learns which buffers a graph wants, from a pass that is only traced."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, tuple[jax.ShapeDtypeStruct, ...]] = {}

    def update(self, name: str, keys: Array, values: Array) -> tuple[Array, Array]:
        self.shapes[name] = (shape_of(keys[0]), shape_of(values[0]))
        return keys, values
