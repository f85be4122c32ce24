"""Copies and pickles of a model, and what moves or casts a module, on every backend."""

from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polyllama
import pytest
import torch
from polyllama import Llama
from polyllama.core.array_kinds import as_numpy
from polyllama.core.errors import CheckpointError, InputError, NoModuleError, PolyllamaError, UnsupportedError
from tiny_models import ALL_BACKENDS, relative_error

IDS = np.random.default_rng(7).integers(1, 97, (2, 6))
WAYS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda llm: pickle.loads(pickle.dumps(llm)),
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
each_backend = pytest.mark.parametrize("backend", ALL_BACKENDS)


def logits(llm: Any) -> Any:
    return as_numpy(llm(IDS).logits)


@each_way
@each_backend
class TestCopies:
    def test_give_the_same(self, tiny_models: Any, backend: str, way: Any) -> None:
        llm = Llama.load(tiny_models()[1], backend=backend)
        llm.generation_config.max_new_tokens = 3
        made = way(llm)
        assert type(made) is Llama and made.model is not llm.model and made.config is not llm.config
        assert made.config == llm.config and (made.backend, made.device, made.dtype) == (backend, llm.device, llm.dtype)
        assert np.array_equal(logits(made), logits(llm))
        assert np.array_equal(made.generate(IDS), llm.generate(IDS)) and made.generate(IDS).shape == (2, 9)

    def test_share_nothing(self, tiny_models: Any, backend: str, way: Any) -> None:
        llm = Llama.load(tiny_models()[1], backend=backend)
        before, made = logits(llm), way(llm)
        made.resize_token_embeddings(90)
        made.config.pad_token_id = 3
        assert np.array_equal(logits(llm), before)
        assert (llm.config.vocab_size, llm.config.pad_token_id, made.config.vocab_size) == (97, None, 90)

    @pytest.mark.parametrize("option", [{"quantize": "int8-g32"}, {"task": "embedding", "dtype": "bfloat16"}], ids=str)
    def test_of_other_models(self, tiny_models: Any, backend: str, way: Any, option: dict[str, Any]) -> None:
        option = {name: value for name, value in option.items() if name != "dtype" or backend != "reference"}
        sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}
        llm = Llama.load(tiny_models(**sizes)[1], backend=backend, pad_token_id=0, **option)
        found, wanted = (as_numpy(each(IDS)[0]) for each in (way(llm), llm))
        assert np.array_equal(found, wanted)


@each_way
def test_of_a_documented_class(tiny_models: Any, way: Any) -> None:
    for backend in ALL_BACKENDS:
        llm: Any = polyllama.LlamaForCausalLM.from_pretrained(tiny_models()[1], backend=backend)
        made = way(llm)
        assert type(made) is type(llm)
        assert np.array_equal(logits(made), logits(llm))


@each_way
def test_trained_weights_and_modes(tiny_models: Any, way: Any) -> None:
    mlx = Llama.load(tiny_models()[1], backend="mlx", dtype="float32") if "mlx" in ALL_BACKENDS else None
    if mlx is not None:
        mlx.module.freeze()
        mlx.module.model.norm.unfreeze()
        mlx.module.model.norm.weight = mlx.module.model.norm.weight * 2
        mlx.train().gradient_checkpointing_enable()
        made = way(mlx)
        assert made.training and made.is_gradient_checkpointing
        assert list(made.module.trainable_parameters()["model"]) == list(mlx.module.trainable_parameters()["model"])
        assert np.array_equal(logits(made.eval()), logits(mlx.eval()))
    llm = Llama.load(tiny_models()[1], backend="torch").train()
    llm.module.model.norm.weight.requires_grad_(False).mul_(2)
    made = way(llm)
    assert made.training and not made.module.model.norm.weight.requires_grad
    assert np.array_equal(logits(made.eval()), logits(llm.eval()))
    if "jax" in ALL_BACKENDS:
        jax_model: Any = Llama.load(tiny_models()[1], backend="jax", dtype="bfloat16")
        jax_model.model.params = {name: array.astype("float32") for name, array in jax_model.model.params.items()}
        assert {str(array.dtype) for array in way(jax_model).model.params.values()} == {"float32"}


@each_way
def test_the_tokenizer_of_a_file(tmp_path: Any, way: Any) -> None:
    """A GGUF file carries it, and its pickle is not to need the file."""
    source = Llama.load("tiny", backend="reference")
    polyllama.convert("tiny", tmp_path / "model.gguf", to="gguf")
    made = way(Llama.load(tmp_path / "model.gguf", backend="reference"))
    (tmp_path / "model.gguf").unlink()
    assert made.tokenizer.encode("Once") == source.tokenizer.encode("Once")


def test_a_shallow_copy_is_the_same_model(tiny_models: Any) -> None:
    llm = Llama.load(tiny_models()[1], backend="reference")
    first, second = copy.copy(llm), copy.copy(llm)
    assert first.model is llm.model
    # One scheduler for one model, whoever asks for it first: it counts the model's memory.
    assert second.scheduler is llm.scheduler is first.scheduler is copy.copy(second).scheduler
    assert copy.deepcopy(llm).scheduler is not llm.scheduler


def test_a_copy_that_gets_another_model_has_a_scheduler_of_its_own(tiny_models: Any) -> None:
    llm = Llama.load(tiny_models()[1], backend="reference")
    other = copy.copy(llm)
    other.resize_token_embeddings(llm.config.vocab_size + 3)
    assert other.model is not llm.model
    found = [each.scheduler for each in (llm, other, llm, other)]
    assert found[:2] == found[2:] and found[0] is not found[1]
    assert [each.model for each in found[:2]] == [llm.model, other.model]


@each_backend
class TestMoves:
    def test_nothing_to_do(self, tiny_models: Any, backend: str) -> None:
        llm: Any = Llama.load(tiny_models()[1], backend=backend, dtype="auto" if backend == "reference" else "float32")
        before = logits(llm)
        types = (llm.dtype, getattr(torch, llm.dtype), np.dtype(llm.dtype))
        for given in (llm.device, torch.device("cpu"), "cpu:0", *(types if backend != "torch" else types[:2])):
            assert relative_error(logits(llm.to(given)), before) < 1e-5
        same = llm.double if backend == "reference" else llm.float
        for moved in (llm.cpu(), same(), llm.to("cpu", dtype=llm.dtype), llm.to(device="cpu", non_blocking=True)):
            assert relative_error(logits(moved), before) < 1e-5
            assert moved is llm or backend == "torch"

    def test_something_to_do(self, tiny_models: Any, backend: str) -> None:
        if backend == "torch":
            return
        llm: Any = Llama.load(tiny_models()[1], backend=backend)
        for call, said in (
            (lambda: llm.to("cuda:1"), "to asks for 'cuda:1': the model is on cpu.*load it with device='cuda:1'"),
            (lambda: llm.to(torch.float16), "to asks for 'float16': the model is in .*load it with dtype='float16'"),
            (lambda: llm.half(), "half asks for 'float16'"),
            (lambda: llm.cuda(), "cuda asks for 'cuda'"),
        ):
            with pytest.raises(NoModuleError, match=said):
                call()
        with pytest.raises(InputError, match="to has no argument 'wibble'"):
            llm.to(wibble=1)

    def test_out_of_training(self, tiny_models: Any, backend: str) -> None:
        llm = Llama.load(tiny_models()[1], backend=backend)
        assert llm.train(False) is llm and not llm.training
        if backend in ("torch", "mlx"):
            assert llm.train().training and not llm.train(mode=False).training
            return
        with pytest.raises(UnsupportedError, match=f"backend '{backend}' has no module to train"):
            llm.train()


def test_a_torch_module_that_was_changed(tiny_models: Any) -> None:
    """It is copied as it is, where saving by its graph's names would be refused."""
    llm = Llama.load(tiny_models()[1], backend="torch")
    llm.module.lm_head = torch.nn.Linear(48, 5)
    assert relative_error(logits(copy.deepcopy(llm)), logits(llm)) == 0
    with pytest.raises(CheckpointError):
        list(llm.model.state())


def test_parameters_spread_over_devices() -> None:
    pytest.importorskip("jax")
    from polyllama.backends.jax.model import JaxModel

    class Spread:
        dtype = "float32"

        def devices(self) -> set[int]:
            return {0, 1}

    model = JaxModel.__new__(JaxModel)
    model.params = {"norm": Spread()}
    with pytest.raises(PolyllamaError, match="norm is spread over several devices"):
        model.modes()


@each_way
def test_a_model_whose_folder_has_generation_defaults(tiny_models: Any, way: Any, tmp_path: Path) -> None:
    """They are a read-only view of a mapping, which cannot be copied as it is."""
    shutil.copytree(tiny_models()[1], tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text('{"max_new_tokens": 3, "use_cache": true}')
    llm = Llama.load(tmp_path / "model", backend="reference")
    found = llm.generate(IDS)
    assert np.array_equal(way(llm).generate(IDS), found) and found.shape == (2, 9)
