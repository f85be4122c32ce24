"""Arrays without contents: a graph runs on them by its own definitions, and the memory it would take is counted.

A :class:`Ghost` has a shape, a dtype, strides and a share in a storage. Storages live as long as some array over them
does, by Python's own reference counting, so a pass over ghosts holds and frees exactly what the same pass holds and
frees in a library that computes at once (NumPy, torch). :class:`Memory` counts; its ``peak`` is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from ..dtypes import itemsize

_RANK = {
    name: rank
    for rank, names in enumerate(
        (
            ("bool",),
            ("uint8", "int8"),
            ("int16", "uint16"),
            ("int32", "uint32"),
            ("int64", "uint64"),
            ("bfloat16", "float16"),
            ("float32",),
            ("float64",),
        )
    )
    for name in names
}


class Memory:
    """Counts the bytes of living storages.

    Attributes:
        live: bytes now; ``peak``: the most at any time.
    """

    def __init__(self) -> None:
        self.live = self.peak = 0

    def allocate(self, nbytes: int, inputs: Sequence[Ghost] = (), reuses: bool = False) -> Storage:
        """A new storage, made from `inputs`; `reuses`: by an operation that could write into one of them."""
        return Storage(self, nbytes)

    def viewed(self, storage: Storage) -> None:
        """Another array over `storage` has been made."""

    def added(self, nbytes: int) -> None:
        """`nbytes` more are in use."""
        self.live += nbytes
        self.peak = max(self.peak, self.live)

    @contextmanager
    def workspace(self, nbytes: int) -> Iterator[None]:
        """What an operation takes for itself while it runs."""
        self.added(nbytes)
        try:
            yield
        finally:
            self.live -= nbytes


class Storage:
    """Bytes that one or several arrays share; gone with the last of them."""

    __slots__ = ("__weakref__", "memory", "nbytes")

    def __init__(self, memory: Memory, nbytes: int) -> None:
        self.memory, self.nbytes = memory, nbytes
        memory.added(nbytes)

    def __del__(self) -> None:
        self.memory.live -= self.nbytes


class Ghost:
    """An array without contents: shape, dtype, strides (in elements) and a share in a storage."""

    __slots__ = ("dtype", "shape", "storage", "strides")

    def __init__(self, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...], storage: Storage) -> None:
        self.shape, self.dtype, self.strides, self.storage = shape, dtype, strides, storage

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.size * itemsize(self.dtype)

    @property
    def memory(self) -> Memory:
        """Where it is counted."""
        return self.storage.memory

    def view(self, shape: Sequence[int], strides: Sequence[int]) -> Ghost:
        """Another array over the same storage."""
        self.memory.viewed(self.storage)
        return Ghost(tuple(shape), self.dtype, tuple(strides), self.storage)

    def permuted(self, axes: Sequence[int]) -> Ghost:
        """Axes in another order; nothing is copied."""
        return self.view([self.shape[a] for a in axes], [self.strides[a] for a in axes])

    def reshaped(self, shape: Sequence[int]) -> Ghost:
        """Another shape, over the same storage where strides allow, as every array library does it."""
        shape = _inferred(shape, self.size)
        strides = _strides_of_view(self.shape, self.strides, shape)
        return new(self.memory, shape, self.dtype, (self,)) if strides is None else self.view(shape, strides)

    def __getitem__(self, key: Any) -> Ghost:
        keys = key if isinstance(key, tuple) else (key,)
        missing = self.ndim - sum(k is not None and k is not Ellipsis for k in keys)
        place = keys.index(Ellipsis) if any(k is Ellipsis for k in keys) else len(keys)
        keys = (*keys[:place], *[slice(None)] * missing, *keys[place + 1 :])
        shape, strides, axis = [], [], 0
        for k in keys:
            if k is None:
                shape.append(1)
                strides.append(0)
                continue
            if isinstance(k, slice):
                start, stop, step = k.indices(self.shape[axis])
                shape.append(len(range(start, stop, step)))
                strides.append(self.strides[axis] * step)
            elif isinstance(k, Ghost):
                return take(self, k, axis)
            axis += 1
        return self.view(shape, strides)

    def __neg__(self) -> Ghost:
        return elementwise(self)

    __invert__ = __abs__ = __neg__

    def _with(self, other: Any) -> Ghost:
        return elementwise(self, other)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __pow__ = _with
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __lshift__ = __rshift__ = __mod__ = _with
    __floordiv__ = __rpow__ = _with

    def _compared(self, other: Any) -> Any:
        return elementwise(self, other, dtype="bool")

    __lt__ = __le__ = __gt__ = __ge__ = _compared

    def __eq__(self, other: object) -> Any:
        return elementwise(self, other, dtype="bool")

    def __ne__(self, other: object) -> Any:
        return elementwise(self, other, dtype="bool")

    __hash__ = None  # type: ignore[assignment]

    def __matmul__(self, other: Ghost) -> Ghost:
        return matmul(self, other)


def new(
    memory: Memory,
    shape: Sequence[int],
    dtype: str,
    inputs: Sequence[Ghost] = (),
    order: Sequence[int] | None = None,
    *,
    counted: bool = True,
    reuses: bool = False,
) -> Ghost:
    """A newly allocated array.

    Args:
        inputs: what it is made from.
        order: the axes from the slowest to the fastest; row-major by default.
        counted: whether it takes memory; what a pass is given does not.
        reuses: whether a library may write it over one of the inputs.
    """
    shape = tuple(shape)
    strides, step = [0] * len(shape), 1
    for axis in reversed(range(len(shape)) if order is None else order):
        strides[axis] = step
        step *= shape[axis]
    storage = memory.allocate(math.prod(shape) * itemsize(dtype), inputs, reuses) if counted else Storage(memory, 0)
    return Ghost(shape, dtype, tuple(strides), storage)


def given(memory: Memory, shape: Sequence[int], dtype: str) -> Ghost:
    """An array that is there anyway and is not counted: a weight, an input."""
    return new(memory, shape, dtype, counted=False)


def elementwise(*operands: Any, dtype: str | None = None) -> Ghost:
    """One new array of the operands' broadcast shape, laid out as the first of them that has it."""
    ghosts = [x for x in operands if isinstance(x, Ghost)]
    shape = broadcast(*(g.shape for g in ghosts))
    if dtype is None:
        dtype = max((g.dtype for g in ghosts), key=_RANK.__getitem__)
        floats = any(isinstance(x, float) for x in operands)
        if floats and _RANK[dtype] < _RANK["float16"]:
            dtype = "float32"
    like = next((g for g in ghosts if g.shape == shape), None)
    order = None if like is None else sorted(range(len(shape)), key=lambda axis: -like.strides[axis])
    return new(ghosts[0].memory, shape, dtype, ghosts, order, reuses=True)


def matmul(a: Ghost, b: Ghost) -> Ghost:
    """``[..., n, k] @ [..., k, m]``, row-major."""
    shape = (*broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    return new(a.memory, shape, max(a.dtype, b.dtype, key=_RANK.__getitem__), (a, b))


def take(x: Ghost, indices: Ghost, axis: int) -> Ghost:
    """Entries along an axis, copied."""
    return new(x.memory, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype, (x, indices))


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The common shape of several."""
    length = max(map(len, shapes))
    padded = [(1,) * (length - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((n for n in column if n != 1), 1) for column in zip(*padded, strict=True))


def _inferred(shape: Sequence[int], size: int) -> tuple[int, ...]:
    known = math.prod(n for n in shape if n != -1)
    return tuple(size // max(known, 1) if n == -1 else n for n in shape)


def _strides_of_view(shape: Sequence[int], strides: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...] | None:
    """Strides under which the same memory has another shape; ``None`` where it must be copied."""
    old = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    found: list[int] = []
    position = 0
    rest: list[int] = list(wanted)
    while rest:
        if rest[0] == 1:
            found.append(0)
            rest.pop(0)
            continue
        if position == len(old):
            return None
        # A run of old axes against a run of new ones with as many elements.
        take_old, count_old = position + 1, old[position][0]
        take_new, count_new = 1, rest[0]
        while count_old != count_new:
            if count_new < count_old:
                count_new *= rest[take_new]
                take_new += 1
            else:
                count_old *= old[take_old][0]
                take_old += 1
        run = old[position:take_old]
        if any(s != following[0] * following[1] for (_, s), following in pairwise(run)):
            return None
        step = run[-1][1]
        part: list[int] = []
        for n in reversed(rest[:take_new]):
            part.append(step)
            step *= n
        found += reversed(part)
        position, rest = take_old, rest[take_new:]
    return tuple(found)
