"""The array-API names that the spec uses, over ``mlx.core``.

MLX has most of them, some only in recent versions and some with other arguments: it has no ``device=``, calls its
boolean type ``bool_``, and converts by a method. What is named here does not depend on MLX's version; any other name is
MLX's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

Array = mx.array


_KINDS = {
    "signed integer": mx.signedinteger,
    "unsigned integer": mx.unsignedinteger,
    "integral": mx.integer,
    "real floating": mx.floating,
    "complex floating": mx.complexfloating,
    "numeric": mx.number,
}


class MlxNamespace:
    """``xp`` for the graph's own definitions and for losses, on MLX arrays.

    >>> xp = MlxNamespace()
    >>> xp.permute_dims(xp.ones((2, 3), device=None), (1, 0)).shape
    (3, 2)
    """

    bool = mx.bool_

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(mx, name)
        except AttributeError:
            raise AttributeError(f"MLX has nothing called {name!r}, and this namespace adds none") from None

    @staticmethod
    def asarray(value: Any, *, dtype: Any = None, device: Any = None) -> Array:
        """An array of `value`; an MLX array of the right dtype as it is."""
        if isinstance(value, mx.array):
            return value if dtype is None or value.dtype == dtype else value.astype(dtype)
        return mx.array(value) if dtype is None else mx.array(value, dtype=dtype)

    @staticmethod
    def astype(x: Array, dtype: Any, *, copy: Any = True, device: Any = None) -> Array:
        """`x` in another dtype."""
        return x if x.dtype == dtype else x.astype(dtype)

    @staticmethod
    def arange(
        start: float, stop: float | None = None, step: float = 1, *, dtype: Any = None, device: Any = None
    ) -> Array:
        """Evenly spaced numbers in ``[start, stop)``."""
        if stop is None:
            start, stop = 0, start
        return mx.arange(start, stop, step, dtype=dtype)

    @staticmethod
    def ones(shape: int | Sequence[int], *, dtype: Any = None, device: Any = None) -> Array:
        """Ones."""
        return mx.ones(shape, mx.float32 if dtype is None else dtype)

    @staticmethod
    def zeros(shape: int | Sequence[int], *, dtype: Any = None, device: Any = None) -> Array:
        """Zeros."""
        return mx.zeros(shape, mx.float32 if dtype is None else dtype)

    @staticmethod
    def full(shape: int | Sequence[int], fill_value: Any, *, dtype: Any = None, device: Any = None) -> Array:
        """One value everywhere."""
        return mx.full(shape, fill_value, dtype)

    @staticmethod
    def ones_like(x: Array, *, dtype: Any = None, device: Any = None) -> Array:
        """Ones in the shape of `x`."""
        return mx.ones(x.shape, x.dtype if dtype is None else dtype)

    @staticmethod
    def zeros_like(x: Array, *, dtype: Any = None, device: Any = None) -> Array:
        """Zeros in the shape of `x`."""
        return mx.zeros(x.shape, x.dtype if dtype is None else dtype)

    @staticmethod
    def full_like(x: Array, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Array:
        """One value in the shape of `x`."""
        return mx.full(x.shape, fill_value, x.dtype if dtype is None else dtype)

    @staticmethod
    def isdtype(dtype: mx.Dtype, kind: str) -> Any:
        """Whether a dtype is of a kind: ``"bool"``, ``"integral"``, ``"real floating"`` ..."""
        if kind == "bool":
            return dtype == mx.bool_
        return mx.issubdtype(dtype, _KINDS[kind])

    @staticmethod
    def permute_dims(x: Array, axes: Sequence[int]) -> Array:
        """`x` with its axes in another order."""
        return mx.transpose(x, axes)

    @staticmethod
    def concat(arrays: Sequence[Array], *, axis: int | None = 0) -> Array:
        """Arrays one after the other along `axis`, flattened first where it is ``None``."""
        if axis is None:
            return mx.concatenate([mx.reshape(x, (-1,)) for x in arrays])
        return mx.concatenate(list(arrays), axis=axis)

    @staticmethod
    def cumulative_sum(x: Array, *, axis: int | None = None, dtype: Any = None, include_initial: Any = False) -> Array:
        """Running sums along `axis`."""
        axis = 0 if axis is None and x.ndim == 1 else axis
        if axis is None:
            raise TypeError("cumulative_sum of an array of several axes needs axis")
        # MLX wraps around in narrow integers, where the standard asks for the default one at least.
        if dtype is None and x.dtype in (mx.bool_, mx.int8, mx.int16, mx.uint8, mx.uint16):
            dtype = mx.int32
        sums = mx.cumsum(x if dtype is None else x.astype(dtype), axis=axis)
        if include_initial:
            shape = list(sums.shape)
            shape[axis] = 1
            sums = mx.concatenate([mx.zeros(shape, sums.dtype), sums], axis=axis)
        return sums

    @staticmethod
    def take(x: Array, indices: Array, *, axis: int | None = None) -> Array:
        """Entries of `x` along `axis`."""
        return mx.take(x, indices, axis=axis)

    @staticmethod
    def take_along_axis(x: Array, indices: Array, *, axis: int = -1) -> Array:
        """Entries of `x` along `axis`, others for each position."""
        return mx.take_along_axis(x, indices, axis=axis)

    @staticmethod
    def clip(x: Array, min: Any = None, max: Any = None) -> Array:
        """`x` within bounds; a bound that is ``None`` is none."""
        return x if min is None and max is None else mx.clip(x, min, max)

    @staticmethod
    def matrix_transpose(x: Array) -> Array:
        """The last two axes exchanged."""
        return mx.swapaxes(x, -1, -2)

    @staticmethod
    def pow(x: Any, y: Any) -> Array:
        """``x ** y``."""
        return mx.power(x, y)

    @staticmethod
    def unstack(x: Array, *, axis: int = 0) -> tuple[Array, ...]:
        """The slices of `x` along `axis`."""
        return tuple(mx.squeeze(part, axis) for part in mx.split(x, x.shape[axis], axis=axis))


_RENAMED: dict[str, Callable[..., Any]] = {
    "acos": mx.arccos,
    "acosh": mx.arccosh,
    "asin": mx.arcsin,
    "asinh": mx.arcsinh,
    "atan": mx.arctan,
    "atan2": mx.arctan2,
    "atanh": mx.arctanh,
    "bitwise_invert": mx.bitwise_invert,
}
for _name, _function in _RENAMED.items():
    setattr(MlxNamespace, _name, staticmethod(_function))
