"""Products of half-precision matrices, in the precision that is fastest where they run."""

from __future__ import annotations

import mlx.core as mx

WIDENED = range(2**16, 2**24)
"""Sizes of the half-precision matrices that are widened to be multiplied by: a smaller one is multiplied before it is
widened, and the copy of a larger one would take more than 64 MiB."""


def product(x: mx.array, weight: mx.array, widen: bool) -> mx.array:
    """``x @ weight.T``; with `widen`, half precision is multiplied in float32 and rounded once.

    On a CPU outside macOS that is faster than MLX's own product of half-precision numbers, which also sums in float32.
    """
    if not widen or weight.dtype == mx.float32 or weight.size not in WIDENED:
        return x @ weight.T
    return (x.astype(mx.float32) @ weight.astype(mx.float32).T).astype(x.dtype)
