"""What a cache that came with a call remembers, and what is left of a call that failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from polyllama import DynamicCache, Llama, StaticCache
from polyllama.core.errors import GenerationError, InputError
from random_adapters import save_adapter
from tiny_models import ALL_BACKENDS

IDS = torch.tensor(np.random.default_rng(5).integers(3, 97, (2, 10)))
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


@pytest.fixture(scope="module", params=ALL_BACKENDS)
def llm(request: pytest.FixtureRequest, tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Llama:
    _, folder = tiny_models()
    graph, made = Llama.load(folder, backend="reference").graph, tmp_path_factory.mktemp("adapters")
    adapters: dict[str, Path] = {
        name: save_adapter(made / name, graph, ["q_proj", "v_proj"], seed=seed) for seed, name in enumerate("ab")
    }
    return Llama.load(folder, backend=str(request.param), dtype="float32", adapters=adapters)


def test_a_cache_remembers_the_adapters_of_its_rows(llm: Llama) -> None:
    alone = llm(IDS[:1], adapter="a").logits[:, -1]
    for call in [llm, llm.module] if llm.backend == "torch" else [llm]:
        cache = call(IDS[:1, :6], use_cache=True, adapter="a").past_key_values
        for other in ("b", None):
            with pytest.raises(InputError, match="past_key_values was filled with adapter='a'"):
                call(IDS[:1, 6:], past_key_values=cache, adapter=other)
            with pytest.raises(InputError, match="past_key_values was filled with adapter='a'"):
                call.generate(IDS[:1], past_key_values=cache, adapter=other, **GREEDY)
        found = call(IDS[:1, 6:], past_key_values=cache, adapter="a").logits[:, -1]
        assert torch.allclose(found, alone, rtol=1e-4, atol=1e-4)


def test_rows_of_a_cache_take_their_adapters_along(llm: Llama) -> None:
    cache = llm(IDS, use_cache=True, adapter=["a", None]).past_key_values
    cache.reorder_cache([1, 0])
    with pytest.raises(InputError, match=r"past_key_values was filled with adapter=\[None, 'a'\], and"):
        llm(IDS[:, :1], past_key_values=cache, adapter=["a", None])
    assert llm(IDS[:, :1], past_key_values=cache, adapter=[None, "a"]).past_key_values.get_seq_length() == 11
    cache.crop(0)
    llm(IDS, past_key_values=cache, adapter="b")  # of one that holds nothing there is nothing to remember


def test_what_generate_fills_remembers_too(llm: Llama) -> None:
    cache = DynamicCache()
    text = llm.generate(IDS, past_key_values=cache, adapter="b", **GREEDY)
    with pytest.raises(InputError, match="past_key_values was filled with adapter='b'"):
        llm.generate(text, past_key_values=cache, **GREEDY)
    again = llm.generate(text, past_key_values=cache, adapter="b", **GREEDY)
    assert torch.equal(again, llm.generate(text, adapter="b", **GREEDY))
    for beams in (1, 2):
        kept = llm.generate(IDS, adapter="a", return_dict_in_generate=True, num_beams=beams, **GREEDY).past_key_values
        with pytest.raises(InputError, match="past_key_values was filled with adapter='a'"):
            llm(IDS[:, :1].repeat_interleave(beams, 0), past_key_values=kept, adapter="b")


@pytest.mark.parametrize("kind", ["dynamic", "static", "transformers", "output"])
def test_a_call_that_fails_leaves_the_cache_as_it_was(llm: Llama, kind: str) -> None:
    wanted, fails = llm.generate(IDS, **GREEDY), [True]

    def third(ids: Any, scores: Any) -> Any:
        if fails[0] and ids.shape[1] == 12:
            raise ValueError("not now")
        return scores

    cache: Any = {
        "dynamic": DynamicCache,
        "static": lambda: StaticCache(llm.config, 40),
        "transformers": transformers.DynamicCache,
        "output": lambda: None,
    }[kind]()
    cache = llm(IDS[:, :6], past_key_values=cache, use_cache=True).past_key_values
    call: dict[str, Any] = {"past_key_values": cache, "logits_processor": [third], **GREEDY}
    with pytest.raises(GenerationError, match="not now"):
        llm.generate(IDS, **call)
    assert cache.get_seq_length() == 6
    fails[0] = False
    assert torch.equal(llm.generate(IDS, **call), wanted)
    assert cache.get_seq_length() == 15
