"""The array-API names that the spec uses, on arrays without contents; see :mod:`polyllama.core.memory.ghost`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UnsupportedError
from .ghost import Ghost, Memory, broadcast, elementwise, matmul, new, take

_ELEMENTWISE = [
    "abs",
    "add",
    "sqrt",
    "exp",
    "expm1",
    "log",
    "log1p",
    "cos",
    "sin",
    "tan",
    "tanh",
    "floor",
    "ceil",
    "round",
    "sign",
    "square",
    "negative",
    "reciprocal",
    "rsqrt",
    "subtract",
    "multiply",
    "divide",
    "pow",
    "maximum",
    "minimum",
    "remainder",
    "floor_divide",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "bitwise_left_shift",
    "bitwise_right_shift",
    "bitwise_invert",
    "logical_and",
    "logical_or",
    "logical_not",
    "erf",
    "sigmoid",
]
_COMPARISONS = ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "isfinite", "isnan", "isinf"]


class NotPlannedError(UnsupportedError, AttributeError):
    """A name of the array API that ghosts do not know."""


class GhostNamespace:
    """``xp`` for the graph's own definitions, on ghosts that `memory` counts.

    >>> xp = GhostNamespace(Memory())
    >>> xp.matmul(xp.zeros((2, 3)), xp.zeros((3, 4))).shape, xp.memory.peak
    ((2, 4), 104)
    """

    bool, uint8, int32, uint32, int64 = "bool", "uint8", "int32", "uint32", "int64"
    float16, bfloat16, float32, float64 = "float16", "bfloat16", "float32", "float64"
    pi, inf, newaxis = 3.141592653589793, float("inf"), None

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def __getattr__(self, name: str) -> Callable[..., Ghost]:
        if name in _ELEMENTWISE:
            return elementwise
        if name in _COMPARISONS:
            return lambda *operands: elementwise(*operands, dtype="bool")
        raise NotPlannedError(
            f"arrays without contents have no {name!r}, so that what uses it cannot be planned",
            hint="a task's or a backend's plugin may do without",
        )

    def empty(self, shape: int | Sequence[int], *, dtype: str | None = None, device: Any = None) -> Ghost:
        """A new array."""
        return new(self.memory, (shape,) if isinstance(shape, int) else shape, dtype or "float32")

    zeros = ones = empty

    def full(
        self, shape: int | Sequence[int], fill_value: Any, *, dtype: str | None = None, device: Any = None
    ) -> Ghost:
        """A new array."""
        return self.empty(shape, dtype=dtype)

    def empty_like(self, x: Ghost, *, dtype: str | None = None, device: Any = None) -> Ghost:
        """A new array of the same shape."""
        return new(self.memory, x.shape, dtype or x.dtype)

    zeros_like = ones_like = empty_like

    def full_like(self, x: Ghost, fill_value: Any, *, dtype: str | None = None, device: Any = None) -> Ghost:
        """A new array of the same shape."""
        return self.empty_like(x, dtype=dtype)

    def asarray(self, value: Any, *, dtype: str | None = None, device: Any = None) -> Ghost:
        """A ghost as it is, anything else as one of its shape."""
        if isinstance(value, Ghost):
            return value if dtype in (None, value.dtype) else self.astype(value, str(dtype))
        return new(self.memory, getattr(value, "shape", ()), dtype or str(getattr(value, "dtype", "float32")))

    def arange(
        self, start: int, stop: int | None = None, step: int = 1, *, dtype: str | None = None, device: Any = None
    ) -> Ghost:
        """A new array of so many numbers."""
        return new(
            self.memory, (len(range(start, stop, step) if stop is not None else range(start)),), dtype or "int64"
        )

    def astype(self, x: Ghost, dtype: str, *, copy: Any = True, device: Any = None) -> Ghost:
        """Another dtype: a copy, even to the same one (NumPy's rule for the function)."""
        return elementwise(x, dtype=dtype)

    def reshape(self, x: Ghost, shape: Sequence[int]) -> Ghost:
        """Another shape."""
        return x.reshaped(shape)

    def expand_dims(self, x: Ghost, *, axis: int = 0) -> Ghost:
        """An axis of one more."""
        place = axis % (x.ndim + 1)
        return x[(*[slice(None)] * place, None)]

    def squeeze(self, x: Ghost, axis: int | Sequence[int]) -> Ghost:
        """Without axes of one."""
        gone = {a % x.ndim for a in ((axis,) if isinstance(axis, int) else axis)}
        return x[tuple(0 if a in gone else slice(None) for a in range(x.ndim))]

    def permute_dims(self, x: Ghost, axes: Sequence[int]) -> Ghost:
        """Axes in another order."""
        return x.permuted(axes)

    def matrix_transpose(self, x: Ghost) -> Ghost:
        """The last two axes exchanged."""
        return x.permuted([*range(x.ndim - 2), x.ndim - 1, x.ndim - 2])

    def matmul(self, a: Ghost, b: Ghost) -> Ghost:
        """A product of matrices."""
        return matmul(a, b)

    def vecdot(self, a: Ghost, b: Ghost, *, axis: int = -1) -> Ghost:
        """Dot products along the last axis."""
        return new(self.memory, broadcast(a.shape, b.shape)[:-1], a.dtype, (a, b))

    def take(self, x: Ghost, indices: Ghost, *, axis: int = 0) -> Ghost:
        """Entries along an axis."""
        return take(x, indices, axis)

    def take_along_axis(self, x: Ghost, indices: Ghost, *, axis: int = -1) -> Ghost:
        """Entries along an axis, others for each place beside it."""
        return new(self.memory, indices.shape, x.dtype, (x, indices))

    def flip(self, x: Ghost, *, axis: int | None = None) -> Ghost:
        """Backwards: a view in NumPy, counted as the copy that it is elsewhere."""
        return elementwise(x)

    def concat(self, arrays: Sequence[Ghost], *, axis: int = 0) -> Ghost:
        """Arrays one after the other, laid out as the first."""
        first = arrays[0]
        axis %= first.ndim
        shape = list(first.shape)
        shape[axis] = sum(a.shape[axis] for a in arrays)
        order = sorted(range(first.ndim), key=lambda a: -first.strides[a])
        return new(self.memory, shape, first.dtype, arrays, order)

    def stack(self, arrays: Sequence[Ghost], *, axis: int = 0) -> Ghost:
        """Arrays along a new axis."""
        shape = list(arrays[0].shape)
        shape.insert(axis % (len(shape) + 1), len(arrays))
        return new(self.memory, shape, arrays[0].dtype, arrays)

    def where(self, condition: Ghost, x: Any, y: Any) -> Ghost:
        """One or the other, by element."""
        kept = [v for v in (x, y) if isinstance(v, Ghost)]
        shape = broadcast(condition.shape, *(v.shape for v in kept))
        dtype = max(kept, key=lambda v: v.size).dtype if kept else "float32"
        return new(self.memory, shape, dtype, (condition, *kept))

    def clip(self, x: Ghost, min: Any = None, max: Any = None) -> Ghost:
        """Within bounds."""
        return elementwise(x)

    def broadcast_to(self, x: Ghost, shape: Sequence[int]) -> Ghost:
        """A larger shape over the same storage."""
        padding = len(shape) - x.ndim
        strides = [0] * padding + [0 if n == 1 else s for n, s in zip(x.shape, x.strides, strict=True)]
        return x.view(shape, strides)

    def cumulative_sum(self, x: Ghost, *, axis: int | None = None, dtype: str | None = None, **_: Any) -> Ghost:
        """Running sums."""
        return elementwise(x, dtype=dtype)

    def _reduced(
        self, x: Ghost, *, axis: Any = None, keepdims: Any = False, dtype: str | None = None, **_: Any
    ) -> Ghost:
        axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
        gone = {a % x.ndim for a in axes}
        shape = [1 if a in gone else n for a, n in enumerate(x.shape) if keepdims or a not in gone]
        return new(self.memory, shape, dtype or x.dtype, (x,))

    sum = mean = max = min = prod = all = any = argmax = argmin = var = std = _reduced
