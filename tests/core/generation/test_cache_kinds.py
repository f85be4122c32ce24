"""``cache_implementation``: every name that transformers knows is what the model has, or refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from polyllama import GenerationConfig, Llama
from polyllama.core.errors import GenerationError, PolyllamaWarning
from polyllama.core.generation import arguments, cache_kinds
from tiny_models import ALL_BACKENDS
from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS

pytestmark = pytest.mark.filterwarnings("ignore:generated texts stay empty")
IDS = torch.tensor([[5, 6, 7, 8]])
OPTIONS: dict[str, Any] = {"max_new_tokens": 3, "eos_token_id": []}


@pytest.fixture(autouse=True)
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "_said", set())


@pytest.fixture(scope="module", params=ALL_BACKENDS)
def llm(request: pytest.FixtureRequest, tiny_models: Any) -> Llama:
    return Llama.load(tiny_models()[1], backend=str(request.param))


def ways(llm: Llama, **cache: Any) -> list[Any]:
    config = GenerationConfig(**cache)
    return [
        lambda: llm.generate(IDS, **OPTIONS, **cache),
        lambda: llm.generate(IDS, **OPTIONS, generation_config=config),
        lambda: torch.tensor([[*IDS[0].tolist(), *llm.generate(IDS[0].tolist(), **OPTIONS, **cache).token_ids]]),
    ]


def test_every_name_has_an_answer(llm: Llama) -> None:
    wanted = llm.generate(IDS, **OPTIONS)
    for name in ALL_CACHE_IMPLEMENTATIONS:
        for way in ways(llm, cache_implementation=name):
            if name in cache_kinds.SLIDING:
                with pytest.raises(GenerationError, match=f"'{name}' is not offered; a Llama attends to all tokens"):
                    way()
            elif name == "quantized":
                with pytest.raises(GenerationError, match=r"this model's keys and values are float.*KV_CACHE=int8"):
                    way()
            elif name != "static":  # offloaded ones are where they are to be: the models are on a CPU
                assert torch.equal(way(), wanted)
    known = {*cache_kinds.CACHES, *cache_kinds.BY_MODEL, *cache_kinds.SLIDING}
    assert known == set(ALL_CACHE_IMPLEMENTATIONS)


def test_a_static_one_is_said_to_change_nothing(llm: Llama) -> None:
    with pytest.warns(PolyllamaWarning, match="cache_implementation='static' changes nothing here"):
        found = llm.generate(IDS, **OPTIONS, cache_implementation="static")
    assert torch.equal(found, llm.generate(IDS, **OPTIONS))


def test_on_another_device_than_the_host(llm: Llama) -> None:
    class Elsewhere:
        device, dtype, arrays = "cuda:0", "bfloat16", "torch"

    for name in ("offloaded", "offloaded_static"):
        with pytest.raises(GenerationError, match=f"'{name}' is not offered; .* stay on the model's device, cuda:0"):
            cache_kinds.check_cache(name, Elsewhere())  # type: ignore[arg-type]
    Elsewhere.device, Elsewhere.arrays = "gpu", "mlx"  # whose memory is the host's
    assert cache_kinds.check_cache("offloaded", Elsewhere()) == ()  # type: ignore[arg-type]


def test_a_quantized_one_where_the_model_has_it(tiny_models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if "cpu" not in ALL_BACKENDS:
        pytest.skip("the native kernels were not built")
    monkeypatch.setenv("POLYLLAMA_KV_CACHE", "int8")
    llm = Llama.load(tiny_models()[1], backend="cpu")
    wanted = llm.generate(IDS, **OPTIONS)
    for config in (None, {}, {"nbits": 8}):
        for way in ways(llm, cache_implementation="quantized", cache_config=config):
            assert torch.equal(way(), wanted)
    for way in ways(llm, cache_implementation="quantized", cache_config={"backend": "quanto", "nbits": 4}):
        with pytest.raises(GenerationError, match="nbits is 4, this model's keys and values have 8"):
            way()
    with pytest.warns(PolyllamaWarning, match="cache_config: backend, q_group_size without effect"):
        config = {"backend": "quanto", "nbits": 8, "q_group_size": 64}
        llm.generate(IDS, **OPTIONS, cache_implementation="quantized", cache_config=config)


def test_in_a_file_it_is_said(tmp_path: Any, tiny_models: Any) -> None:
    from polyllama.core.generation.defaults import GenerationDefaults

    with pytest.warns(PolyllamaWarning, match='not honoured.*cache_implementation="quantized"'):
        GenerationDefaults.from_dict({"cache_implementation": "quantized"})
    assert GenerationDefaults.from_dict({"cache_implementation": "hybrid"}).not_honoured == ()
