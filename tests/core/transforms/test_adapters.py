"""LoRA adapters against peft on transformers: beside the weights on every backend, merged, refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from polyllama import Llama, LlamaConfig
from polyllama.core.checkpoint.opening import open_checkpoint
from polyllama.core.checkpoint.weights import weights_from
from polyllama.core.errors import CheckpointError, InputError, UnsupportedError
from polyllama.core.graph.graph import Graph
from polyllama.core.quantization.affine import dequantize
from polyllama.core.transforms.adapters.adapt_weights import merge_adapter
from polyllama.core.transforms.adapters.adapter_tensors import Adapter
from polyllama.core.transforms.grouped_heads import pool_key_value_heads
from polyllama.core.transforms.quantize_weights import quantized_modules
from safetensors.numpy import load_file, save_file
from tiny_models import ALL_BACKENDS

BACKENDS = ("reference", "torch:cpu", "mlx:cpu", "jax:cpu", *(("cpu",) if "cpu" in ALL_BACKENDS else ()))
IDS = [[1, 5, 9, 60, 3, 3, 17], [2, 8, 33, 4, 61, 0, 12]]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "everything": {"target_modules": "all-linear", "r": 6, "lora_alpha": 11},
    "patterns": {
        "target_modules": ["q_proj", "down_proj", "o_proj"],
        "rank_pattern": {"down_proj": 3, r"layers\.1\.self_attn\.q_proj": 8},
        "alpha_pattern": {"o_proj": 32, "layers.0.self_attn.q_proj": 2},
    },
    "rslora": {"target_modules": ["k_proj", "gate_proj"], "use_rslora": True, "r": 9},
    "biases": {"target_modules": ["q_proj", "o_proj"], "bias": "all", "lora_bias": True},
    "own head": {"target_modules": ["up_proj"], "modules_to_save": ["lm_head"], "bias": "lora_only"},
    "dora": {"target_modules": ["q_proj", "v_proj", "down_proj", "lm_head"], "use_dora": True},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with biases and a head of its own."""
    return _saved_base(tmp_path_factory.mktemp("base"), attention_bias=True)


def _saved_base(folder: Path, **fields: Any) -> Path:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        **fields,
    )
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():  # biases start as zeros
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def _made(base: Path, folder: Path, **settings: Any) -> np.ndarray:
    """Save a random adapter, and give peft's logits with it."""
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM.from_pretrained(base)
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **{"r": 4, **settings}))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    adapted.save_pretrained(folder)
    with torch.no_grad():
        logits: np.ndarray = adapted.eval()(torch.tensor(IDS)).logits.numpy()
    return logits


@pytest.fixture(scope="module")
def variants(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, np.ndarray]]:
    """Every kind of adapter, with peft's logits."""
    made = {}
    for name, settings in VARIANTS.items():
        folder = tmp_path_factory.mktemp("adapter")
        made[name] = folder, _made(base, folder, **settings)
    return made


def _logits(source: Any, backend: str = "reference", **options: Any) -> np.ndarray:
    return Llama.load(source, backend=backend, **options).forward(IDS).numpy()["logits"]


def _close(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 2e-5) -> None:
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("name", VARIANTS)
def test_beside_the_weights_it_gives_what_peft_gives(name: str, base: Path, variants: Any) -> None:
    folder, theirs = variants[name]
    assert np.abs(_logits(base) - theirs).max() > 0.05 * np.abs(theirs).max()  # it does something
    _close(_logits(base, adapter=folder), theirs)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("name", ["everything", "biases", "dora"])
def test_on_every_backend(name: str, backend: str, base: Path, variants: Any) -> None:
    folder, theirs = variants[name]
    _close(_logits(base, backend, adapter=str(folder)), theirs, 1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_merged_it_gives_the_same(name: str, base: Path, variants: Any, tmp_path: Path) -> None:
    folder, theirs = variants[name]
    merged = Llama.load(base, backend="torch:cpu", adapter=folder, merge_adapter=True)
    _close(merged.forward(IDS).numpy()["logits"], theirs, 5e-5)
    merged.save(tmp_path)
    _close(_logits(tmp_path), theirs, 5e-5)


def test_what_is_merged_for_float32_is_not_rounded_to_less(base: Path, tmp_path: Path) -> None:
    """A bfloat16 checkpoint that is to run in float32: merged gives what unmerged gives."""
    Llama.load(base, backend="torch:cpu", dtype="bfloat16").save(tmp_path / "half")
    _made(base, tmp_path / "lora", target_modules="all-linear")
    options = {"adapter": tmp_path / "lora", "dtype": "float32"}
    unmerged = _logits(tmp_path / "half", **options)
    for backend in ("reference", "torch:cpu"):
        merged = _logits(tmp_path / "half", backend, merge_adapter=True, **options)
        _close(merged, unmerged, 5e-5)
    packed = Llama.load(tmp_path / "half", backend="reference", quantize="int8-g32", merge_adapter=True, **options)
    scales = {array.dtype.name for name, array in packed.model.engine.weights.items() if name.endswith("scales")}  # type: ignore[attr-defined]
    assert scales == {"float32"}


def plain_weights(weights: Mapping[str, Any], graph: Graph) -> Mapping[str, Any]:
    """Every packed matrix of a quantized graph as floats, under the plain graph's names."""
    modules = quantized_modules(graph)
    found: dict[str, Any] = {}
    for parameter in graph.parameters():
        name, _, kind = parameter.name.rpartition(".")
        if name not in modules or kind not in ("weight", "scales", "biases"):
            found[parameter.name] = weights[parameter.name]
        elif kind == "weight":
            parts = (weights[f"{name}.{part}"] for part in ("weight", "scales", "biases"))
            found[parameter.name] = dequantize(*parts, bits=modules[name].bits, dtype="float32")
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_beside_packed_weights(backend: str, base: Path, variants: Any) -> None:
    """What the adapter adds to packed weights is what it adds to the same weights unpacked."""
    from polyllama.core.loading.describe import describe
    from polyllama.core.loading.read_weights import weights_for
    from polyllama.core.settings.schema import load_settings

    folder, _ = variants["everything"]
    settings = load_settings(quantize="int8-g32", backend="reference")
    described = describe(base, settings=settings)
    assert described.plain_graph is not None
    floats = plain_weights(weights_for(described, settings), described.graph)
    rounded = folder.parent / f"rounded-{backend.partition(':')[0]}"
    shutil.copytree(base, rounded)
    save_file({name: np.ascontiguousarray(array) for name, array in floats.items()}, rounded / "model.safetensors")
    oracle = _logits(rounded, adapter=folder)
    # Without a word about it the cpu backend takes inputs of packed weights in int8.
    dtype = "float32" if backend == "cpu" else "auto"
    _close(_logits(base, backend, adapter=folder, quantize="int8-g32", dtype=dtype), oracle, 1e-4)
    assert np.abs(_logits(base, quantize="int8-g32") - oracle).max() > 0.05 * np.abs(oracle).max()


@pytest.mark.filterwarnings("ignore::polyllama.core.errors.PolyllamaWarning")
def test_generating_with_an_adapter(base: Path, variants: Any) -> None:
    folder, _ = variants["dora"]
    texts = {
        tuple(
            Llama.load(base, backend=backend, adapter=folder, merge_adapter=merge)
            .generate(input_ids=IDS, max_new_tokens=6, eos_token_id=[])[1]
            .token_ids
        )
        for backend, merge in (("reference", False), ("torch:cpu", False), ("torch:cpu", True))
    }
    assert len(texts) == 1


@pytest.mark.filterwarnings("ignore::polyllama.core.errors.PolyllamaWarning")
def test_a_head_of_its_own_for_a_tied_model(tmp_path: Path) -> None:
    base = _saved_base(tmp_path / "base", tie_word_embeddings=True)
    theirs = _made(base, tmp_path / "a", target_modules=["q_proj"], modules_to_save=["lm_head"])
    llm = Llama.load(base, backend="torch:cpu", adapter=tmp_path / "a")
    _close(llm.forward(IDS).numpy()["logits"], theirs, 5e-5)
    assert not llm.config.tie_word_embeddings
    # PEFT stores the weights of an adapted head too. Without them it stays tied, and cannot be merged into.
    theirs = _made(base, tmp_path / "b", target_modules=["lm_head", "q_proj"])
    _close(_logits(base, adapter=tmp_path / "b"), theirs)
    _close(_logits(base, adapter=tmp_path / "b", merge_adapter=True), theirs)

    def without_weights(tensors: dict[str, Any]) -> None:
        whole = [name for name in tensors if "lora_" not in name]
        assert whole
        for name in whole:
            del tensors[name]

    changed = _changed(tmp_path / "b", tmp_path / "c", without_weights)
    _close(_logits(base, adapter=changed), theirs)
    with pytest.raises(UnsupportedError, match="tied to the embedding"):
        _logits(base, adapter=changed, merge_adapter=True)


def _changed(folder: Path, target: Path, tensors: Any = None, **settings: Any) -> Path:
    """A copy with other settings, or with tensors changed."""
    shutil.copytree(folder, target)
    raw = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(raw | settings))
    if tensors is not None:
        held = load_file(target / "adapter_model.safetensors")
        tensors(held)
        save_file(held, target / "adapter_model.safetensors")
    return target


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("settings", "tensors", "said"),
    [
        ({"peft_type": "LOHA"}, None, "is LOHA"),
        ({"use_qalora": True}, None, "QA-LoRA"),
        ({"layer_replication": [[0, 2]]}, None, "layer replication"),
        ({"new_field": 3}, None, "new_field=3 is not known"),
        ({"r": 5}, None, r"lora_A.weight has shape \[4, 64\], wanted \[5, 64\]"),
        ({"r": 0}, None, "r is 0"),
        ({"use_rslora": "yes"}, None, "use_rslora is 'yes'"),
        ({"use_dora": True}, None, "use_dora=True, but its tensors"),
        ({"rank_pattern": {"(": 4}}, None, "no regular expression"),
        ({"alpha_pattern": {"([a-z0-9_.]+)+!": 3}}, None, "repeats a group"),
        ({"target_modules": ["c_attn", "query_key_value"]}, None, "c_attn, query_key_value, which no module"),
        ({}, lambda t: t.update({A.replace("q_proj", "c_attn"): t[A]}), "of no module of this model"),
        ({}, lambda t: t.pop(A), "has no lora_A"),
        ({}, lambda t: t.update({A: t[A][:, :32].copy()}), r"wanted \[4, 64\]"),
        ({}, lambda t: t.update({A: t[A].astype(np.int32)}), "holds int32"),
        ({}, lambda t: t.update({"base_model.model.lm_head.weight": np.zeros((65, 64), np.float32)}), "vocabulary"),
        (
            {},
            lambda t: t.update({"base_model.model.model.embed_tokens.weight": np.zeros((), np.float32)}),
            r"embed_tokens.weight has shape \[\], wanted \[tokens, 64\]",
        ),
        (
            {},
            lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((4, 64), np.float32)}),
            "model.embed_tokens has no lora_B",
        ),
    ],
)
def test_what_is_refused(settings: Any, tensors: Any, said: str, base: Path, variants: Any, tmp_path: Path) -> None:
    folder, _ = variants["plain"]
    with pytest.raises((CheckpointError, UnsupportedError), match=said) as error:
        _logits(base, adapter=_changed(folder, tmp_path / "a", tensors, **settings))
    assert "\n" not in str(error.value)


def test_other_mistakes(base: Path, variants: Any, tmp_path: Path) -> None:
    folder, _ = variants["plain"]
    with pytest.raises(CheckpointError, match="no such folder"):
        _logits(base, adapter=tmp_path / "nowhere")
    with pytest.raises(InputError, match="merge_adapter goes with adapter"):
        _logits(base, merge_adapter=True)
    with pytest.raises(UnsupportedError, match="merge_adapter=True"):
        Llama.load(base, backend="reference", adapter=folder).save(tmp_path / "saved")
    (tmp_path / "old").mkdir()
    shutil.copy(folder / "adapter_config.json", tmp_path / "old")
    (tmp_path / "old" / "adapter_model.bin").write_bytes(b"\x80\x02." + bytes(400))
    with pytest.raises(CheckpointError, match="a bare Python pickle, which can run any code"):
        _logits(base, adapter=tmp_path / "old")


def test_the_adapted_graph_goes_through_json(base: Path, variants: Any) -> None:
    graph = Llama.load(base, backend="reference", adapter=variants["dora"][0]).graph
    assert Graph.from_json(graph.to_json()) == graph
    assert "LoraLinear" in str(graph)


def test_merging_streams(base: Path, variants: Any) -> None:
    """What converting calls: nothing is read before it is asked for, and each tensor alone."""
    llm = Llama.load(base, backend="reference")
    checkpoint = open_checkpoint(base)
    read: list[str] = []
    plain = checkpoint.read
    checkpoint.read = lambda name: (read.append(name), plain(name))[1]  # type: ignore[method-assign]
    names = {p.name: p.name for p in llm.graph.parameters()}
    weights = weights_from(checkpoint, llm.graph.parameters(), names)
    merged, config = merge_adapter(variants["everything"][0], weights, llm.graph, llm.config)
    assert read == [] and config == llm.config and list(merged) == list(weights)
    name = "model.layers.1.mlp.up_proj.weight"
    adapter = Adapter(variants["everything"][0], llm.graph)
    pair = adapter.pairs["model.layers.1.mlp.up_proj"]
    expected = plain(name).astype(np.float64) + 11 / 6 * adapter.read(pair.b).astype(np.float64) @ adapter.read(pair.a)
    assert np.abs(merged[name] - expected).max() < 1e-6 and read == [name]


def test_the_command_line_takes_an_adapter(base: Path, variants: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from polyllama.cli.options import LOAD_NAMES, given

    options = {name: None for name in LOAD_NAMES} | {"adapter": "x", "merge_adapter": True}
    assert given(options, LOAD_NAMES) == {"adapter": "x", "merge_adapter": True}


# Pooling of key/value heads.


def _mha(heads: int, key_value_heads: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=8,
        attention_bias=True,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pooling_equal_heads_changes_nothing(dtype: str, tmp_path: Path) -> None:
    """A grouped model, its key/value heads repeated to one for each query head, and pooled back: the same bits."""
    grouped = Llama.load(_mha(6, 2), load_format="dummy", backend="reference", dtype="float32")
    from polyllama.core.checkpoint.protocol import TensorInfo
    from polyllama.core.checkpoint.weights import Weights
    from polyllama.core.dtypes import numpy_dtype

    def stored(array: np.ndarray) -> np.ndarray:
        return array.astype(numpy_dtype(dtype))

    tensors = {info.name: stored(read()) for info, read in grouped.model.state()}
    repeated = {
        name: (
            np.repeat(array.reshape(2, 8, *array.shape[1:]), 3, axis=0).reshape(48, *array.shape[1:])
            if ".k_proj." in name or ".v_proj." in name
            else array
        )
        for name, array in tensors.items()
    }
    wide = Llama.load(_mha(6, 6), load_format="dummy", backend="reference")
    weights = Weights(
        (TensorInfo(name, dtype, array.shape), (lambda array=array: array)) for name, array in repeated.items()
    )
    pooled, config = pool_key_value_heads(weights, wide.graph, wide.config, 2)
    assert config.num_key_value_heads == 2
    for name, array in tensors.items():
        assert pooled.info(name).shape == array.shape
        assert np.array_equal(pooled[name], array), name


def test_pooling_averages_neighbouring_heads() -> None:
    config = _mha(6, 6)
    llm = Llama.load(config, load_format="dummy", backend="reference", dtype="float32")
    from polyllama.core.checkpoint.weights import dummy_weights

    weights = dummy_weights(llm.graph.parameters(), dtype="float32")
    pooled, changed = pool_key_value_heads(weights, llm.graph, config, 3)
    name = "model.layers.1.self_attn.v_proj.weight"
    whole = weights[name].astype(np.float64).reshape(3, 2, 8, 48)
    assert np.allclose(pooled[name].reshape(3, 8, 48), whole.mean(axis=1), atol=1e-8)
    assert pooled["model.norm.weight"].shape == (48,) and changed.num_attention_heads == 6
    for wrong in (4, 0, 12, True, 2.0):
        with pytest.raises(InputError, match="use one of 1, 2, 3, 6"):
            pool_key_value_heads(weights, llm.graph, config, wrong)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::polyllama.core.errors.PolyllamaWarning")
def test_packed_heads_are_not_averaged(base: Path) -> None:
    llm = Llama.load(base, backend="reference", quantize="int4-g32")
    weights = weights_from(open_checkpoint(base), [], {})
    with pytest.raises(UnsupportedError, match=r"k_proj\.weight is packed"):
        pool_key_value_heads(weights, llm.graph, llm.config, 1)
