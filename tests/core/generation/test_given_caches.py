"""``generate(past_key_values=...)`` against transformers' own, which goes on from what a cache holds of the prompts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from polyllama import DynamicCache, Llama, StaticCache
from polyllama.core.errors import GenerationError, InputError
from tiny_models import ALL_BACKENDS, relative_error

IDS = torch.tensor(np.random.default_rng(5).integers(3, 97, (2, 20)))
MASK = torch.ones_like(IDS)
MASK[1, :3] = 0
GREEDY: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


@pytest.fixture(scope="module", params=ALL_BACKENDS)
def pair(request: pytest.FixtureRequest, tiny_models: Any) -> tuple[Any, Llama]:
    model, folder = tiny_models()
    backend = str(request.param)
    return model, Llama.load(folder, backend=backend, dtype="auto" if backend == "reference" else "float32")


MAKE: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "dynamic": lambda config: (DynamicCache(), transformers.DynamicCache()),
    "static": lambda config: (StaticCache(config=config, max_cache_len=40), transformers.DynamicCache()),
    "transformers'": lambda config: (transformers.DynamicCache(), transformers.DynamicCache()),
}


def calls(llm: Llama) -> list[Any]:
    return [llm, llm.module] if llm.backend == "torch" else [llm]


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_turns_of_a_conversation(kind: str, mask: torch.Tensor | None, pair: tuple[Any, Llama]) -> None:
    """Each call is given the text so far, and what the one before has run is not run again."""
    model, llm = pair
    for call in calls(llm):
        cache, other = MAKE[kind](model.config)
        texts, kept = IDS, MASK if mask is None else mask
        if mask is None:
            kept = torch.ones_like(IDS)
        for turn in range(2):
            options = {**GREEDY, "attention_mask": kept}
            wanted = model.generate(texts, past_key_values=other, **options)
            found = call.generate(texts, past_key_values=cache, **options)
            assert torch.equal(found, wanted), turn
            assert cache.get_seq_length() == int(other.get_seq_length()) == wanted.shape[1] - 1
            texts = torch.cat([wanted, IDS[:, :2]], 1)
            kept = torch.cat([kept, torch.ones((2, texts.shape[1] - kept.shape[1]), dtype=torch.int64)], 1)
        real = kept[:, None, : cache.get_seq_length(), None]  # what padding becomes is nobody's business
        assert relative_error(cache.layers[1].keys * real, other.layers[1].keys * real) < 1e-5


def test_a_common_beginning_is_run_once(pair: tuple[Any, Llama]) -> None:
    model, llm = pair
    beginning = llm(IDS[:1, :12], past_key_values=StaticCache(config=llm.config, max_cache_len=30)).past_key_values
    for end in (IDS[:1, 12:], IDS[1:, 12:15]):
        ids = torch.cat([IDS[:1, :12], end], 1)
        cache = copy.deepcopy(beginning)
        found = llm.generate(ids, past_key_values=cache, return_dict_in_generate=True, output_logits=True, **GREEDY)
        assert torch.equal(found.sequences, model.generate(ids, **GREEDY))
        assert found.past_key_values is cache and len(found.logits) == 9
        assert cache.get_seq_length() == ids.shape[1] + 8 and beginning.get_seq_length() == 12


def test_what_the_cache_holds_is_not_run_again(pair: tuple[Any, Llama]) -> None:
    """Other keys and values give another text: the ids before them are not looked at."""
    _, llm = pair
    cache = llm(IDS[:1, :12], use_cache=True).past_key_values
    other = torch.cat([(IDS[:1, :12] + 1) % 97, IDS[:1, 12:]], 1)
    found = llm.generate(other, past_key_values=cache, **GREEDY)
    assert torch.equal(found[:, 20:], llm.generate(IDS[:1], **GREEDY)[:, 20:])


def test_sampling_and_streaming(pair: tuple[Any, Llama]) -> None:
    _, llm = pair
    pieces: list[Any] = []

    class Streamer:
        def put(self, value: Any) -> None:
            pieces.append(value)

        def end(self) -> None:
            pieces.append(None)

    options = {**GREEDY, "do_sample": True, "seed": 4}
    cache = llm(IDS[:, :7], use_cache=True).past_key_values
    found = llm.generate(IDS, past_key_values=cache, streamer=Streamer(), **options)
    assert torch.equal(found, llm.generate(IDS, **options)) and len(pieces) == 11
    assert torch.equal(torch.stack(pieces[1:-1], 1), found[:, 20:])


def test_what_does_not_go_together(pair: tuple[Any, Llama]) -> None:
    _, llm = pair
    whole = llm(IDS, use_cache=True).past_key_values
    padded = llm(IDS[:, :9], attention_mask=MASK[:, :9]).past_key_values
    right = torch.ones_like(IDS)
    right[0, -2:] = 0
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (whole, {}, "past_key_values holds 20 tokens, the prompts have 20"),
        (padded, {}, "past_key_values and attention_mask differ in which tokens are padding"),
        (DynamicCache(), {"attention_mask": right}, "padding behind tokens"),
        (DynamicCache(), {"num_return_sequences": 2, "do_sample": True}, "num_return_sequences=2 and past_key_values"),
        (DynamicCache(), {"use_cache": False}, "past_key_values and use_cache=False"),
        (DynamicCache(), {"batch_size": 1}, "batch_size=1 and past_key_values do not go together"),
        (StaticCache(llm.config, 27), {}, "a StaticCache for 27 tokens has no room for prompts of 20 and 9 new ones"),
        (5, {}, "past_key_values is a int"),
        (llm(IDS[:1, :4], use_cache=True).past_key_values, {}, "holds 1 row, there are 2 prompts"),
    ]
    for cache, options, said in cases:
        with pytest.raises((GenerationError, InputError), match=said):
            llm.generate(IDS, past_key_values=cache, **{**GREEDY, **options})
    with pytest.raises(GenerationError, match="do not go together"):
        embeds = torch.zeros((2, 4, llm.config.hidden_size))
        llm.generate(inputs_embeds=embeds, past_key_values=DynamicCache(), **GREEDY)
    with pytest.raises(GenerationError, match="takes it with prompts as an array of ids"):
        llm.generate([[1, 2]], past_key_values=DynamicCache())
    assert torch.equal(
        llm.generate(IDS, past_key_values=StaticCache(llm.config, 28), **GREEDY), llm.generate(IDS, **GREEDY)
    )
