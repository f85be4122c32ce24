"""What the pure function and the Flax names refuse: traced or not, one line, by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="jax is not installed")

import jax
import jax.numpy as jnp
from polyllama import FlaxLlamaForCausalLM, LlamaConfig
from polyllama.core.errors import InputError
from tiny_models import SIZES, relative_error

pytestmark = pytest.mark.optimized_jax
IDS = np.random.default_rng(0).integers(1, 97, (2, 5))
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def flax() -> FlaxLlamaForCausalLM:
    return FlaxLlamaForCausalLM(LlamaConfig(**{**SIZES, "num_hidden_layers": 1}))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a dict without them": ({"params": {}}, "params do not fit this model: .* is missing"),
    "positions of three rows": ({"position_ids": np.zeros((3, 5), int)}, r"position_ids has shape \[3, 5\]"),
    "positions between tokens": ({"position_ids": np.full((2, 5), 0.5)}, "position_ids holds float64"),
    "positions before the first": ({"position_ids": np.full((2, 5), -1)}, "position_ids holds -1"),
    "a mask of other numbers": ({"attention_mask": IDS}, "something other than 0 and 1"),
    "a mask of nothing": ({"attention_mask": 0 * IDS}, "attends to nothing"),
    "ragged ids": ({"input_ids": [[1, 2], [3]]}, "input_ids is not a rectangular array"),
    "floats for ids": ({"input_ids": IDS + 0.5}, "input_ids holds float64"),
    "no tokens": ({"input_ids": IDS[:, :0]}, "input_ids is empty"),
    "fewer than no logits": ({"logits_to_keep": -1}, "logits_to_keep is -1"),
    "no items": ({"labels": IDS, "num_items_in_batch": 0}, "num_items_in_batch is 0"),
}


@pytest.mark.parametrize("what", WRONG)
def test_apply_refuses(flax: FlaxLlamaForCausalLM, what: str) -> None:
    arguments, message = WRONG[what]
    with pytest.raises(InputError, match=message) as caught:
        flax.model.apply(**{"params": flax.params, "input_ids": IDS, **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_ids", IDS + 0.5, "input_ids holds float32"),
        ("input_ids", IDS[:, :0], r"input_ids has shape \[2, 0\]"),
        ("position_ids", np.zeros((3, 5), int), r"position_ids has shape \[3, 5\]"),
        ("position_ids", np.zeros((2, 5)), "position_ids holds float32"),
    ],
)
def test_what_is_traced_is_checked_by_shape_and_dtype(
    flax: FlaxLlamaForCausalLM, name: str, value: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        jax.jit(lambda array: flax(**{"input_ids": IDS, name: array}).logits)(value)


def test_params_that_do_not_fit(flax: FlaxLlamaForCausalLM) -> None:
    shorter = {**flax.params, NORM: jnp.ones(7)}
    for params, message in (
        ({}, "and .* more"),
        (shorter, rf"{NORM} has shape \[7\]"),
        ({**flax.params, "x": jnp.ones(1)}, "x is not known"),
        (3, "params is a int"),
    ):
        with pytest.raises(InputError, match=message):
            flax(IDS, params=params)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"{NORM} has shape \[7\]"):
        jax.jit(lambda params: flax(IDS, params=params).logits)(shorter)


def test_params_of_another_dtype_are_held_and_computed_with_in_the_models() -> None:
    """As documented: ``model.params = model.to_bf16(model.params)``; the model goes on computing in float32."""
    flax = FlaxLlamaForCausalLM(LlamaConfig(**{**SIZES, "num_hidden_layers": 1}))
    narrow = flax.to_bf16(flax.params)
    rounded = {name: array.astype(jnp.float32) for name, array in narrow.items()}
    wanted = flax(IDS, params=rounded).logits
    assert np.array_equal(flax(IDS, params=narrow).logits, wanted)
    flax.params = narrow
    assert flax.model.dtype == "float32" and flax.params[NORM].dtype == jnp.bfloat16
    assert np.array_equal(flax(IDS).logits, wanted)
    with pytest.raises(InputError, match=f"params: {NORM} is int32, wanted one of float32"):
        flax.params = {**narrow, NORM: jnp.ones(narrow[NORM].shape, jnp.int32)}


def test_keys_and_caches_that_are_none(flax: FlaxLlamaForCausalLM) -> None:
    with pytest.raises(InputError, match="dropout_rng is 3, no random key"):
        flax(IDS, train=True, dropout_rng=3)
    for batch, length in ((0, 4), (2, -1), ("a", 4)):
        with pytest.raises(InputError, match=r"init_cache: .* wanted a positive integer"):
            flax.init_cache(batch, length)  # type: ignore[arg-type]


def test_apply_keeps_given_positions(flax: FlaxLlamaForCausalLM) -> None:
    whole = flax.model.apply(flax.params, IDS).logits
    kept = flax.model.apply(flax.params, IDS, logits_to_keep=[0, 3]).logits
    assert relative_error(kept, whole[:, [0, 3]]) < 1e-6
