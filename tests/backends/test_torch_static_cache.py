"""A static cache under ``torch.compile``: one graph for every token, whatever was run before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from polyllama import Llama, StaticCache
from tiny_models import relative_error
from torch._dynamo.utils import counters

IDS = torch.randint(3, 97, (2, 24), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[0, :3] = 0
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def llm(tiny_models: Any) -> Llama:
    return Llama.load(tiny_models(num_hidden_layers=1)[1], backend="torch:cpu", dtype="float32")


def decode(step: Any, prefill: Any, llm: Llama, mask: torch.Tensor | None = None, **how: Any) -> torch.Tensor:
    """Logits of all tokens: nine at once, then one by one, of which no pass after the second may compile anything."""
    cache = StaticCache(config=llm.config, max_cache_len=32)
    with torch.no_grad():
        given = {} if mask is None else {"attention_mask": mask[:, :9]}
        parts = [prefill(IDS[:, :9], past_key_values=cache, **given).logits]
        for place in range(9, 24):
            with torch._dynamo.config.patch(error_on_recompile=place > 9):
                at = torch.tensor([place])
                output = step(IDS[:, place : place + 1], past_key_values=cache, cache_position=at, **how)
            assert output.past_key_values is cache
            parts.append(output.logits)
    assert cache.get_seq_length() == 24
    return torch.cat(parts, 1)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_a_decoding_step_compiles_once(backend: str, mask: torch.Tensor | None, llm: Llama) -> None:
    wanted = llm(IDS, attention_mask=mask).logits[:, 3:]
    step = torch.compile(llm.module.forward, backend=backend, fullgraph=True)
    for prefill in (llm.module, step):
        for _ in range(2):  # another cache needs no other graph
            assert relative_error(decode(step, prefill, llm, mask)[:, 3:], wanted) < TOLERANCE
    assert counters["stats"]["unique_graphs"] == 2  # of a prompt, and of a token


def test_the_modules_own_way_to_compile(tiny_models: Any) -> None:
    llm = Llama.load(tiny_models(num_hidden_layers=1)[1], backend="torch:cpu", dtype="float32")
    wanted = llm(IDS).logits
    llm.module.compile(backend="eager", fullgraph=True)
    for call in (llm.module, llm):
        assert relative_error(decode(call, call, llm), wanted) < TOLERANCE


def test_a_cache_that_grows_has_a_graph_for_every_length(llm: Llama) -> None:
    """What the test above would see otherwise."""
    from polyllama import DynamicCache

    step = torch.compile(llm.module.forward, backend="eager", dynamic=False)
    cache = DynamicCache()
    with torch.no_grad():
        llm.module(IDS[:, :9], past_key_values=cache)
        step(IDS[:, 9:10], past_key_values=cache)
        with torch._dynamo.config.patch(error_on_recompile=True), pytest.raises(Exception, match=r"[Rr]ecompil"):
            step(IDS[:, 10:11], past_key_values=cache)


def test_storage_stays_where_it_is(llm: Llama) -> None:
    cache = StaticCache(config=llm.config, max_cache_len=32)
    with torch.no_grad():
        llm.module(IDS[:, :9], attention_mask=MASK[:, :9], past_key_values=cache)
        native: Any = cache.native
        held = [native.place, native.mask, *(buffer for pair in native.buffers.values() for buffer in pair)]
        step = torch.compile(llm.module.forward, backend="aot_eager", fullgraph=True)
        for place in range(9, 12):
            step(IDS[:, place : place + 1], past_key_values=cache)
        llm.module(IDS[:, 12:14], past_key_values=cache)
    now = [native.place, native.mask, *(buffer for pair in native.buffers.values() for buffer in pair)]
    assert cache.native is native and all(old is new for old, new in zip(held, now, strict=True))
    assert [tuple(array.shape) for array in held[:3]] == [(), (2, 32), (2, 2, 32, 8)]


def test_by_turns_with_inference_mode(llm: Llama) -> None:
    cache, parts = StaticCache(config=llm.config, max_cache_len=32), []
    for place, mode in enumerate((torch.inference_mode, torch.no_grad, torch.inference_mode, torch.no_grad)):
        with mode():
            at = slice(6 * place, 6 * place + 6)
            parts.append(llm.module(IDS[:, at], attention_mask=MASK[:, : at.stop], past_key_values=cache).logits)
    found, wanted = torch.cat(parts, 1)[:, 3:], llm(IDS, attention_mask=MASK).logits[:, 3:]
    assert relative_error(found, wanted) < TOLERANCE


def test_more_tokens_than_it_has_room_for(llm: Llama) -> None:
    step = torch.compile(llm.module.forward, backend="eager", fullgraph=True)
    cache = StaticCache(config=llm.config, max_cache_len=10)
    with torch.no_grad():
        llm.module(IDS[:, :9], past_key_values=cache)
        step(IDS[:, 9:10], past_key_values=cache)
        with pytest.raises(IndexError, match="out of"):
            step(IDS[:, 10:11], past_key_values=cache)
