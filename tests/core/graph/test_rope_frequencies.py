"""Frequencies, scales and angles of every RoPE type, with transformers' own functions as the oracle.

``factor`` is drawn apart from the ratio of the two lengths, so that neither can stand in for the other.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama.core.config.schema import LlamaConfig
from polyllama.core.graph.rope import Rope, build_rope

U = 2.0**-24
"""Unit roundoff of float32, in which transformers computes frequencies; here they are float64 until the end."""


def fields_of(head_dim: int, longest: int, rope: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": 32,
        "hidden_size": 2 * head_dim,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": longest,
        "rope_parameters": copy.deepcopy(rope),
    }


def both(head_dim: int, longest: int, rope: dict[str, Any]) -> tuple[Rope, Any]:
    """Our node, and transformers' config."""
    import transformers

    transformers.logging.set_verbosity_error()
    fields = fields_of(head_dim, longest, rope)
    return build_rope(LlamaConfig(**fields)), transformers.LlamaConfig(**copy.deepcopy(fields))


def theirs(config: Any, length: int | None = None) -> tuple[np.ndarray, float]:
    """Inverse frequencies and the scale of cosine and sine of a row of `length` tokens, by transformers."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, scale = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, "cpu", seq_len=length)
    return frequencies.numpy().astype(np.float64), scale


def roundoff(rope: dict[str, Any]) -> float:
    """Relative roundoff of ``1 / theta ** (i / d)`` in float32, scaled by a few products.

    The exponent is rounded once, which the power multiplies by ``ln(theta)``; the power itself may be off by 4 units,
    and at most 7 roundings follow (a reciprocal, the factor, a blend of two).
    """
    return U * (math.log(rope["rope_theta"]) + 11)


def ours(node: Rope, length: int | None = None) -> np.ndarray:
    return node.row_frequencies(None if length is None else np.array([length]))[0].astype(np.float64)


def check(node: Rope, config: Any, bound: float, length: int | None = None) -> None:
    wanted, scale = theirs(config, length)
    found = ours(node, length)
    assert found.shape == wanted.shape
    np.testing.assert_array_less(np.abs(found - wanted) / wanted, bound)
    assert node.attention_factor == pytest.approx(scale, rel=1e-14)


THETAS = st.sampled_from([500.0, 10000.0, 500000.0, 1e6])
HEADS = st.sampled_from([16, 64, 128])
SHARES = st.sampled_from([1.0, 0.5])
FACTORS = st.one_of(st.floats(1.0, 64.0), st.floats(1.0, 2.0))
LENGTHS = st.integers(2, 131072)


@st.composite
def yarns(draw: st.DrawFn) -> dict[str, Any]:
    rope = {
        "rope_type": "yarn",
        "rope_theta": draw(THETAS),
        "partial_rotary_factor": draw(SHARES),
        "factor": draw(FACTORS),
        "original_max_position_embeddings": draw(LENGTHS),
        "truncate": draw(st.booleans()),
    }
    slow = draw(st.floats(0.25, 8.0))
    rope |= {"beta_slow": slow, "beta_fast": slow + draw(st.floats(1.0, 60.0))} if draw(st.booleans()) else {}
    if draw(st.booleans()):
        rope |= {"mscale": draw(st.floats(0.1, 2.0)), "mscale_all_dim": draw(st.floats(0.1, 2.0))}
    if draw(st.booleans()):
        rope["attention_factor"] = draw(st.floats(0.25, 4.0))
    return rope


def ramp(rope: dict[str, Any], dim: int) -> tuple[float, float]:
    """Where YaRN's ramp begins and ends (arXiv:2309.00071, equation 23), in numbers of frequencies."""
    original, theta = rope["original_max_position_embeddings"], rope["rope_theta"]
    ends = [
        dim * math.log(original / (2 * math.pi * turns)) / (2 * math.log(theta))
        for turns in (rope.get("beta_fast", 32.0), rope.get("beta_slow", 1.0))
    ]
    low, high = (math.floor(ends[0]), math.ceil(ends[1])) if rope.get("truncate", True) else ends
    return max(low, 0), min(high, dim - 1)


def yarn_roundoff(rope: dict[str, Any], dim: int) -> float:
    """What :func:`roundoff` says, and the ramp's own: a number below `dim` less one below `dim`, over the width.

    Its error moves a frequency between itself and its ``factor``-th part, so relative to the result up to `factor`.
    """
    low, high = ramp(rope, dim)
    return roundoff(rope) + rope["factor"] * U * (2 * dim / (abs(high - low) or 0.001) + 4)


@settings(max_examples=60)
@given(rope=yarns(), head_dim=HEADS, longest=LENGTHS)
def test_yarn(rope: dict[str, Any], head_dim: int, longest: int) -> None:
    node, config = both(head_dim, longest, rope)
    check(node, config, yarn_roundoff(rope, node.rotary_dim))


@settings(max_examples=30)
@given(
    theta=THETAS,
    share=SHARES,
    head_dim=HEADS,
    factor=FACTORS,
    original=LENGTHS,
    longest=LENGTHS,
    low=st.floats(0.25, 8.0),
    wider=st.floats(0.5, 8.0),
)
def test_llama3(
    theta: float, share: float, head_dim: int, factor: float, original: int, longest: int, low: float, wider: float
) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": theta,
        "partial_rotary_factor": share,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": low + wider,
        "original_max_position_embeddings": original,
    }
    node, config = both(head_dim, longest, rope)
    # A blend's share is (turns - low) / wider, with turns of up to `low + wider` rounded a few times.
    share_error = (roundoff(rope) + 4 * U) * (low + wider) / wider + 4 * U
    check(node, config, roundoff(rope) + factor * share_error)


@settings(max_examples=30)
@given(data=st.data(), theta=THETAS, share=SHARES, head_dim=HEADS, original=LENGTHS, longest=LENGTHS)
def test_longrope(data: st.DataObject, theta: float, share: float, head_dim: int, original: int, longest: int) -> None:
    count = int(head_dim * share) // 2
    factors = st.lists(st.floats(0.5, 60.0), min_size=count, max_size=count)
    rope = {
        "rope_type": "longrope",
        "rope_theta": theta,
        "partial_rotary_factor": share,
        "short_factor": data.draw(factors),
        "long_factor": data.draw(factors),
        "original_max_position_embeddings": original,
    }
    if data.draw(st.booleans()):
        rope["factor"] = data.draw(FACTORS)
    if data.draw(st.booleans()):
        rope["attention_factor"] = data.draw(st.floats(0.25, 4.0))
    node, config = both(head_dim, longest, rope)
    for length in (1, original, original + 1, 3 * original):
        check(node, config, roundoff(rope), length)


@settings(max_examples=30)
@given(theta=THETAS, share=SHARES, head_dim=HEADS, factor=FACTORS, longest=st.integers(16, 8192), over=LENGTHS)
def test_dynamic(theta: float, share: float, head_dim: int, factor: float, longest: int, over: int) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": theta, "partial_rotary_factor": share, "factor": factor}
    node, config = both(head_dim, longest, rope)
    for length in (1, longest, longest + 1, longest + over):
        # Theirs enlarges the base in float64, ours the frequencies; the power of theirs multiplies by ln(base).
        ratio = factor * max(length, longest) / longest - (factor - 1)
        enlarged = {"rope_theta": theta * ratio ** (node.rotary_dim / (node.rotary_dim - 2))}
        check(node, config, roundoff(enlarged), length)


@settings(max_examples=20)
@given(theta=THETAS, share=SHARES, head_dim=HEADS, factor=FACTORS)
def test_linear(theta: float, share: float, head_dim: int, factor: float) -> None:
    rope = {"rope_type": "linear", "rope_theta": theta, "partial_rotary_factor": share, "factor": factor}
    node, config = both(head_dim, 4096, rope)
    check(node, config, roundoff(rope))


ANGLED: dict[str, dict[str, Any]] = {
    "yarn": {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096},
    "yarn-ends-as-they-are": {
        "rope_type": "yarn",
        "factor": 6.5,
        "original_max_position_embeddings": 4096,
        "truncate": False,
        "beta_fast": 20.0,
        "beta_slow": 2.0,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "default": {"rope_type": "default"},
}


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("kind", ANGLED)
def test_cosines_and_sines_of_near_and_far_positions(kind: str, head_dim: int) -> None:
    import torch
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = ANGLED[kind] | {"rope_theta": 500000.0}
    node, config = both(head_dim, 32768, rope)
    plain = 500000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
    blended = (ours(node) < plain * (1 - 1e-3)) & (ours(node) > plain / rope.get("factor", 1.0) * (1 + 1e-3))
    assert blended.sum() >= 3 or kind == "default"  # frequencies on the ramp, between kept and divided by the factor
    positions = np.array([[0, 1, 2, 31, 1000, 4095, 4096, 10000, 100000]])
    with torch.no_grad():
        wanted = LlamaRotaryEmbedding(config)(torch.zeros(1, 1, 1), torch.tensor(positions))
    found = node.tables(np, positions, node.row_frequencies())
    bound = yarn_roundoff(rope, head_dim) if node.rope_type == "yarn" else 20 * U * rope.get("factor", 1.0)
    # An angle is off by its own rounding and by its frequency's; the cosine by no more, and by its own roundings.
    angles = positions[0, :, None] * ours(node)
    allowed = node.attention_factor * (angles * (bound + 2 * U) + 8 * U)
    for table, theirs_ in zip(found, wanted, strict=True):
        off = np.abs(table[0, 0] - theirs_[0, :, : head_dim // 2].numpy().astype(np.float64))
        np.testing.assert_array_less(off, allowed)
