"""Keys and values in buffers of a fixed number of slots, written at an offset, so that decoding never retraces."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from ...core.graph.cache import Cache
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
        positions: ``[B, length]`` on the host, for length-dependent RoPE only, as `regime`; see ``core.cache.History``.
    """

    def __init__(self, batch: int | None = None, capacity: int | None = None) -> None:
        super().__init__(batch, capacity)
        self.buffers: Buffers = {}
        self.positions: np.ndarray | None = None
        self.regime: np.ndarray | None = None

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
            return self.slots
        wanted = self.slots
        while wanted < slots:
            wanted *= 2
        if wanted > self.slots:
            self.buffers = _grow(self.buffers, wanted - self.slots)
        return self.slots

    def reset(self) -> None:
        self.length, self.mask = 0, None
        self.positions = self.regime = None

    def _take(self, array: Any, rows: Sequence[int]) -> Any:
        return array[np.asarray(rows, np.int32)]

    def _select(self, source: Self, rows: Sequence[int]) -> None:
        self.buffers = _rows(source.buffers, np.asarray(rows, np.int32), source.batch or 1)
        self.positions = None if source.positions is None else source.positions[rows]
        self.regime = None if source.regime is None else source.regime[rows]


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
