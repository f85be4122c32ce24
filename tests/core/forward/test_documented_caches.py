"""``DynamicCache`` and ``StaticCache`` as documented, on every backend, against transformers' own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from polyllama import DynamicCache, Llama, StaticCache
from polyllama.core.array_kinds import as_numpy, to_kind
from polyllama.core.errors import InputError, UnsupportedError
from tiny_models import ALL_BACKENDS, relative_error

IDS = np.random.default_rng(8).integers(0, 97, (2, 14))
TOLERANCE = 1e-5
Pair = tuple[Any, Llama]


@pytest.fixture(scope="module", params=ALL_BACKENDS)
def pair(request: pytest.FixtureRequest, tiny_models: Any) -> Pair:
    """A model of transformers', and ours."""
    model, folder = tiny_models()
    backend = str(request.param)
    return model, Llama.load(folder, backend=backend, dtype="auto" if backend == "reference" else "float32")


def calls(llm: Llama) -> list[Any]:
    return [llm, llm.module] if llm.backend == "torch" else [llm]


def run(call: Any, start: int, stop: int, past: Any = None, rows: Any = (0, 1), **named: Any) -> Any:
    with torch.no_grad():
        return call(torch.tensor(IDS[list(rows), start:stop]), past_key_values=past, **named)


MAKE: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "dynamic": lambda config: (DynamicCache(), transformers.DynamicCache()),
    "dynamic with config": lambda config: (DynamicCache(config=config), transformers.DynamicCache(config=config)),
    "static": lambda config: (StaticCache(config=config, max_cache_len=20), transformers.StaticCache(config, 20)),
}


@pytest.mark.parametrize("kind", MAKE)
def test_passes_write_into_it(kind: str, pair: Pair) -> None:
    model, llm = pair
    for call in calls(llm):
        cache, other = MAKE[kind](model.config)
        assert (len(cache), cache.get_seq_length(), bool(cache)) == (0, 0, True)
        for start, stop in ((0, 6), (6, 7), (7, 14)):
            wanted = run(model, start, stop, other)
            found = run(call, start, stop, cache, cache_position=torch.arange(start, stop))
            assert found.past_key_values is cache
            assert cache.get_seq_length() == int(other.get_seq_length()) == stop
            assert relative_error(found.logits, wanted.logits) < TOLERANCE
        assert len(cache) == len(cache.layers) == len(other.layers) and cache.is_initialized
        for (keys, values), layer, theirs in zip(cache, cache.layers, other.layers, strict=True):
            assert relative_error(as_numpy(keys), theirs.keys[:, :, :14]) < TOLERANCE
            assert relative_error(as_numpy(values), theirs.values[:, :, :14]) < TOLERANCE
            assert layer.keys.shape == keys.shape == (2, 2, 14, 8) and isinstance(layer.values, torch.Tensor)
        assert cache.get_max_cache_shape() == cache.get_max_length() == (20 if kind == "static" else -1)
        assert cache.is_compileable == other.is_compileable
        assert cache.key_cache[1].shape == cache.value_cache[2].shape == cache.to_legacy_cache()[0][1].shape


@pytest.mark.parametrize("kind", MAKE)
def test_what_changes_it(kind: str, pair: Pair) -> None:
    model, llm = pair
    whole = run(model, 0, 14).logits
    for call in calls(llm):
        cache, _ = MAKE[kind](model.config)
        run(call, 0, 9, cache)
        saved = copy.deepcopy(cache)
        cache.crop(5)
        assert relative_error(run(call, 5, 12, cache).logits, whole[:, 5:12]) < TOLERANCE
        cache.crop(-2)
        assert relative_error(run(call, 10, 14, cache).logits, whole[:, 10:]) < TOLERANCE
        cache.crop(9)
        cache.reorder_cache(torch.tensor([1, 0]))
        assert relative_error(run(call, 9, 11, cache, (1, 0)).logits, whole[[1, 0], 9:11]) < TOLERANCE
        cache.crop(9)
        cache.batch_select_indices([0])
        cache.batch_repeat_interleave(3)
        assert cache.batch_size == 3
        assert relative_error(run(call, 9, 11, cache, (1, 1, 1)).logits, whole[[1, 1, 1], 9:11]) < TOLERANCE
        cache.reset()
        assert cache.get_seq_length() == 0
        rows = (0, 1, 0) if kind == "static" else (0, 1)
        assert relative_error(run(call, 0, 14, cache, rows).logits, whole[list(rows)]) < TOLERANCE
        assert relative_error(run(call, 9, 14, saved).logits, whole[:, 9:]) < TOLERANCE


@pytest.mark.parametrize("kind", MAKE)
def test_padding_is_remembered(kind: str, pair: Pair) -> None:
    model, llm = pair
    mask = np.ones((2, 14), int)
    mask[1, :4] = 0
    wanted = llm(IDS, attention_mask=mask).logits
    for call in calls(llm):
        for later in (None, lambda stop: torch.tensor(mask[:, :stop]), lambda stop: torch.ones((2, 1), dtype=int)):
            cache, _ = MAKE[kind](model.config)
            run(call, 0, 9, cache, attention_mask=torch.tensor(mask[:, :9]))
            for stop in range(10, 15):
                given = {} if later is None else {"attention_mask": later(stop)}
                found = run(call, stop - 1, stop, cache, **given).logits
                assert relative_error(found, wanted[:, stop - 1 : stop]) < TOLERANCE
            copied = copy.deepcopy(cache)
            copied.crop(12)
            assert relative_error(run(call, 12, 14, copied).logits, wanted[:, 12:]) < TOLERANCE
            cache.reset()
            assert relative_error(run(call, 0, 14, cache).logits, run(model, 0, 14).logits) < TOLERANCE


@pytest.mark.parametrize("kind", ["numpy", "torch", "jax", "mlx"])
def test_keys_and_values_that_a_program_adds(kind: str, pair: Pair) -> None:
    if kind in ("jax", "mlx") and kind not in ALL_BACKENDS:
        pytest.skip(f"{kind} is not here")
    model, llm = pair
    layers = [
        (to_kind(layer.keys, kind), to_kind(layer.values, kind)) for layer in run(model, 0, 9).past_key_values.layers
    ]
    whole = run(model, 0, 14).logits
    added = DynamicCache()
    for place, (keys, values) in enumerate(layers):
        added.update(keys[:, :, :4], values[:, :, :4], place)
        found = added.update(keys[:, :, 4:], values[:, :, 4:], place, {"cache_position": None})
        assert np.array_equal(as_numpy(found[0]), as_numpy(keys)) and added.get_seq_length(place) == 9
    static = StaticCache(config=model.config, max_cache_len=14)
    for place, (keys, values) in enumerate(layers):
        static.update(keys, values, place)
    for cache in (added, static, DynamicCache(layers), DynamicCache.from_legacy_cache(tuple(layers))):
        twin = copy.deepcopy(cache)
        twin.reorder_cache([1, 0])
        twin.crop(-2)
        assert relative_error(run(llm, 7, 9, twin, (1, 0)).logits, whole[[1, 0], 7:9]) < TOLERANCE
        assert relative_error(run(llm, 9, 14, cache).logits, whole[:, 9:]) < TOLERANCE
        assert cache.get_seq_length() == 14 and len(cache) == 3
    keys, values = layers[0]
    for place in range(3):  # behind what the model has written
        added.update(to_kind(keys, "torch"), to_kind(values, "torch"), place)
    assert added.get_seq_length() == 23 and static.max_cache_len == 14
    with pytest.raises(InputError, match="StaticCache for 14 tokens, and this pass would make 23"):
        static.update(to_kind(keys, "torch"), to_kind(values, "torch"), 0)


def test_copies_and_pickles(pair: Pair) -> None:
    model, llm = pair
    wanted = run(model, 0, 12).logits[:, 9:]
    for kind in MAKE:
        cache, _ = MAKE[kind](model.config)
        run(llm, 0, 9, cache)
        twins = [copy.deepcopy(cache)]
        if llm.backend in ("cpu", "torch", "jax"):
            twins.append(pickle.loads(pickle.dumps(cache)))
        run(llm, 3, 8, cache)
        for twin in twins:
            assert relative_error(run(llm, 9, 12, twin).logits, wanted) < TOLERANCE


def test_what_does_not_fit(pair: Pair) -> None:
    model, llm = pair
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = 2
    full = StaticCache(config=model.config, max_cache_len=9)
    run(llm, 0, 9, full)
    for cache, said in (
        (StaticCache(config=model.config, max_cache_len=4), "StaticCache for 4 tokens, and this pass would make 5"),
        (StaticCache(model.config, 9, max_batch_size=3), "StaticCache for 3 rows, the inputs have 2"),
        (StaticCache(model.config, 9, dtype="int8"), "dtype of the StaticCache is int8, the model's is float"),
        (StaticCache(model.config, 9, device="cuda:1"), "device of the StaticCache is cuda, the model's is cpu"),
        (DynamicCache(config=config), "DynamicCache for 2 layers, the model has 3"),
        (DynamicCache([(np.zeros((2, 2, 4, 8)),) * 2]), "holds 1 layer, the model has 3"),
        (full, "9 tokens, and this pass would make 14"),
    ):
        for call in calls(llm):
            before = cache.get_seq_length()
            with pytest.raises(InputError, match=said):
                run(call, 0, 5, cache)
            assert cache.get_seq_length() == before
    same = StaticCache(model.config, 9, max_batch_size=2, dtype=llm.dtype, device=torch.device("cpu"))
    assert same.max_batch_size == 2 and run(llm, 0, 5, same).past_key_values is same


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_where_frequencies_depend_on_the_length(rope: str, pair: Pair, tiny_models: Any) -> None:
    backend = pair[1].backend
    llm = Llama.load(tiny_models(rope)[1], backend=backend, dtype="auto" if backend == "reference" else "float32")
    long = torch.tensor(np.concatenate([IDS, IDS], axis=1))  # beyond the length at which both change
    wanted = llm(long).logits
    for call in calls(llm):
        for cache in (DynamicCache(), StaticCache(config=llm.config, max_cache_len=28)):
            for _ in range(2):
                with torch.no_grad():
                    parts = [call(long[:, at : at + 7], past_key_values=cache).logits for at in range(0, 28, 7)]
                assert relative_error(parts[-1][:, -1], wanted[:, -1]) < TOLERANCE
                cache.reset()  # the inputs that were kept for starting over, too


def test_what_is_refused_when_it_is_made() -> None:
    config = transformers.LlamaConfig()
    for make, said in (
        (lambda: DynamicCache(offloading=True), "stay on the model's device"),
        (lambda: StaticCache(config, 4, offloading=True), "stay on the model's device"),
        (lambda: StaticCache(config, max_cache_len=0), "max_cache_len is 0, wanted a whole number"),
        (lambda: StaticCache(), "wants max_cache_len, or the config"),
        (lambda: DynamicCache(config=5), "config is a int without num_hidden_layers"),
        (lambda: StaticCache.from_legacy_cache(()), "a StaticCache has a size"),
        (lambda: DynamicCache().update(np.zeros((1, 2, 3)), np.zeros((1, 2, 3)), 0), "key_states is no array"),
        (lambda: DynamicCache().update(np.zeros((1, 2, 3, 4)), np.zeros((1, 2, 3, 4)), 1), "begin with layer 0"),
        (lambda: DynamicCache()[0], "holds 0 layers"),
    ):
        with pytest.raises((InputError, UnsupportedError, IndexError), match=said):
            make()
    assert StaticCache(config=config).max_cache_len == config.max_position_embeddings


def test_a_static_cache_records_gradients(tiny_models: Any) -> None:
    """Two passes of one graph, with and without keys and values that stay in place."""
    module = Llama.load(tiny_models()[1], backend="torch:cpu").module
    ids, slopes = torch.tensor(IDS), []
    for cache in (None, StaticCache(config=module.config, max_cache_len=20)):
        module.zero_grad()
        first = module(ids[:, :6], past_key_values=cache, use_cache=True)
        second = module(ids[:, 6:], past_key_values=first.past_key_values)
        (first.logits.square().mean() + second.logits.square().mean()).backward()
        slopes.append(module.model.layers[0].self_attn.k_proj.weight.grad.clone())
    assert relative_error(slopes[1], slopes[0]) < 1e-4


def test_packed_texts_in_a_static_cache(tiny_models: Any) -> None:
    llm = Llama.load(tiny_models()[1], backend="torch:cpu", dtype="float32")
    positions = torch.tensor([[*range(5), *range(4), *range(5)]])
    wanted = llm(torch.tensor(IDS), position_ids=positions).logits
    found = run(llm, 0, 14, StaticCache(config=llm.config, max_cache_len=20), position_ids=positions).logits
    assert relative_error(found, wanted) < TOLERANCE
    assert relative_error(wanted, llm(torch.tensor(IDS)).logits) > 1e-2


def test_a_mask_of_four_dimensions_in_a_static_cache(tiny_models: Any) -> None:
    llm = Llama.load(tiny_models()[1], backend="torch:cpu", dtype="float32")
    outputs = []
    for cache in (DynamicCache(), StaticCache(config=llm.config, max_cache_len=20)):
        run(llm, 0, 9, cache)
        mask = torch.ones((2, 1, 5, 14), dtype=torch.int64).tril(9)
        mask[..., 2] = 0
        outputs.append(run(llm, 9, 14, cache, attention_mask=mask).logits)
    assert relative_error(outputs[1], outputs[0]) < TOLERANCE
