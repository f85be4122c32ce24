"""Packed weights as floats, for formats that have no place for them packed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..dtypes import numpy_dtype
from ..errors import CheckpointError

if TYPE_CHECKING:
    from .protocol import Array


def unpacked_floats(words: Array, scales: Array, biases: Array, bits: int, dtype: str, module: str) -> Array:
    """``scale * q + bias`` computed in float32 and rounded to `dtype`, a few million values at a time.

    Raises:
        CheckpointError: a value is too large for `dtype`, or no number; names the module.
    """
    import numpy as np

    from ..quantization.affine import dequantize

    rows, columns = words.shape[0], words.shape[1] * 32 // bits
    found = np.empty((rows, columns), numpy_dtype(dtype))
    for part in row_chunks(rows, columns):
        with np.errstate(over="ignore", invalid="ignore"):
            found[part] = dequantize(words[part], scales[part], biases[part], bits=bits)
        if not np.isfinite(found[part].astype(np.float32)).all():
            raise CheckpointError(f"{module}: has values that are no numbers or too large for {dtype}")
    return found


_BLOCK_VALUES = 1 << 21


def row_chunks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows with some two million values each, so that copies on the way stay small."""
    step = max(1, _BLOCK_VALUES // max(columns, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
