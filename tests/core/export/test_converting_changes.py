"""What a model becomes on its way into another checkpoint: adapters, fewer heads, vocabularies, packed weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from checkpoint_models import IDS, logits_of, our_logits, write_gguf
from polyllama import Llama, LlamaConfig, PolyllamaWarning, convert
from polyllama.cli.main import main
from polyllama.core.checkpoint.opening import open_checkpoint
from polyllama.core.errors import CheckpointError, InputError, UnsupportedError
from polyllama.core.plugin_system.manager import plugin_manager
from polyllama.core.quantization.affine import dequantize, quantize
from tiny_models import TinyModels, relative_error

SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
pytestmark = pytest.mark.filterwarnings("ignore:converted without a tokenizer", "ignore:the format cannot say")


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint under Hugging Face's names."""
    checkpoint = open_checkpoint(path, formats=plugin_manager().checkpoint_formats())
    return {name: np.array(checkpoint.read(name)) for name in checkpoint.tensors()}


def adapter(source: Path, folder: Path, **settings: Any) -> np.ndarray:
    """Save a random adapter for a model; what peft computes for ``IDS`` with it."""
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
    settings = {"target_modules": ["q_proj", "v_proj", "down_proj"], "r": 4, **settings}
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    adapted.save_pretrained(folder)
    return logits_of(adapted.eval())


def call(*arguments: Any) -> None:
    """Run the command."""
    assert main(tuple(map(str, arguments))) == 0


# ---- adapters


@pytest.mark.parametrize(
    ("settings", "ways"),
    [
        ({}, ("hf", "mlx", "gguf", "meta")),
        ({"use_dora": True}, ("mlx",)),
        ({"target_modules": "all-linear", "use_rslora": True}, ("meta",)),
    ],
)
def test_an_adapter_is_merged(
    tiny_models: TinyModels, tmp_path: Path, settings: dict[str, Any], ways: tuple[str, ...]
) -> None:
    _, source = tiny_models(**SIZES)
    wanted = adapter(source, tmp_path / "lora", **settings)
    for way in ways:
        call("convert", source, tmp_path / way, "--to", way, "--adapter", tmp_path / "lora")
        assert relative_error(our_logits(tmp_path / way), wanted) < 2e-5


def test_what_is_merged_is_rounded_once(tiny_models: TinyModels, tmp_path: Path) -> None:
    """From bfloat16 to float16 through float32, whatever is computed in between."""
    _, source = tiny_models(**SIZES)
    convert(source, tmp_path / "half", to="hf", dtype="bfloat16")
    adapter(tmp_path / "half", tmp_path / "lora")
    options: dict[str, Any] = {"adapter": tmp_path / "lora", "num_key_value_heads": 1}
    convert(tmp_path / "half", tmp_path / "wide", to="hf", dtype="float32", **options)
    convert(tmp_path / "half", tmp_path / "out", to="hf", dtype="float16", **options)
    wide, found = tensors(tmp_path / "wide"), tensors(tmp_path / "out")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not np.array_equal(wide[name], wide[name].astype(tensors(tmp_path / "half")[name].dtype).astype(np.float32))
    for name, array in wide.items():
        assert np.array_equal(array.astype(np.float16), found[name]), name
    convert(tmp_path / "half", tmp_path / "same", to="hf", adapter=tmp_path / "lora")
    assert tensors(tmp_path / "same")[name].dtype.name == "bfloat16"


def test_a_head_that_an_adapter_brings_unties_it(tiny_models: TinyModels, tmp_path: Path) -> None:
    _, source = tiny_models(**SIZES, tie_word_embeddings=True)
    wanted = adapter(source, tmp_path / "lora", target_modules=["q_proj"], modules_to_save=["lm_head"])
    convert(source, tmp_path / "out", to="hf", adapter=tmp_path / "lora")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert relative_error(our_logits(tmp_path / "out"), wanted) < 2e-5


def test_merging_holds_about_one_tensor(tmp_path: Path) -> None:
    """A model of 34 MB whose largest tensor has 1 MB, changed in every way at once."""
    import tracemalloc

    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_hidden_layers": 8}
    config = LlamaConfig(**sizes, vocab_size=1000, dtype="float32")
    Llama.load(config, load_format="dummy", backend="reference").save(tmp_path / "hf")
    adapter(tmp_path / "hf", tmp_path / "lora")
    options = {"adapter": tmp_path / "lora", "num_key_value_heads": 2, "vocab_size": 1024, "dtype": "bfloat16"}
    convert(tmp_path / "hf", tmp_path / "once", to="mlx", quantize="int4", **options)
    tracemalloc.start()
    try:
        convert(tmp_path / "hf", tmp_path / "out", to="mlx", quantize="int4", **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20


# ---- heads


@pytest.mark.parametrize("way", ["hf", "gguf", "meta"])
def test_key_value_heads_are_averaged(tiny_models: TinyModels, tmp_path: Path, way: str) -> None:
    """transformers with the means of neighbouring heads is the oracle."""
    model, source = tiny_models(**SIZES, num_key_value_heads=4)
    config = transformers.LlamaConfig.from_pretrained(source, num_key_value_heads=2)
    wanted = transformers.LlamaForCausalLM(config)
    state = dict(model.state_dict())
    for name, tensor in state.items():
        if ".k_proj." in name or ".v_proj." in name:
            state[name] = tensor.reshape(2, 2, 16, *tensor.shape[1:]).mean(1).reshape(32, *tensor.shape[1:])
    wanted.load_state_dict(state)
    call("convert", source, tmp_path / "out", "--to", way, "--kv-heads", 2)
    assert relative_error(our_logits(tmp_path / "out"), logits_of(wanted.eval())) < 2e-5
    assert Llama.load(tmp_path / "out", backend="reference").config.num_key_value_heads == 2


# ---- vocabularies of packed weights


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_packed_rows_stay_and_new_ones_are_quantized(tiny_models: TinyModels, tmp_path: Path, kind: str) -> None:
    model, _ = tiny_models(**SIZES)
    source = write_gguf(tmp_path / "x.gguf", model, kind)
    convert(source, tmp_path / "more", to="mlx", vocab_size=100)
    old, new = tensors(source), tensors(tmp_path / "more")
    bits = 8 if kind == "Q8_0" else 4
    for module in ("model.embed_tokens", "lm_head"):
        parts = [f"{module}.{part}" for part in ("weight", "scales", "biases")]
        assert all(np.array_equal(old[part], new[part][:96]) for part in parts)
        assert all(len(new[part]) == 100 for part in parts)
        mean = dequantize(*(old[part] for part in parts), bits=bits).mean(0, dtype=np.float64)
        wanted = quantize(mean.astype(old[parts[1]].dtype)[None], 32, bits)
        for part, expected in zip(parts, wanted, strict=True):
            assert np.array_equal(new[part][96:], np.repeat(expected, 4, 0)), part
    # Summed in float64 by a wider product, so perhaps in another order, and seen in float32: the next number at most.
    assert relative_error(our_logits(tmp_path / "more")[..., :96], our_logits(source)) <= 2.0**-23
    convert(tmp_path / "more", tmp_path / "same", to="mlx", vocab_size=96)
    back = tensors(tmp_path / "same")
    assert all(np.array_equal(array, back[name]) for name, array in old.items())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("backend", ["reference", "torch:cpu", "cpu"])
def test_a_loaded_model_with_packed_weights_is_resized(tied: bool, backend: str) -> None:
    config = LlamaConfig(**SIZES, num_hidden_layers=2, tie_word_embeddings=tied, initializer_range=0.3)
    llm = Llama.load(config, load_format="dummy", backend=backend, quantize="int8-g32", dtype="float32")
    before = llm.forward(IDS).numpy()["logits"]
    llm.resize_token_embeddings(100)
    after = llm.forward(IDS).numpy()["logits"]
    assert after.shape[-1] == 100 and relative_error(after[..., :96], before) < 1e-6
    first = after[..., 96:]
    assert np.abs(first).max() < np.abs(before).max() / 2  # near the mean of all
    llm.resize_token_embeddings(104, mean_resizing=False)
    state = {info.name: read() for info, read in llm.model.state()}
    rows = [
        dequantize(*(state[f"model.embed_tokens.{p}"] for p in ("weight", "scales", "biases")), bits=8)[i]
        for i in (99, 100, 103)
    ]
    assert not np.array_equal(rows[0], rows[1]) and not np.array_equal(rows[1], rows[2])


# ---- quantizing, and everything at once


def test_everything_at_once_is_one_thing_after_the_other(tiny_models: TinyModels, tmp_path: Path) -> None:
    _, source = tiny_models(**SIZES, num_key_value_heads=4)
    adapter(source, tmp_path / "lora")
    convert(
        source, tmp_path / "out", to="mlx", dtype="float16", adapter=tmp_path / "lora", num_key_value_heads=2,
        vocab_size=100, quantize="int4-g32",
    )  # fmt: skip
    convert(source, tmp_path / "1", to="hf", adapter=tmp_path / "lora")
    convert(tmp_path / "1", tmp_path / "2", to="hf", num_key_value_heads=2)
    convert(tmp_path / "2", tmp_path / "3", to="hf", vocab_size=100)
    convert(tmp_path / "3", tmp_path / "4", to="hf", dtype="float16")
    call("quantize", tmp_path / "4", tmp_path / "5", "--group-size", 32)
    one, other = tensors(tmp_path / "out"), tensors(tmp_path / "5")
    assert set(one) == set(other) and any(name.endswith(".scales") for name in one)
    for name, array in one.items():
        assert array.dtype == other[name].dtype and np.array_equal(array, other[name]), name


def test_quantized_on_the_way_to_gguf(tiny_models: TinyModels, tmp_path: Path) -> None:
    import gguf

    _, source = tiny_models(**SIZES)
    call("convert", source, tmp_path / "x.gguf", "--to", "gguf", "--dtype", "float16", "--quantize", "int4-g32")
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == "Q4_1" and kinds["output_norm.weight"] == "F32"
    call("convert", source, tmp_path / "mlx", "--to", "mlx", "--dtype", "float16", "--quantize", "int4-g32")
    assert np.array_equal(our_logits(tmp_path / "x.gguf"), our_logits(tmp_path / "mlx"))


def test_packed_weights_are_computed_with_when_a_dtype_unpacks_them(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, source = tiny_models(**SIZES, num_key_value_heads=4)
    adapter(source, tmp_path / "lora")
    packed = write_gguf(tmp_path / "x.gguf", model, "Q8_0")
    with pytest.raises(UnsupportedError, match=r"whose weights are packed.*convert with a dtype"):
        convert(packed, tmp_path / "out", to="mlx", adapter=tmp_path / "lora")
    with pytest.raises(UnsupportedError, match=r"is packed; heads cannot be averaged.*convert with a dtype"):
        convert(packed, tmp_path / "out", to="mlx", num_key_value_heads=2)
    with pytest.raises(UnsupportedError, match=r"quantized already .*give a dtype as well"):
        convert(packed, tmp_path / "out", to="mlx", quantize="int4-g32")
    options: dict[str, Any] = {"adapter": tmp_path / "lora", "num_key_value_heads": 2, "dtype": "float32"}
    convert(packed, tmp_path / "plain", to="hf", dtype="float32")
    convert(tmp_path / "plain", tmp_path / "one", to="hf", **options)
    convert(packed, tmp_path / "two", to="mlx", **options)
    one, two = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert all(np.array_equal(array, two[name]) for name, array in one.items())
    with pytest.warns(PolyllamaWarning, match="they become float16"):
        convert(packed, tmp_path / "three", to="hf", adapter=tmp_path / "lora", num_key_value_heads=2)
    assert all(
        np.array_equal(array.astype(np.float16), tensors(tmp_path / "three")[name]) for name, array in one.items()
    )


def test_mistakes(tiny_models: TinyModels, tmp_path: Path) -> None:
    _, source = tiny_models(**SIZES)
    adapter(source, tmp_path / "lora")
    before = sorted(tmp_path.iterdir())
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"to": "hf", "quantize": "int4"}, UnsupportedError, "the format has no packed weights.*use mlx or gguf"),
        ({"to": "mlx", "quantize": "int9"}, UnsupportedError, "quantize='int9' is not known"),
        ({"to": "hf", "num_key_value_heads": 3}, InputError, "use one of 1, 2"),
        ({"to": "hf", "adapter": tmp_path / "nowhere"}, CheckpointError, "there is no such folder"),
        ({"to": "hf", "adapter": 5}, InputError, "adapter"),
    ]
    for options, kind, message in cases:
        with pytest.raises(kind, match=message):
            convert(source, tmp_path / "out", **options)
    with pytest.raises(InputError, match="overlaps with"):
        convert(source, tmp_path / "lora" / "out", to="hf", adapter=tmp_path / "lora")
    assert sorted(tmp_path.iterdir()) == before
