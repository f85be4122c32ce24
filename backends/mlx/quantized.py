"""Packed weights on MLX: its own quantized layers, and on plain CPUs the faster roads to the same products.

On a GPU, and on macOS, ``mx.quantized_matmul`` is the fastest there is. MLX's CPU kernel outside macOS is plain loops:
fair for one row in float32, an order of magnitude slower in half precision, and no faster by the row for many. So there
half precision is multiplied in float32 and rounded once, and many rows are multiplied by the unpacked matrix.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.nn.layers.quantized import QuantizedEmbedding as NativeEmbedding
from mlx.nn.layers.quantized import QuantizedLinear as NativeLinear

from ...core.graph import quantized as spec

FEW_ROWS = 8
"""Most rows that MLX's plain CPU kernel is faster for than unpacking the matrix."""


def product(
    x: mx.array, parts: tuple[mx.array, mx.array, mx.array], group_size: int, bits: int, plain: bool
) -> mx.array:
    """``x @ (scale * q + bias).T``; `plain` on a CPU outside macOS."""
    words, scales, biases = parts
    if not plain:
        return mx.quantized_matmul(x, words, scales, biases, transpose=True, group_size=group_size, bits=bits)
    wide, scales, biases = (array.astype(mx.float32) for array in (x, scales, biases))
    if x.size // x.shape[-1] <= FEW_ROWS:
        y = mx.quantized_matmul(wide, words, scales, biases, transpose=True, group_size=group_size, bits=bits)
    else:
        # Plain loops read a matrix faster along its columns.
        weight = mx.dequantize(words, scales, biases, group_size=group_size, bits=bits)
        y = wide @ mx.contiguous(weight.T)
    return y.astype(x.dtype)


class Linear(NativeLinear):
    """``nn.QuantizedLinear``, by the fastest product there is."""

    widen = False

    def __init__(self, node: spec.QuantizedLinear) -> None:
        # Its own random weights are never computed.
        super().__init__(node.in_features, node.out_features, node.bias, node.group_size, node.bits)

    def __call__(self, x: mx.array) -> mx.array:
        """``[..., in] -> [..., out]``."""
        y = product(x, (self["weight"], self["scales"], self["biases"]), self.group_size, self.bits, self.widen)
        return y + self["bias"] if "bias" in self else y


class Embedding(NativeEmbedding):
    """``nn.QuantizedEmbedding``, whose rows are made in float32 and rounded once."""

    def __init__(self, node: spec.QuantizedEmbedding) -> None:
        super().__init__(node.num_embeddings, node.dim, node.group_size, node.bits)

    def __call__(self, ids: mx.array) -> mx.array:
        """``[B, S] -> [B, S, dim]``, in the scales' dtype."""
        scales = self["scales"]
        rows = mx.dequantize(
            self["weight"][ids],
            scales[ids].astype(mx.float32),
            self["biases"][ids].astype(mx.float32),
            group_size=self.group_size,
            bits=self.bits,
        )
        return rows.astype(scales.dtype)


def tied(node: spec.QuantizedLinear, weights: Any, x: mx.array, plain: bool) -> mx.array:
    """A linear map by a packed embedding's tensors: it has none of its own."""
    y = product(x, node.tensors(weights), node.group_size, node.bits, plain)
    return y + weights[f"{node.name}.bias"] if node.bias else y
