"""Products by packed matrices too large for JAX to unpack at once: a tile of outputs at a time, against float64."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="jax is not installed")

import jax
import jax.numpy as jnp
from polyllama.backends.jax.nodes import FEW_ROWS, TILE, WHOLE, JaxContext, _tile, quantized_linear
from polyllama.core.graph.quantized import QuantizedLinear
from polyllama.core.quantization.affine import dequantize, quantize
from polyllama.core.quantization.packing import BITS

INPUTS = 512
TILED = 8320
"""Outputs just above what is multiplied at once; 1,664 of them, a fifth, are the largest tile that divides them."""

U = {"float32": 2.0**-24, "bfloat16": 2.0**-8}


@functools.cache
def packed(bits: int, outputs: int = TILED) -> tuple[Any, ...]:
    """A packed matrix whose rows differ in size, its bias, and both in float64."""
    rng = np.random.default_rng(bits)
    matrix = rng.standard_normal((outputs, INPUTS)) * rng.uniform(0.2, 2.0, (outputs, 1))
    made = quantize(matrix.astype(np.float32), 64, bits)
    bias = rng.standard_normal(outputs).astype(np.float32)
    return made, bias, dequantize(*made, bits=bits, dtype=np.float64)


def multiply(bits: int, x: Any, outputs: int = TILED) -> np.ndarray:
    """What the backend's own product gives, in one compiled pass as a model runs it."""
    made, bias, _ = packed(bits, outputs)
    node = QuantizedLinear("x", INPUTS, outputs, bias=True, bits=bits, group_size=64)
    weights = dict(zip(("x.weight", "x.scales", "x.biases"), map(jnp.asarray, made), strict=True))
    weights["x.bias"] = jnp.asarray(bias, x.dtype)

    def run(weights: Any, x: Any) -> Any:
        return quantized_linear(node, x, JaxContext(jnp, weights, jnp.zeros((1, 1), int), lambda rope: None))

    return np.asarray(jax.jit(run)(weights, x)).astype(np.float64)


@functools.cache
def sizes(bits: int) -> np.ndarray:
    """What is summed at most: ``|scale| q + |bias|``."""
    (words, scales, biases), _, _ = packed(bits)
    return dequantize(words, np.abs(scales), np.abs(biases), bits=bits, dtype=np.float64)


def allowed(bits: int, x: np.ndarray, y: np.ndarray, dtype: str) -> np.ndarray:
    """A sum of so many products in float32, and two roundings to `dtype`.

    By words, a product is of a value and an input, and scale and bias come after: what is summed is no larger than
    ``(|scale| q + |bias|) |x|``.
    """
    _, bias, _ = packed(bits)
    return (INPUTS + 8) * U["float32"] * (np.abs(x) @ sizes(bits).T) + 2 * U[dtype] * (np.abs(y) + np.abs(bias))


@pytest.mark.parametrize(("bits", "dtype"), [*((bits, "float32") for bits in BITS), (4, "bfloat16"), (5, "bfloat16")])
def test_a_large_matrix_is_multiplied_by_a_tile_at_a_time(bits: int, dtype: str) -> None:
    assert TILED * INPUTS > WHOLE and 1 < TILED // _tile(TILED, INPUTS) == 5
    _, bias, exact = packed(bits)
    for shape in ((2, 2), (1, FEW_ROWS + 1)):  # as sums over places in words; unpacked
        given = np.random.default_rng(sum(shape)).standard_normal((*shape, INPUTS))
        x = jnp.asarray(given, dtype)
        held = np.asarray(x).astype(np.float64)
        found, wanted = multiply(bits, x), held @ exact.T + bias.astype(jnp.dtype(dtype)).astype(np.float64)
        assert found.shape == (*shape, TILED)
        np.testing.assert_array_less(np.abs(found - wanted), allowed(bits, held, wanted, dtype))


@pytest.mark.parametrize(
    ("rows", "columns", "tile"),
    [
        (8192, 512, 8192),  # exactly as many as are multiplied at once
        (8320, 512, 1664),
        (8194, 512, 482),  # 2 x 17 x 241
        (8209, 512, 8209),  # a prime: no tile divides it
        (128256, 4096, 256),  # Llama 3's head
        (32000, 4096, 256),
        (2 * 127, 1 << 15, 2 * 127),  # tiles of fewer than 128 outputs are not worth the loop
    ],
)
def test_a_tile_divides_the_outputs_and_is_as_large_as_it_may_be(rows: int, columns: int, tile: int) -> None:
    assert _tile(rows, columns) == tile
    assert rows % tile == 0 and (tile == rows or tile * columns <= TILE)


def test_outputs_that_no_tile_divides() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, INPUTS)), jnp.float32)
    _, bias, exact = packed(4, 8209)
    wanted = np.asarray(x, np.float64) @ exact.T + bias
    assert np.abs(multiply(4, x, 8209) - wanted).max() < 1e-5 * np.abs(wanted).max()
