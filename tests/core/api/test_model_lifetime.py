"""A model is freed when the last who holds it lets it go, and what a module knows outlives its facade."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from polyllama import GenerationConfig, Llama, LlamaConfig, LlamaForCausalLM, LlamaModel

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore:.*generated texts stay empty")

SIZES: dict[str, Any] = {
    **{"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
}
IDS = torch.tensor([[1, 5, 9, 30]])


@pytest.fixture
def collector_off() -> Iterator[None]:
    """What is freed is freed by the last reference alone."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def made() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def used(model: Any) -> Any:
    model.generate(IDS, max_new_tokens=2)
    model.generation_config.max_new_tokens = 3
    model.train()
    model(IDS, labels=IDS).loss.backward()
    return model.eval()


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize("way", ["made", "used", "loaded", "trunk", "copied"])
def test_a_module_is_freed_when_it_is_let_go(way: str, tmp_path: Path) -> None:
    model = made()
    if way == "used":
        used(model)
    elif way == "loaded":
        model.save_pretrained(tmp_path)
        model = used(LlamaForCausalLM.from_pretrained(tmp_path))
    elif way == "trunk":
        model = LlamaModel(LlamaConfig(**SIZES))
        model(IDS)
    elif way == "copied":
        model = used(copy.deepcopy(model))
    held = [ref(model), ref(next(model.parameters())), ref(model.llama), ref(model.llama.model)]
    del model
    assert [found() for found in held] == [None] * 4


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize("backend", ["torch", "reference", "cpu", "jax", "mlx"])
def test_a_facade_is_freed_with_its_model(backend: str) -> None:
    llm = Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend=backend)
    llm.generate([1, 5], max_new_tokens=2)
    llm.forward([[1, 5, 9]], labels=[[1, 5, 9]], output_attentions=True)
    if backend in ("torch", "mlx"):
        llm.module(IDS if backend == "torch" else [[1, 5, 9]])
    llm.resize_token_embeddings(97)
    llm.generate([1, 5], max_new_tokens=2)
    held = [ref(llm), ref(llm.model)]
    del llm
    assert [found() for found in held] == [None] * 2


def test_either_side_keeps_what_the_other_knew() -> None:
    model = made()
    wanted = model.generate(IDS, max_new_tokens=3)
    llm = model.llama
    assert model.llama is llm and llm.module is model
    del model
    assert torch.equal(llm.generate(IDS, max_new_tokens=3), wanted)
    llm.generation_config.max_new_tokens = 2
    module = llm.module
    del llm
    assert module.generation_config.max_new_tokens == 2 and module.generate(IDS).shape == (1, 6)
    module.llama.note = "kept"
    assert module.llama.note == "kept"
    module.resize_token_embeddings(100)
    assert module.llama.graph == module.graph and module.llama.config is module.config
    assert module.llama.forward([[1, 99]]).logits.shape == module(torch.tensor([[1, 99]])).logits.shape == (1, 2, 100)


@pytest.mark.usefixtures("collector_off")
def test_a_trunk_outlives_its_model() -> None:
    model = made()
    model.set_attn_implementation("eager")
    wanted, whole, trunk = model.model(IDS), ref(model), model.model
    twin = copy.deepcopy(trunk)
    del model
    assert whole() is None
    for alone in (trunk, twin, pickle.loads(pickle.dumps(trunk))):
        found = alone(IDS, output_attentions=True, output_hidden_states=True)
        assert torch.equal(found.last_hidden_state, wanted.last_hidden_state) and len(found.attentions) == 2
        cut = alone(IDS[:, 3:], past_key_values=alone(IDS[:, :3]).past_key_values)
        assert torch.allclose(cut.last_hidden_state, wanted.last_hidden_state[:, 3:], atol=1e-6)
    with torch.no_grad():
        twin.embed_tokens.weight.zero_()  # a copy has weights of its own, and runs on them
    assert not torch.equal(twin(IDS).last_hidden_state, wanted.last_hidden_state)
    assert torch.equal(trunk(IDS).last_hidden_state, wanted.last_hidden_state)
    held = ref(trunk)
    del trunk, alone
    assert held() is None


def test_a_copied_trunk_is_led_by_the_copied_model() -> None:
    model = made()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.embed_tokens.weight.zero_()
    other.config.output_hidden_states = True
    assert other.model(IDS).hidden_states is not None and model.model(IDS).hidden_states is None
    assert not torch.equal(other.model(IDS).last_hidden_state, model.model(IDS).last_hidden_state)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_generate_as_their_model_does(way: Any) -> None:
    model = made()
    model.generation_config.max_new_tokens = 3
    model.generation_config.eos_token_id = 95
    other = way(model)
    assert other.generation_config == model.generation_config and other.generation_config is not model.generation_config
    assert other.generate(IDS).shape == model.generate(IDS).shape == (1, 7)
    other.generation_config.max_new_tokens = 1
    assert model.generate(IDS).shape == (1, 7) and way(other).generate(IDS).shape == (1, 5)
    model.generation_config = GenerationConfig(max_new_tokens=2)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    assert torch.load(stream, weights_only=False).generation_config.max_new_tokens == 2


def test_models_that_a_constructor_makes_are_their_own(tmp_path: Path) -> None:
    class WithTeacher(LlamaForCausalLM):
        def __init__(self, config: LlamaConfig) -> None:
            teacher = LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_hidden_layers": 1}))
            loaded = LlamaForCausalLM.from_pretrained(tmp_path)
            super().__init__(config)
            self.others = [teacher, loaded]

    model = made()
    model.save_pretrained(tmp_path)
    for student in (WithTeacher.from_pretrained(tmp_path), WithTeacher(model.config), WithTeacher.load(tmp_path)):
        assert student.device.type == "cpu" and len(student.model.layers) == 2
        assert [len(other.model.layers) for other in student.others] == [1, 2]
        assert student(IDS).logits.shape == student.others[0](IDS).logits.shape
    assert torch.equal(WithTeacher.from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)
