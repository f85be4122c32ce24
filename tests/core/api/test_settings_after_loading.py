"""What is set after a model was loaded: it counts, or it is said by name that it does not, at any time alike."""

from __future__ import annotations

import copy
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama import GenerationConfig, Llama, LlamaConfig, LlamaForCausalLM, PolyllamaError, PolyllamaWarning

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:.*generated texts stay empty")

BACKENDS = ("torch", "reference", "cpu", "jax", "mlx")
SIZES: dict[str, Any] = {
    **{"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
}
IDS = np.array([[1, 5, 9, 30]])


def made(backend: str = "torch", **fields: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**SIZES, **fields), backend=backend, seed=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("used", [False, True])
def test_ids_set_in_the_config_are_said_not_to_count(backend: str, used: bool) -> None:
    model, untouched = made(backend), made(backend)
    wanted = untouched.generate(IDS, max_new_tokens=3)
    if used:
        model.generate(IDS, max_new_tokens=3)
    ends = int(wanted[0, 4])
    model.config.eos_token_id = ends
    with pytest.warns(PolyllamaWarning, match=rf"config.eos_token_id={ends} was set after .* generation_config.eos_t"):
        assert np.array_equal(model.generate(IDS, max_new_tokens=3), wanted)
    assert model.generation_config.eos_token_id == 2
    assert model.generate(IDS, max_new_tokens=3, eos_token_id=ends).shape == (1, 5)  # said by the call
    model.generation_config.eos_token_id = ends  # and now by both
    assert model.generate(IDS, max_new_tokens=3).shape == (1, 5)
    model.config.eos_token_id = 2
    model.config.pad_token_id = 3
    model.generation_config.eos_token_id = 2
    with pytest.warns(PolyllamaWarning, match="config.pad_token_id=3 was set after"):
        model.generate(IDS, max_new_tokens=3)
    model.generate([1, 5], max_new_tokens=1)  # pads nothing


def test_what_was_said_at_loading_stays(tmp_path: Path) -> None:
    model = made()
    model.generation_config.repetition_penalty = 1.5
    model.save_pretrained(tmp_path / "a")
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "a")
    loaded.config.output_hidden_states = True
    assert loaded.generation_config.output_hidden_states is not True and loaded.generation_config.use_cache
    assert loaded.generation_config.repetition_penalty == 1.5
    early = LlamaForCausalLM.from_pretrained(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    with pytest.raises(PolyllamaError, match=r"generation_config.json cannot be read"):
        early.generation_config  # noqa: B018
    other = made()
    other.config.use_cache = False
    twin = copy.deepcopy(other)
    assert other.generation_config.use_cache is True is twin.generation_config.use_cache
    with torch.device("meta"):
        empty = LlamaForCausalLM(LlamaConfig(**SIZES))
    empty.config.eos_token_id = 7
    assert hasattr(empty, "generation_config") and empty.generation_config.eos_token_id == 2


def test_a_generation_config_that_is_assigned_is_the_one_that_counts(tmp_path: Path) -> None:
    for kind in (GenerationConfig, transformers.GenerationConfig):
        for model in (made(), made("reference")):
            given = kind(max_new_tokens=5, eos_token_id=None)
            model.generation_config = given
            assert model.generation_config is given and model.generate(IDS).shape == (1, 9)
            given.max_new_tokens = 2
            assert model.generate(IDS).shape == (1, 6)
            model.generation_config.max_new_tokens = 3
            assert model.generate(IDS).shape == (1, 7) and given.max_new_tokens == 3
            model.save_pretrained(tmp_path)
            assert GenerationConfig.from_pretrained(tmp_path).max_new_tokens == 3
    model = made()
    model.generation_config = transformers.GenerationConfig(max_new_tokens=5)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.generation_config.max_new_tokens = 1
        assert twin.generate(IDS).shape == (1, 5) and model.generate(IDS).shape == (1, 9)
    with pytest.raises(PolyllamaError, match="wanted a GenerationConfig"):
        model.generation_config = 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_config_that_made_a_model_says_that_the_model_stays(backend: str) -> None:
    given = LlamaConfig(**SIZES)
    model = LlamaForCausalLM(given, backend=backend)
    said = "output_hidden_states set on a config that a model was made from: .*; set model.config.output_hidden_states"
    with pytest.warns(PolyllamaWarning, match=said):
        given.output_hidden_states = True
    assert given.output_hidden_states and not model.config.output_hidden_states
    given.output_hidden_states = False
    model.config.use_cache = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given.use_cache = False  # as the model's
        for other in (copy.copy(given), copy.deepcopy(given), pickle.loads(pickle.dumps(given)), given.replace()):
            other.output_attentions = True
        del model
        given.output_attentions = True  # nobody is left who could wonder
    loaded = Llama.load(given, load_format="dummy", backend=backend)
    with pytest.warns(PolyllamaWarning, match="output_attentions set on a config"):
        given.update({"output_attentions": False})
    assert loaded.config.output_attentions


@pytest.mark.parametrize("kind", [LlamaConfig, transformers.LlamaConfig])
def test_a_config_that_is_assigned(kind: Any) -> None:
    model = made(dtype="float32", architectures=["LlamaForCausalLM"])
    held = model.config
    given = kind(**SIZES, output_hidden_states=True, of_mine=3)
    model.config = given
    assert model.config is held and model(torch.tensor(IDS)).hidden_states is not None
    assert (held.of_mine, held.dtype, held.architectures) == (3, "float32", ["LlamaForCausalLM"])
    with pytest.raises(PolyllamaError, match=r"num_hidden_layers.* cannot be set: .*; load it with the change"):
        model.config = kind(**{**SIZES, "num_hidden_layers": 3})
    if kind is LlamaConfig:
        with pytest.warns(PolyllamaWarning, match="output_hidden_states set on a config"):
            given.output_hidden_states = False
    with torch.device("meta"):
        source = LlamaConfig(**SIZES)
        empty = LlamaForCausalLM(source)
    with pytest.warns(PolyllamaWarning, match="use_cache set on a config"):
        source.use_cache = False
    assert empty.config.use_cache
