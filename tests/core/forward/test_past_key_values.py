"""``past_key_values`` in every form of the reference documentation, on every backend, against transformers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from polyllama import Llama
from polyllama.core.array_kinds import KINDS, as_numpy, kind_of, to_kind
from polyllama.core.errors import InputError, UnsupportedError
from tiny_models import ALL_BACKENDS, relative_error
from transformers import DynamicCache, StaticCache

IDS = np.random.default_rng(8).integers(0, 97, (2, 14))
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=ALL_BACKENDS)
def pair(request: pytest.FixtureRequest, tiny_models: Any) -> tuple[Any, Llama]:
    """A model of transformers', and ours."""
    return loaded(str(request.param), tiny_models)


def loaded(backend: str, tiny_models: Any, *rope: str, **fields: Any) -> tuple[Any, Llama]:
    model, folder = tiny_models(*rope, **fields)
    return model, Llama.load(folder, backend=backend, dtype="auto" if backend == "reference" else "float32")


def theirs(model: Any, start: int, stop: int, past: Any = None, **named: Any) -> Any:
    with torch.no_grad():
        return model(torch.tensor(IDS[:, start:stop]), past_key_values=past, **named)


def ours(llm: Any, start: int, stop: int, past: Any = None, **named: Any) -> Any:
    return llm(torch.tensor(IDS[:, start:stop]), past_key_values=past, **named)


class TestAsTheDocumentationReadsIt:
    def test_layers_of_keys_and_values(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        wanted, cache = theirs(model, 0, 9).past_key_values, ours(llm, 0, 9).past_key_values
        assert len(cache) == len(wanted) == 3 and cache.get_seq_length() == wanted.get_seq_length() == 9
        assert cache.get_seq_length(2) == 9 and cache.get_max_cache_shape() == -1
        assert cache[0][0].shape[2] == 9 and tuple(cache[-1][1].shape) == (2, 2, 9, 8)
        for layer, (pair_of, legacy) in enumerate(zip(cache, cache.to_legacy_cache(), strict=True)):
            for array, again, other in zip(pair_of, legacy, wanted.layers[layer].__dict__.values(), strict=False):
                del other
                assert np.array_equal(as_numpy(array), as_numpy(again))
            assert relative_error(as_numpy(cache[layer][0]), wanted.layers[layer].keys) < TOLERANCE
            assert relative_error(as_numpy(cache[layer][1]), wanted.layers[layer].values) < TOLERANCE
        assert {kind_of(array) for layer in cache for array in layer} == {"torch"}
        with pytest.raises(IndexError, match="holds 3 layers, there is no 3"):
            cache[3]

    def test_layers_are_of_the_kind_that_came_in(self, pair: tuple[Any, Llama]) -> None:
        _, llm = pair
        own = {"torch": "torch", "mlx": "mlx", "jax": "jax"}.get(llm.backend, "numpy")
        kinds = [kind for kind in KINDS if kind in ("torch", "numpy", *ALL_BACKENDS)]
        cache = llm(IDS[:, :4].tolist(), use_cache=True).past_key_values
        wanted = [as_numpy(array) for layer in cache for array in layer]
        assert {kind_of(array) for layer in cache for array in layer} == {own}
        for kind in kinds:
            ids = to_kind(IDS[:, :4], kind)
            found = llm.generate(ids, max_new_tokens=1, return_dict_in_generate=True).past_key_values
            for held in (llm(ids).past_key_values, found, copy.deepcopy(found)):
                arrays = [*held.to_legacy_cache()[0], *held[1], *list(held)[2]]
                assert {kind_of(array) for array in arrays} == {kind}
                for array, own_array in zip(arrays, wanted, strict=True):
                    assert relative_error(as_numpy(array), own_array) < TOLERANCE
            again = llm(to_kind(IDS[:, 4:5], kind), past_key_values=llm(ids).past_key_values.to_legacy_cache())
            assert again.past_key_values[0][0].shape[2] == 5 and kind_of(again.past_key_values[0][0]) == kind
        assert kind_of(llm(IDS[:, 4:5].tolist(), past_key_values=cache).past_key_values[0][0]) == own

    def test_no_layers_are_an_empty_cache(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        wanted = theirs(model, 0, 9, DynamicCache())
        for given in ((), []):
            found = ours(llm, 0, 9, given, use_cache=False)
            assert len(found.past_key_values) == len(wanted.past_key_values)
            assert relative_error(found.logits, wanted.logits) < TOLERANCE

    def test_what_stands_beside_keys_and_values(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        wanted = theirs(model, 0, 9).past_key_values
        theirs_as_tuple = tuple(wanted)  # a third of each layer says how far a sliding window reaches: None
        next_ = theirs(model, 9, 10, copy.deepcopy(wanted)).logits
        assert relative_error(ours(llm, 9, 10, theirs_as_tuple).logits, next_) < TOLERANCE
        three = tuple((layer[0], layer[1], layer[0]) for layer in theirs_as_tuple)
        with pytest.raises(InputError, match=r"past_key_values\[0\] is a tuple of 3, wanted keys and values"):
            ours(llm, 9, 10, three)

    def test_many_layers_stay_in_order(self, tiny_models: Any, pair: tuple[Any, Llama]) -> None:
        model, llm = loaded(pair[1].backend, tiny_models, num_hidden_layers=12)
        wanted, cache = theirs(model, 0, 5).past_key_values, ours(llm, 0, 5).past_key_values
        ours(llm, 5, 6, cache), theirs(model, 5, 6, wanted)
        for (keys, _), layer in zip(cache, wanted.layers, strict=True):
            assert relative_error(as_numpy(keys), layer.keys) < 5 * TOLERANCE

    def test_an_empty_one(self, pair: tuple[Any, Llama]) -> None:
        cache = pair[1].model.new_cache(2, 16)
        assert (len(cache), cache.get_seq_length(), bool(cache), list(cache)) == (0, 0, True, [])

    def test_crop(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        wanted = theirs(model, 0, 14).logits[:, 8:]
        for length, kept in ((8, 14), (-6, 14), (8, 8), (99, 8), (-99, 14)):
            cache = ours(llm, 0, kept).past_key_values
            cache.crop(length)
            held = cache.length
            assert held == (0 if length == -99 else 8) and cache[0][0].shape[2] == held
            assert relative_error(as_numpy(ours(llm, held, 14, cache).logits)[:, 8 - held :], wanted) < TOLERANCE

    @pytest.mark.parametrize("rope", ["dynamic", "longrope"])
    def test_crop_where_frequencies_depend_on_the_length(
        self, rope: str, tiny_models: Any, pair: tuple[Any, Llama]
    ) -> None:
        _, llm = loaded(pair[1].backend, tiny_models, rope)
        long = np.concatenate([IDS, IDS], axis=1)  # beyond the length at which both change
        cache = llm(long, use_cache=True).past_key_values
        cache.crop(10)
        found = llm(long[:, 10:12], past_key_values=cache).logits
        assert relative_error(found, llm(long[:, :12]).logits[:, 10:]) < TOLERANCE

    def test_crop_keeps_what_is_padding(self, pair: tuple[Any, Llama]) -> None:
        mask = np.ones((2, 14), int)
        mask[1, :4] = 0
        llm = pair[1]
        cache = llm(IDS, attention_mask=mask).past_key_values
        cache.crop(10)
        found = llm(IDS[:, 10:], past_key_values=cache).logits
        assert relative_error(found, llm(IDS, attention_mask=mask).logits[:, 10:]) < TOLERANCE

    def test_rows_in_another_order(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        wanted = theirs(model, 0, 12).logits[:, 9:]
        cache = ours(llm, 0, 9).past_key_values
        cache.reorder_cache(torch.tensor([1, 0]))
        found = llm(torch.tensor(IDS[[1, 0], 9:12]), past_key_values=cache).logits
        assert relative_error(found, wanted[[1, 0]]) < TOLERANCE
        cache.crop(9)
        cache.batch_select_indices([0])
        cache.batch_repeat_interleave(3)
        found = llm(torch.tensor(IDS[[1, 1, 1], 9:12]), past_key_values=cache).logits
        assert cache.batch == 3 and relative_error(found, wanted[[1, 1, 1]]) < TOLERANCE

    def test_copies_go_on_alone(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        cache = ours(llm, 0, 9).past_key_values
        twins = [copy.deepcopy(cache)]
        if llm.backend in ("cpu", "torch", "jax"):
            twins.append(pickle.loads(pickle.dumps(cache)))
        ours(llm, 3, 8, cache)  # somewhere else
        for twin in twins:
            assert relative_error(ours(llm, 9, 12, twin).logits, theirs(model, 0, 12).logits[:, 9:]) < TOLERANCE


class TestTuplesOfArrays:
    @pytest.mark.parametrize("kind", [kind for kind in ("torch", "numpy", "jax", "mlx")])
    def test_of_every_kind(self, pair: tuple[Any, Llama], kind: str) -> None:
        if kind in ("jax", "mlx") and kind not in ALL_BACKENDS:
            pytest.skip(f"{kind} is not here")
        model, llm = pair
        layers = theirs(model, 0, 9).past_key_values.layers
        legacy = tuple((to_kind(layer.keys, kind), to_kind(layer.values, kind)) for layer in layers)
        wanted = theirs(model, 0, 14).logits[:, 9:]
        for past in (legacy, [list(layer) for layer in legacy], ours(llm, 0, 9).past_key_values.to_legacy_cache()):
            first = ours(llm, 9, 11, past, use_cache=True)
            assert relative_error(first.logits, wanted[:, :2]) < TOLERANCE
            second = ours(llm, 11, 14, first.past_key_values)
            assert relative_error(second.logits, wanted[:, 2:]) < TOLERANCE
        assert legacy[0][0].shape[2] == 9  # what was given stays as it was

    def test_with_a_mask_of_what_is_padding(self, pair: tuple[Any, Llama]) -> None:
        _, llm = pair
        mask = np.ones((2, 14), int)
        mask[1, :4] = 0
        past = llm(IDS[:, :9], attention_mask=mask[:, :9]).past_key_values.to_legacy_cache()
        found = llm(IDS[:, 9:], attention_mask=mask, past_key_values=past).logits
        assert relative_error(found, llm(IDS, attention_mask=mask).logits[:, 9:]) < TOLERANCE

    def test_what_does_not_fit(self, pair: tuple[Any, Llama], tiny_models: Any) -> None:
        _, llm = pair
        good = tuple((np.zeros((2, 2, 4, 8), np.float32),) * 2 for _ in range(3))
        for wrong, said in (
            (good[:2], "holds 2 layers, the model has 3"),
            ((*good[:2], (good[0][0],)), r"past_key_values\[2\] is a tuple of 1, wanted keys and values"),
            ((*good[:2], (good[0][0][:, :, :3], good[0][1])), r"past_key_values\[2\]: keys have shape \[2, 2, 3, 8\]"),
            (tuple((k[0], v[0]) for k, v in good), r"past_key_values\[0\]: keys have shape \[2, 4, 8\]"),
            (((None, None),) * 3, r"past_key_values\[0\] is a tuple"),
        ):
            with pytest.raises(InputError, match=said):
                llm(IDS[:, 4:6], past_key_values=wrong)
        with pytest.raises(InputError, match="past_key_values holds 2 rows, the inputs have 1"):
            llm(IDS[:1, 4:6], past_key_values=good)
        _, growing = loaded(llm.backend, tiny_models, "longrope")
        with pytest.raises(InputError, match="with longrope RoPE a row that grows is computed anew"):
            growing(IDS[:, 4:6], past_key_values=good)

    def test_in_half_precision(self, tiny_models: Any) -> None:
        model, folder = tiny_models()
        llm = Llama.load(folder, backend="torch:cpu", dtype="bfloat16")
        layers = theirs(model, 0, 9).past_key_values.layers
        found = ours(llm, 9, 14, tuple((layer.keys, layer.values) for layer in layers))
        assert found.past_key_values[0][0].dtype == torch.bfloat16
        assert relative_error(found.logits, theirs(model, 0, 14).logits[:, 9:]) < 0.06  # 8 roundings of bfloat16

    def test_gradients_reach_what_is_given(self, tiny_models: Any) -> None:
        """As prefix tuning trains keys and values."""
        model, folder = tiny_models()
        module = Llama.load(folder, backend="torch:cpu").module
        slopes = []
        for net in (model, module):
            prefix = [torch.full((2, 2, 3, 8), 0.1, requires_grad=True) for _ in range(6)]
            past: Any = tuple(zip(prefix[::2], prefix[1::2], strict=True))
            if net is model:
                past, tuples = DynamicCache(), past
                for layer, (keys, values) in enumerate(tuples):
                    past.update(keys, values, layer)
            net(torch.tensor(IDS), past_key_values=past, labels=torch.tensor(IDS)).loss.backward()
            slopes.append([part.grad for part in prefix])
        for found, wanted in zip(slopes[1], slopes[0], strict=True):
            assert relative_error(found, wanted) < 1e-4


class TestCachesOfTransformers:
    def test_an_empty_one_is_filled_and_goes_on(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        calls = (llm, llm.module) if llm.backend == "torch" else (llm,)
        for call in calls:
            cache, other = DynamicCache(), DynamicCache()
            for start, stop in ((0, 6), (6, 7), (7, 14)):
                with torch.no_grad():
                    found = ours(call, start, stop, cache)
                wanted = theirs(model, start, stop, other)
                assert found.past_key_values is cache and cache.get_seq_length() == stop
                assert relative_error(found.logits, wanted.logits) < TOLERANCE
                for mine, layer in zip(cache.layers, other.layers, strict=True):
                    assert relative_error(mine.keys, layer.keys) < TOLERANCE
                    assert relative_error(mine.values, layer.values) < TOLERANCE

    def test_one_that_others_have_filled_or_changed(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        cache = theirs(model, 0, 6).past_key_values
        whole = theirs(model, 0, 14).logits
        assert relative_error(ours(llm, 6, 9, cache).logits, whole[:, 6:9]) < TOLERANCE
        assert relative_error(theirs(model, 9, 11, cache).logits, whole[:, 9:11]) < TOLERANCE
        assert relative_error(ours(llm, 11, 14, cache).logits, whole[:, 11:]) < TOLERANCE
        cache.crop(-7)
        assert relative_error(ours(llm, 7, 14, cache).logits, whole[:, 7:]) < TOLERANCE
        cache.crop(-5)
        prefix = copy.deepcopy(cache)
        cache.reorder_cache(torch.tensor([1, 0]))
        found = llm(torch.tensor(IDS[[1, 0], 9:]), past_key_values=cache).logits
        assert relative_error(found, whole[[1, 0], 9:]) < TOLERANCE
        assert relative_error(ours(llm, 9, 14, prefix).logits, whole[:, 9:]) < TOLERANCE

    def test_one_of_two_models(self, pair: tuple[Any, Llama], tiny_models: Any) -> None:
        """What another model of ours wrote is taken as what it is, keys and values."""
        _, llm = pair
        _, folder = tiny_models()
        cache = DynamicCache()
        ours(llm, 0, 6, cache)
        other = Llama.load(folder, backend="reference")
        assert relative_error(ours(other, 6, 9, cache).logits, ours(other, 0, 9).logits[:, 6:]) < TOLERANCE

    def test_one_of_a_fixed_size(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        cache = StaticCache(model.config, 20)
        whole = theirs(model, 0, 14).logits
        assert relative_error(ours(llm, 0, 6, cache).logits, whole[:, :6]) < TOLERANCE
        assert relative_error(ours(llm, 6, 14, cache).logits, whole[:, 6:]) < TOLERANCE
        taken = StaticCache(model.config, 20)
        theirs(model, 0, 6, taken)
        assert relative_error(ours(llm, 6, 14, taken).logits, whole[:, 6:]) < TOLERANCE

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_one_of_a_fixed_size_that_is_used_again(self, pair: tuple[Any, Llama], mode: Any) -> None:
        """Its arrays stay the same ones whatever is in them."""
        model, llm = pair
        cache = StaticCache(model.config, 20)
        with mode():
            ours(llm, 0, 6, cache)
            cache.reset()
            found = [ours(llm, start, stop, cache).logits for start, stop in ((3, 7), (7, 9))]
            wanted = theirs(model, 3, 9).logits
        assert relative_error(found[0], wanted[:, :4]) < TOLERANCE
        assert relative_error(found[1], wanted[:, 4:]) < TOLERANCE

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_one_of_a_fixed_size_by_turns(self, pair: tuple[Any, Llama], mode: Any) -> None:
        model, llm = pair
        cache, whole = StaticCache(model.config, 20), theirs(model, 0, 14).logits
        with mode():
            for place, call in enumerate((lambda *at: theirs(model, *at), lambda *at: ours(llm, *at)) * 2):
                start, stop = 3 * place, 3 * place + 3
                assert relative_error(call(start, stop, cache).logits, whole[:, start:stop]) < TOLERANCE
            cache.layers[0].keys.zero_(), cache.layers[0].values.zero_()  # as long as before
            again = copy.deepcopy(cache)
            assert relative_error(ours(llm, 12, 14, cache).logits, theirs(model, 12, 14, again).logits) < TOLERANCE

    def test_one_that_is_written_into(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        cache = theirs(model, 0, 4).past_key_values
        ours(llm, 4, 6, cache)
        cache.layers[1].keys.mul_(0.5)
        again = copy.deepcopy(cache)
        assert relative_error(ours(llm, 6, 9, cache).logits, theirs(model, 6, 9, again).logits) < TOLERANCE

    def test_where_frequencies_depend_on_the_length(self, pair: tuple[Any, Llama], tiny_models: Any) -> None:
        _, llm = loaded(pair[1].backend, tiny_models, "dynamic")
        long, cache = np.concatenate([IDS, IDS], axis=1), DynamicCache()
        for start, stop in ((0, 14), (14, 18), (18, 22)):
            found = llm(torch.tensor(long[:, start:stop]), past_key_values=cache).logits
            wanted = llm(long[:, :stop]).logits
            assert relative_error(found[:, -1], wanted[:, -1]) < TOLERANCE
        cache.crop(-2)
        with pytest.raises(InputError, match="with dynamic RoPE a row that grows is computed anew"):
            llm(torch.tensor(long[:, 20:22]), past_key_values=cache)

    def test_one_that_does_not_hold_everything(self, pair: tuple[Any, Llama]) -> None:
        cache = DynamicCache()
        ours(pair[1], 0, 6, cache)
        cache.layers[1].keys = cache.layers[1].keys[:, :, :4]
        with pytest.raises(
            InputError, match="past_key_values is a DynamicCache whose DynamicLayer does not hold all 6"
        ):
            ours(pair[1], 6, 8, cache)


def test_a_backend_that_takes_no_arrays(tiny_models: Any) -> None:
    from polyllama.core.forward.past import Past

    class Plain:
        graph = Llama.load(tiny_models()[1], backend="reference").graph

    layers = theirs(tiny_models()[0], 0, 4).past_key_values.layers
    with pytest.raises(UnsupportedError, match="takes no arrays as past_key_values"):
        Past.of(Plain(), [(layer.keys, layer.values) for layer in layers])
