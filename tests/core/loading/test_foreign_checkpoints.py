"""Checkpoints as others write them: right though unusual, and what is said of each."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_models import IDS, SMALL, our_logits, small_folder, small_tensors, write_meta
from polyllama import Llama, LlamaConfig, LlamaForCausalLM, PolyllamaWarning, convert
from polyllama.cli.main import main
from polyllama.core.errors import CheckpointError, ConfigError, InputError
from tiny_models import TinyModels

pytestmark = pytest.mark.filterwarnings("ignore:converted without a tokenizer")
BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A model of the usual kind, and what it computes."""
    folder = small_folder(tmp_path_factory.mktemp("plain") / "model")
    return folder, our_logits(folder)


def said(caught: Any) -> list[str]:
    return [str(w.message) for w in caught if issubclass(w.category, PolyllamaWarning)]


# ---- quantization that is said and not there


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"quantization_config": BITSANDBYTES}, "quantized by bitsandbytes"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized by gptq"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantized by bitsandbytes"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "none of them is"),
        ({"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}, "mode 'mxfp4'"),
    ],
)
def test_floats_beside_a_leftover_quantization_are_read_as_they_are(
    plain: tuple[Path, np.ndarray], tmp_path: Path, config: dict[str, Any], word: str
) -> None:
    folder = small_folder(tmp_path / "merged", **config)
    with pytest.warns(PolyllamaWarning, match=word) as caught:
        llm = Llama.load(folder, backend="reference")
    assert len(said(caught)) == 1 and llm.config.quantization is None
    assert np.array_equal(llm.forward(IDS).numpy()["logits"], plain[1])
    assert not [key for key in json.loads(llm.config.to_json_string()) if "quant" in key]
    plan = Llama.plan(folder, backend="reference")
    assert plan.fit is not None and plan.fit.ok and any(word in note for note in plan.notes)
    with pytest.warns(PolyllamaWarning, match=word):
        assert Llama.load(folder, backend="reference", quantize="int8-g32").config.quantization is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PolyllamaWarning)
        assert Llama.load(folder, load_format="dummy", backend="reference").task == llm.task


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        (BITSANDBYTES, {"model.layers.0.mlp.up_proj.weight": np.zeros((1024, 1), np.uint8)}),
        (BITSANDBYTES, {"model.layers.0.mlp.up_proj.weight.absmax": np.zeros(32, np.float32)}),
        ({"quant_method": "fp8"}, {"model.layers.0.mlp.up_proj.weight_scale_inv": np.zeros(1, np.float32)}),
        ({"quant_method": "gptq"}, {"model.layers.0.mlp.up_proj.qweight": np.zeros(1, np.int32)}),
        ({"quant_method": "bitnet"}, {}),
    ],
)
def test_what_is_quantized_by_others_stays_refused_by_name(
    tmp_path: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]
) -> None:
    folder = small_folder(tmp_path / "quantized", small_tensors() | tensors, quantization_config=config)
    with pytest.raises(ConfigError, match=f"the weights are quantized by {config['quant_method']}, which is not read"):
        Llama.load(folder, backend="reference")
    with pytest.warns(PolyllamaWarning, match=f"quantized by {config['quant_method']}, but no weights are read"):
        Llama.load(folder, load_format="dummy", backend="reference")


# ---- names of architectures, code beside the config


@pytest.mark.parametrize("name", ["LLaMAForCausalLM", "llamaForcausalLm"])
def test_capitals_of_architectures_do_not_count(plain: tuple[Path, np.ndarray], tmp_path: Path, name: str) -> None:
    llm = Llama.load(small_folder(tmp_path / "old", architectures=[name]), backend="reference")
    assert llm.task == "causal-lm" and np.array_equal(llm.forward(IDS).numpy()["logits"], plain[1])
    with pytest.raises(CheckpointError, match="no installed task answers to architectures"):
        Llama.load(small_folder(tmp_path / "other", architectures=["LLaMAForSomethingElse"]), backend="reference")


def test_code_that_a_config_names_is_not_run_and_that_is_said_once(tmp_path: Path) -> None:
    code = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XForCausalLM"}
    folder = small_folder(tmp_path / "own", auto_map=code)
    with pytest.warns(
        PolyllamaWarning, match=r"auto_map: configuration_x.XConfig, modeling_x.XForCausalLM\), which"
    ) as w:
        Llama.load(folder, backend="reference")
    assert len(said(w)) == 1
    with pytest.warns(PolyllamaWarning, match="rope_interleaved, which a Llama does not have"):
        Llama.load(small_folder(tmp_path / "pairs", rope_interleaved=True), backend="reference")


# ---- names of tensors, from a file to logits


def test_rotary_tables_of_metas_first_originals(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, _ = tiny_models(vocab_size=96, intermediate_size=128)
    folder = write_meta(tmp_path / "7B", model)
    wanted = our_logits(folder)
    file = folder / "consolidated.00.pth"
    state = torch.load(file)
    rotary = {f"layers.{i}.attention.inner_attention.rope.freqs": torch.ones(4) for i in range(3)}
    torch.save(state | rotary, file)
    assert np.array_equal(our_logits(folder), wanted)


@pytest.mark.parametrize("task", ["causal-lm", "embedding", "sequence-classification"])
def test_a_tied_model_stored_as_its_head_alone(tmp_path: Path, task: str) -> None:
    tensors = small_tensors()
    whole = small_folder(
        tmp_path / "whole", {n: a for n, a in tensors.items() if n != "lm_head.weight"}, tie_word_embeddings=True
    )
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    alone = small_folder(tmp_path / "alone", tensors, tie_word_embeddings=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*score.weight not stored")
        one, other = (Llama.load(f, backend="reference", task=task).forward(IDS).numpy() for f in (whole, alone))
        assert set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)
    made = convert(alone, tmp_path / "x.gguf", to="gguf").path
    assert np.array_equal(our_logits(made), our_logits(whole))
    plan = Llama.plan(alone, backend="reference", task=task)
    assert plan.fit is not None and plan.fit.ok


def test_compiled_and_wrapped_models_compute_the_same(plain: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    tensors = {n.replace("model.", "model._orig_mod."): a for n, a in small_tensors().items()}
    folder = small_folder(tmp_path / "compiled", {f"module.{n}": a for n, a in tensors.items()})
    assert np.array_equal(our_logits(folder), plain[1])
    convert(folder, tmp_path / "back", to="hf")
    assert np.array_equal(our_logits(tmp_path / "back"), plain[1])
    assert Llama.plan(folder, backend="reference").fit.ok  # type: ignore[union-attr]


# ---- tensors that are left out because somebody asks for it


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """A model with tensors that no Llama has."""
    strangers = {f"model.layers.{i}.self_attn.window": np.zeros(3, np.float32) for i in range(2)}
    return small_folder(tmp_path / "more", small_tensors() | strangers)


def test_named_tensors_are_ignored_and_that_is_said_once(
    plain: tuple[Path, np.ndarray], more: Path, tmp_path: Path, capsys: Any
) -> None:
    with pytest.raises(CheckpointError, match="2 unexpected"):
        Llama.load(more, backend="reference")
    text = r"2 tensors ignored as asked: model.layers.0.self_attn.window, model.layers.1.self_attn.window"
    for load in (Llama.load, LlamaForCausalLM.from_pretrained):
        with pytest.warns(PolyllamaWarning, match=text) as caught:
            llm = load(more, ignore=["*.window"], backend="reference")
        assert len(said(caught)) == 1 and np.array_equal(llm.forward(IDS).numpy()["logits"], plain[1])
    with pytest.warns(PolyllamaWarning, match=text):
        convert(more, tmp_path / "out", to="hf", ignore="*.self_attn.window")
    assert np.array_equal(our_logits(tmp_path / "out"), plain[1])
    plan = Llama.plan(more, backend="reference", ignore=["*.window"])
    assert plan.fit is not None and plan.fit.ok and any("ignored as asked" in note for note in plan.notes)
    capsys.readouterr()
    for command in (
        ("convert", more, tmp_path / "cli", "--to", "hf"),
        ("quantize", more, tmp_path / "int4", "--group-size", "32"),
        ("plan", more, "--backend", "reference"),
    ):
        assert main((*map(str, command), "--ignore", "*.0.*.window", "--ignore", "*.1.*.window")) == 0
        captured = capsys.readouterr()
        assert "2 tensors ignored as asked" in captured.out + captured.err


def test_what_is_ignored_in_vain_or_in_error_is_said(more: Path) -> None:
    with pytest.warns(PolyllamaWarning, match=r"no tensor is called \*.windou, which was to be ignored"):
        Llama.load(more, ignore=["*.window", "*.windou"], backend="reference")
    with (
        pytest.warns(PolyllamaWarning, match="ignored as asked"),
        pytest.raises(CheckpointError, match=r"ignore leaves out 1 tensor that the model needs, such as model.norm"),
    ):
        Llama.load(more, ignore=["*.window", "model.norm.*"], backend="reference")
    for wrong in (5, [""], [3]):
        with pytest.raises(InputError, match=r"ignore is .*wanted names of tensors"):
            Llama.load(more, ignore=wrong, backend="reference")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"is about weights; with load_format=.dummy. none are read"):
        Llama.load(LlamaConfig.from_dict(SMALL), load_format="dummy", ignore="*", backend="reference")


# ---- beyond the context


def test_forward_beyond_the_context_is_said_once(plain: tuple[Path, np.ndarray]) -> None:
    llm = Llama.load(plain[0], backend="reference")
    ids = np.ones((1, 65), np.int64)
    llm.forward(ids[:, :64])
    llm.forward(ids, attention_mask=np.arange(65)[None] > 0)  # padding is no token
    cache = llm.forward(ids[:, :64], use_cache=True).past_key_values
    with pytest.warns(PolyllamaWarning, match="a row is 65 tokens long, more than the model's context of 64") as caught:
        llm.forward(ids[:, :1], past_key_values=cache)
        llm.forward(ids)
    assert len(said(caught)) == 1
    for arguments in ({"input_ids": ids.tolist()}, {"input_ids": [[1]], "position_ids": [[64]]}):
        with pytest.warns(PolyllamaWarning, match="65 tokens long"):
            Llama.load(plain[0], backend="reference").forward(**arguments)
    dynamic = {"rope_type": "dynamic", "factor": 2.0}
    Llama.load(plain[0], backend="reference", rope_scaling=dynamic).forward(ids)
