"""What the cpu backend makes of values that are no numbers or far from the others: nothing broken looks sound."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

import numpy as np
import pytest
from polyllama.backends.cpu.backend import CpuBackend
from polyllama.core.backend.protocol import RealizeOptions
from polyllama.testing.probes import Probe, make, make_quantized, probe
from tiny_models import forward, relative_error

if importlib.util.find_spec("polyllama.backends.cpu._kernels") is None:
    pytest.skip("the native kernels were not built", allow_module_level=True)

from polyllama.backends.cpu import _kernels
from polyllama.backends.cpu.weights import Packed, pack_floats, pack_quantized
from polyllama.core.quantization.affine import dequantize, quantize

ISAS = tuple(_kernels.instruction_sets())
KEYS = "model.layers.0.self_attn.k_proj.weight"
EMBEDS = np.random.default_rng(4).standard_normal((1, 6, 48)).astype(np.float32)


def realized(found: Probe, isa: str, *, dtype: str = "float32", kv_cache: str = "auto") -> Any:
    options = RealizeOptions(dtype=dtype, kv_cache=kv_cache)
    return CpuBackend(isa).realize(found.graph, found.stored("float32"), options, config=found.config, task=found.task)


def spoilt(found: Probe, name: str, value: float) -> Probe:
    """The same with one element of one tensor replaced."""
    tensor = found.weights[name].copy()
    tensor[3, 1] = value
    return dataclasses.replace(found, weights={**found.weights, name: tensor})


def one_by_one(model: Any, embeds: np.ndarray) -> np.ndarray:
    cache, rows = None, []
    for place in range(embeds.shape[1]):
        y = forward(model, inputs_embeds=embeds[:, place : place + 1], past_key_values=cache, use_cache=True)
        cache = y.past_key_values
        rows.append(y.logits)
    return np.concatenate(rows, axis=1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("dtype", "kv_cache"),
    [("float32", "float32"), ("float32", "float16"), ("float32", "int8"), ("bfloat16", "bfloat16")],
)
def test_a_key_that_is_no_number_shows_from_the_first_token_on(isa: str, dtype: str, kv_cache: str) -> None:
    broken = realized(spoilt(probe("plain"), KEYS, np.nan), isa, dtype=dtype, kv_cache=kv_cache)
    assert np.isnan(forward(broken, inputs_embeds=EMBEDS).logits).all()
    assert np.isnan(one_by_one(broken, EMBEDS)).all()


@pytest.mark.parametrize("isa", ISAS)
def test_so_does_a_broken_scale_of_packed_weights(isa: str) -> None:
    embeds = np.random.default_rng(4).standard_normal((1, 6, 64)).astype(np.float32)
    for bits in (4, 8):
        name = KEYS.replace("weight", "scales")
        broken = realized(spoilt(make_quantized(f"broken{bits}", bits), name, np.nan), isa, dtype="bfloat16")
        assert np.isnan(one_by_one(broken, embeds)).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_int8_cache_does_not_make_numbers_of_what_is_none(isa: str, value: float) -> None:
    embeds = EMBEDS.copy()
    embeds[0, 2, 5] = value
    found = np.isfinite(one_by_one(realized(probe("plain"), isa, kv_cache="int8"), embeds)).all(axis=-1)[0]
    assert found.tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000])
def test_rounding_to_bfloat16_leaves_no_number_one(isa: str, bits: int) -> None:
    """Added to as for rounding, the largest of them would come out as 0 or -0."""
    x = np.ones((3, 40), np.float32)
    x.view(np.uint32)[:, 7] = bits
    x.view(np.uint32)[:, 33] = bits
    packed = Packed.of(*pack_floats(np.ones((16, 40), np.float32), "bfloat16"))
    for rows in (1, 3):
        y = np.zeros((rows, 16), np.float32)
        _kernels.Program(isa, 1, False).product(packed.matrix, x[:rows], y)
        assert np.isnan(y).all()
    found = make("norm")
    norm = found.weights["model.norm.weight"].astype(np.float32)
    norm.view(np.uint32)[3] = bits
    broken = dataclasses.replace(found, weights={**found.weights, "model.norm.weight": norm})
    assert np.isnan(forward(realized(broken, isa, dtype="bfloat16"), inputs_embeds=EMBEDS).logits).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 128), (8, 64)])
def test_a_groups_bias_meets_its_inputs_as_they_were_rounded(isa: str, bits: int, group: int) -> None:
    """Beside one input that is far larger the others round to 0; met unrounded, the biases would not fit the values."""
    rng = np.random.default_rng(6)
    quantized = quantize(rng.standard_normal((32, 256)).astype(np.float16), group, bits)
    packed = Packed.of(*pack_quantized(*quantized, bits=bits, group=group, dtype="bfloat16"))
    exact = dequantize(*quantized, bits=bits, dtype=np.float64)
    x = rng.standard_normal((5, 256)).astype(np.float32)
    x[:, 17] = 1000.0
    groups = x.reshape(5, -1, group)
    step = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)
    rounded = (np.rint(groups / step).astype(np.float64) * step).reshape(x.shape)
    for rows in (1, 3, 5):
        y = np.empty((rows, 32), np.float32)
        _kernels.Program(isa, 1, True).product(packed.matrix, x[:rows], y)
        assert relative_error(y, rounded[:rows] @ exact.T) < 1e-5
