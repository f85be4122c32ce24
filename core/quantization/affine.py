"""Group-wise affine quantization, ``w = scale * q + bias``: plain rounding, and the way back.

Groups are of consecutive inputs of one output. Which scale and bias a group gets is MLX's choice: the end of its range
that is farther from zero is held exactly, and the scale is bent so that zero is one of the values. Where scales and
biases are stored in half precision, the integers are chosen for what is stored, so rounding them costs nothing twice.

Source: the published behaviour of ``mlx.core.quantize``; in float32 the results are the same bits, which is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import CheckpointError, UnsupportedError
from .packing import check_bits, pack, packed_length, unpack

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GROUP_SIZES = (32, 64, 128)
"""Group sizes that MLX's kernels know."""

BLOCK = 1 << 21
"""Values taken at a time, so that temporary copies stay small beside a large matrix."""

_EPSILON = 1e-7  # the smallest scale


class Quantized(NamedTuple):
    """``weight`` uint32 ``[out, in * bits / 32]``; ``scales`` and ``biases`` ``[out, in / group]``."""

    weight: np.ndarray
    scales: np.ndarray
    biases: np.ndarray


def check_group_size(group_size: Any) -> None:
    """Refuse a group size that the layout does not know."""
    if group_size not in GROUP_SIZES or isinstance(group_size, bool):
        raise UnsupportedError(f"groups of {group_size} are not offered", hint="use groups of 32, 64 or 128")


def check_group(n: int, group_size: int) -> None:
    """Refuse a group size that the layout does not know or that does not divide `n` inputs."""
    check_group_size(group_size)
    if n % group_size:
        raise UnsupportedError(f"{n} inputs do not divide into groups of {group_size}")


def scale_dtype(stored: str) -> str:
    """The dtype that scales and biases of a weight stored as `stored` get: its own where MLX has it.

    >>> scale_dtype("bfloat16"), scale_dtype("float64"), scale_dtype("float8_e4m3fn")
    ('bfloat16', 'float32', 'bfloat16')
    """
    if stored in ("float32", "float16", "bfloat16"):
        return stored
    return "bfloat16" if stored.startswith("float8") else "float32"


def quantize(
    w: np.ndarray, group_size: int = 64, bits: int = 4, *, name: str = "the weight", scales: str | None = None
) -> Quantized:
    """Round a matrix ``[out, in]`` to the nearest of each group's ``2**bits`` values.

    Args:
        w: of any floating-point dtype.
        name: what errors call it.
        scales: the dtype of scales and biases; by default :func:`scale_dtype` of the weights'.

    Raises:
        UnsupportedError: bits or groups that the layout does not know, or that do not divide the inputs.
        CheckpointError: values that are NaN or infinite.

    >>> import numpy as np
    >>> w = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
    >>> round(float(np.abs(dequantize(*quantize(w, 64, 8), bits=8) - w).max()), 4)
    0.0039
    """
    return _quantized(w, group_size, bits, name, scales, choose)


def quantize_symmetric(
    w: np.ndarray, group_size: int = 32, bits: int = 8, *, name: str = "the weight", scales: str | None = None
) -> Quantized:
    """Round a matrix ``[out, in]`` as :func:`quantize` does, to values that lie around zero evenly.

    A group's value farthest from zero is ``2**(bits - 1) - 1`` scales away from it, as in GGUF's Q8_0; the bias is the
    scale times ``-2**(bits - 1)``, exactly.

    >>> import numpy as np
    >>> made = quantize_symmetric(np.linspace(-1, 1, 32, dtype=np.float32).reshape(1, 32))
    >>> bool((made.biases == -128 * made.scales).all())
    True
    """
    return _quantized(w, group_size, bits, name, scales, _choose_symmetric)


def _quantized(
    w: np.ndarray, group_size: int, bits: int, name: str, scales: str | None, choice: Callable[..., Any]
) -> Quantized:
    import numpy as np

    from ..dtypes import dtype_name, numpy_dtype

    rows, columns = w.shape
    check_bits(bits)
    check_group(columns, group_size)
    dtype = numpy_dtype(scales or scale_dtype(dtype_name(w.dtype)))
    shape = rows, columns // group_size
    result = Quantized(
        np.empty((rows, packed_length(columns, bits)), np.uint32), *(np.empty(shape, dtype) for _ in "sb")
    )
    for part in row_blocks(rows, columns):
        wide = finite(w[part], name).reshape(-1, *shape[1:], group_size)
        with np.errstate(over="ignore"):
            result.scales[part], result.biases[part] = choice(wide, bits, dtype)
        if not np.isfinite(result.biases[part].astype(np.float32)).all():
            raise CheckpointError(f"{name} holds values that are too large for scales in {dtype.name}")
        q = nearest(wide, result.scales[part], result.biases[part], bits)
        result.weight[part] = pack(q.reshape(-1, columns), bits)
    return result


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows that hold :data:`BLOCK` values each, or one row."""
    step = max(1, BLOCK // columns)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def finite(w: np.ndarray, name: str) -> NDArray[np.float32]:
    """`w` in float32; ``CheckpointError`` where a value is none that can be quantized."""
    import numpy as np

    with np.errstate(over="ignore"):
        wide: NDArray[np.float32] = w.astype(np.float32)
    if not np.isfinite(wide).all():
        what = "NaN" if np.isnan(wide).any() else "infinite or too large"
        raise CheckpointError(
            f"{name} holds values that are {what}, which cannot be quantized",
            hint="the checkpoint is damaged, or leave this module out",
        )
    return wide


def choose(
    groups: NDArray[np.float32], bits: int, dtype: Any = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and bias of each group ``[..., group]``, as MLX chooses them, whatever dtype they are stored in."""
    import numpy as np

    low, high = groups.min(axis=-1), groups.max(axis=-1)
    low_is_farther = np.abs(low) > np.abs(high)
    edge = np.where(low_is_farther, low, high)
    scales = np.maximum((high - low) / np.float32((1 << bits) - 1), np.float32(_EPSILON))
    scales = np.where(low_is_farther, scales, -scales)
    steps = np.rint(edge / scales)  # of the scale from zero to the edge
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.where(steps != 0, edge / steps, scales)
    return scales.astype(np.float32), np.where(steps != 0, edge, np.float32(0)).astype(np.float32)


def _choose_symmetric(
    groups: NDArray[np.float32], bits: int, dtype: Any
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    import numpy as np

    half = 1 << (bits - 1)
    with np.errstate(over="ignore"):
        scales = (np.abs(groups).max(axis=-1) / np.float32(half - 1)).astype(dtype).astype(np.float32)
    return scales, scales * np.float32(-half)


def nearest(groups: NDArray[np.float32], scales: np.ndarray, biases: np.ndarray, bits: int) -> NDArray[np.uint8]:
    """The integers ``[..., group]`` whose values under the stored scales and biases are nearest."""
    import numpy as np

    s, b = scales.astype(np.float32)[..., None], biases.astype(np.float32)[..., None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        q = np.rint((groups - b) / s)
    q = np.where(s == 0, np.float32(0), q)  # a scale that half precision cannot hold
    return np.clip(q, 0, (1 << bits) - 1).astype(np.uint8)


def dequantize(
    weight: np.ndarray, scales: np.ndarray, biases: np.ndarray, *, bits: int, dtype: Any = "float32"
) -> np.ndarray:
    """``scale * q + bias`` as a matrix ``[out, in]``, computed in `dtype`."""
    q = unpack(weight, bits)
    groups = q.reshape(*scales.shape, -1).astype(dtype)
    wide: Any = groups * scales.astype(dtype)[..., None] + biases.astype(dtype)[..., None]
    flat: np.ndarray = wide.reshape(q.shape)
    return flat
