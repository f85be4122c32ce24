"""Arrays that hold more than numbers, or numbers that are not taken, on every backend: read right, or one line."""

from __future__ import annotations

import importlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from polyllama import Llama
from polyllama.core.array_kinds import KINDS, as_numpy, kind_of, to_kind
from polyllama.core.errors import InputError
from tiny_models import ALL_BACKENDS, beside_transformers, relative_error

IDS = np.random.default_rng(3).integers(1, 97, (2, 6))
MASK = np.array([[1] * 6, [0, 0] + [1] * 4])
TENSOR = torch.tensor(IDS)
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=ALL_BACKENDS)
def pair(request: pytest.FixtureRequest, tiny_models: Any) -> tuple[Any, Llama]:
    """A model of transformers', and ours."""
    return beside_transformers(tiny_models, str(request.param))


@pytest.fixture
def llm(pair: tuple[Any, Llama]) -> Llama:
    return pair[1]


class TestPositionsBeyond32Bits:
    def test_of_int64(self, pair: tuple[Any, Llama], recwarn: Any) -> None:
        model, llm = pair
        positions = 2**40 + np.arange(6)[None]
        if llm.backend == "jax":
            with pytest.raises(InputError, match="position_ids holds 1099511627776, more than JAX holds in 32 bits"):
                llm(IDS, position_ids=positions)
            with pytest.raises(InputError, match="position_ids holds 1099511627776"):
                llm.model.apply(llm.model.params, IDS, position_ids=positions)
            return
        with torch.no_grad():
            wanted = model(TENSOR, position_ids=torch.tensor(positions)).logits
        # Angles of float32 by so large a position are far from exact, but far from those of small ones too.
        assert relative_error(llm(IDS, position_ids=positions).logits, llm(IDS).logits) > 0.01
        if llm.backend == "torch":
            assert relative_error(llm(IDS, position_ids=positions).logits, wanted) < TOLERANCE

    def test_the_largest_of_32_bits(self, pair: tuple[Any, Llama], recwarn: Any) -> None:
        _, llm = pair
        found = llm(IDS[:, :1], position_ids=[[2**31 - 1]])
        assert np.isfinite(as_numpy(found.logits)).all()


def test_labels_beyond_32_bits(tiny_models: Any, recwarn: Any) -> None:
    loaded: dict[str, Any] = {"task": "sequence-classification", "fresh_head": True, "num_labels": 1}
    llm = Llama.load(tiny_models()[1], backend="jax", dtype="float32", pad_token_id=0, **loaded)
    with pytest.raises(InputError, match="labels holds 1099511627776"):
        llm(IDS, labels=np.array([1, 2**40]))


class TestMaskedArrays:
    HIDDEN = np.ma.array(IDS, mask=MASK == 0)  # type: ignore[no-untyped-call]

    @pytest.mark.parametrize("name", ["input_ids", "attention_mask", "position_ids", "labels", "logits_to_keep"])
    def test_are_refused(self, llm: Llama, name: str) -> None:
        value = self.HIDDEN[1] if name == "logits_to_keep" else self.HIDDEN
        with pytest.raises(InputError, match=f"{name} is a masked array, whose mask would be lost"):
            llm(**{"input_ids": IDS, name: value})

    @pytest.mark.parametrize("name", ["input_ids", "attention_mask"])
    def test_by_generate(self, llm: Llama, name: str) -> None:
        with pytest.raises(InputError, match=f"{name} is a masked array"):
            llm.generate(**{"input_ids": IDS, name: self.HIDDEN}, max_new_tokens=1)

    def test_that_mask_nothing_are_arrays(self, llm: Llama) -> None:
        whole = np.ma.array(IDS)  # type: ignore[no-untyped-call]
        assert np.array_equal(llm(whole).logits, llm(IDS).logits)


class TestTensorsWithoutNumbersInEachPlace:
    @pytest.mark.parametrize("name", ["input_ids", "attention_mask", "position_ids", "labels", "inputs_embeds"])
    def test_sparse(self, llm: Llama, name: str) -> None:
        given: dict[str, Any] = {} if name == "inputs_embeds" else {"input_ids": TENSOR}
        value = torch.ones(2, 6, 48) if name == "inputs_embeds" else TENSOR
        with pytest.raises(InputError, match=f"{name} is a sparse_coo tensor, wanted a dense one.*{name}.to_dense"):
            llm(**{**given, name: value.to_sparse()})

    def test_meta(self, llm: Llama) -> None:
        for call in (llm, llm.generate):
            with pytest.raises(InputError, match="input_ids is on torch's device 'meta', and has no numbers"):
                call(input_ids=TENSOR.to("meta"))

    def test_generate(self, llm: Llama) -> None:
        with pytest.raises(InputError, match="input_ids is a sparse_coo tensor"):
            llm.generate(TENSOR.to_sparse(), max_new_tokens=1)


class TestIntegersBeyond64Bits:
    @pytest.mark.parametrize(
        ("ids", "said"),
        [
            (np.array([[1, 2**64 - 1]], np.uint64), 2**64 - 1),
            (torch.tensor([[1, 2**63 + 5]], dtype=torch.uint64), 2**63 + 5),
            ([[1, 2**64]], 2**64),
        ],
        ids=["numpy", "torch", "list"],
    )
    def test_are_shown_as_they_are(self, llm: Llama, ids: Any, said: int) -> None:
        with pytest.raises(InputError, match=f"input_ids holds {said}, which is no integer of 64 bits"):
            llm(ids)

    def test_small_ones_are_ids(self, llm: Llama) -> None:
        assert np.array_equal(llm(IDS.astype(np.uint64)).logits, llm(IDS).logits)


CASES = [
    *(("torch", "bfloat16"), ("torch", "float16"), ("torch", "float64"), ("torch", "float8_e4m3fn")),
    *(("jax", "bfloat16"), ("mlx", "bfloat16")),
    *(("numpy", "bfloat16"), ("numpy", "float16"), ("numpy", "float8_e5m2")),
]
HERE = [(kind, dtype) for kind, dtype in CASES if kind in ("torch", "numpy", *ALL_BACKENDS)]


def cast(array: Any, dtype: str) -> Any:
    if isinstance(array, torch.Tensor):
        return array.to(getattr(torch, dtype))
    if kind_of(array) == "mlx":
        return array.astype(getattr(importlib.import_module("mlx.core"), dtype))
    return array.astype(getattr(ml_dtypes, dtype, dtype))


class TestMasksOfFloats:
    @pytest.mark.parametrize(("kind", "dtype"), HERE)
    def test_of_every_type(self, llm: Llama, kind: str, dtype: str) -> None:
        ids, mask = to_kind(IDS, kind), cast(to_kind(MASK, kind), dtype)
        wanted = as_numpy(llm(IDS, attention_mask=MASK).logits)
        assert relative_error(as_numpy(llm(ids, attention_mask=mask).logits), wanted) < 1e-6
        found = llm.generate(ids, attention_mask=mask, max_new_tokens=3)
        assert np.array_equal(as_numpy(found), llm.generate(IDS, attention_mask=MASK, max_new_tokens=3))

    @pytest.mark.parametrize(("kind", "dtype"), [case for case in HERE if "8_" not in case[1]])
    def test_additive(self, llm: Llama, kind: str, dtype: str) -> None:
        four = np.tril(np.ones((1, 1, 6, 6), int)) * MASK[:, None, None, :] | np.eye(6, dtype=int)
        mask = cast(to_kind(np.where(four == 1, 0.0, -np.inf).astype(np.float32), kind), dtype)
        found = llm(to_kind(IDS, kind), attention_mask=mask).logits
        assert relative_error(as_numpy(found), llm(IDS, attention_mask=four).logits) < 1e-6

    def test_while_jax_traces(self, tiny_models: Any) -> None:
        jax = pytest.importorskip("jax")
        jnp = jax.numpy

        model: Any = Llama.load(tiny_models()[1], backend="jax", dtype="float32").model

        def logits(mask: Any) -> Any:
            return model.apply(model.params, jnp.asarray(IDS), attention_mask=mask).logits

        four = np.where(np.tril(np.ones((1, 1, 6, 6))) == 1, 0.0, -np.inf)
        found = jax.jit(logits)(jnp.asarray(four, jnp.bfloat16))
        assert relative_error(found, logits(np.ones((2, 6), int))) < TOLERANCE


class TestNumItemsInBatch:
    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ("torch", "numpy", *ALL_BACKENDS)])
    @pytest.mark.parametrize("plain", [5, [5], 5.0], ids=str)
    def test_of_every_kind(self, pair: tuple[Any, Llama], kind: str, plain: Any) -> None:
        model, llm = pair
        given = to_kind(np.array(plain), kind)
        with torch.no_grad():
            wanted = float(model(TENSOR, labels=TENSOR, num_items_in_batch=5).loss)
        found = llm(IDS, labels=IDS, num_items_in_batch=given).loss
        assert np.shape(found) == () and abs(float(found) - wanted) < TOLERANCE * wanted
        if llm.backend == "torch":
            found = llm.module(TENSOR, labels=TENSOR, num_items_in_batch=given).loss.detach()
            assert found.shape == () and abs(float(found) - wanted) < TOLERANCE * wanted

    def test_several(self, llm: Llama) -> None:
        for given in (torch.tensor([1, 2]), np.array([1, 2])):
            with pytest.raises(InputError, match="num_items_in_batch"):
                llm(IDS, labels=IDS, num_items_in_batch=given)


def test_slices_of_mlx_arrays(llm: Llama) -> None:
    """Their 64 bits are C's `long long`, and a slice of them is not contiguous."""
    mx = pytest.importorskip("mlx.core")
    ids = mx.array(IDS)[:, 1:4]
    assert relative_error(as_numpy(llm(ids).logits), as_numpy(llm(IDS[:, 1:4]).logits)) < 1e-6
    assert np.array_equal(as_numpy(llm.generate(ids, max_new_tokens=2)), llm.generate(IDS[:, 1:4], max_new_tokens=2))
