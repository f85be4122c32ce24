"""NumPy arrays and MLX arrays, each made from the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from ...core.errors import BackendError
from ...core.messages import mention

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES: dict[str, mx.Dtype] = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
"""What the backend computes in."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()} | {mx.uint32: "uint32"}


def dtype_of(name: str) -> mx.Dtype:
    """The MLX dtype called `name`.

    Raises:
        BackendError: one that the backend does not compute in.
    """
    if name not in DTYPES:
        raise BackendError(
            f"the mlx backend computes in {', '.join(DTYPES)}, not in {name!r}",
            hint="leave " + mention("dtype") + " at 'auto', or take another backend",
        )
    return DTYPES[name]


def dtype_name(dtype: mx.Dtype) -> str:
    """``mx.bfloat16 -> "bfloat16"``."""
    return _NAMES[dtype]


def from_numpy(array: np.ndarray) -> mx.array:
    """An MLX array of the same numbers; bfloat16 goes over as its bits."""
    if array.dtype.name == "bfloat16":
        return mx.array(array.view(np.uint16)).view(mx.bfloat16)
    if array.dtype.name == "float64" or array.dtype.name.startswith("float8"):
        array = array.astype(np.float32)
    return mx.array(array)


def to_numpy(array: mx.array) -> np.ndarray:
    """A NumPy array of the same numbers, with memory of its own."""
    if array.dtype == mx.bfloat16:
        import ml_dtypes

        bits: NDArray[np.uint16] = np.array(array.view(mx.uint16))
        return bits.view(ml_dtypes.bfloat16)
    return np.array(array)


def as_float32(array: mx.array) -> np.ndarray:
    """A float32 NumPy array."""
    return np.array(array if array.dtype == mx.float32 else array.astype(mx.float32))
