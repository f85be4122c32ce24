"""Converting: every path in and out gives the logits of transformers, exact where the format holds the values."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import gguf_tokenizers
import numpy as np
import pytest
import torch
from checkpoint_models import logits_of, our_logits, write_gguf, write_meta
from polyllama import Llama, LlamaConfig, PolyllamaError, PolyllamaWarning, convert
from polyllama.core.checkpoint.meta.writer import intermediate_size_rule
from polyllama.core.checkpoint.opening import open_checkpoint
from polyllama.core.errors import CheckpointError, InputError, PluginError, UnsupportedError
from polyllama.core.plugin_system.manager import plugin_manager
from polyllama.core.sources.locate import locate
from polyllama.core.tokenizer.formats.gguf_words import SPLITTINGS
from tiny_models import ROPE_TYPES, TinyModels, relative_error

SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
WAYS = ("hf", "mlx", "gguf", "meta")
pytestmark = pytest.mark.filterwarnings(
    "ignore:converted without a tokenizer", "ignore:the format cannot say, or says otherwise. max_position_embeddings"
)


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint under Hugging Face's names."""
    checkpoint = open_checkpoint(path, formats=plugin_manager().checkpoint_formats())
    return {name: np.array(checkpoint.read(name)) for name in checkpoint.tensors()}


def same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray], *, but: tuple[str, ...] = ()) -> None:
    """That all tensors are equal bit for bit, in dtype too; those that end in `but` in value alone."""
    assert set(one) == set(other)
    for name, array in one.items():
        if name.endswith(but) and but:
            assert np.array_equal(array.astype(np.float64), other[name].astype(np.float64)), name
        else:
            assert array.dtype == other[name].dtype, name
            assert array.tobytes() == other[name].tobytes(), name


# ---- parity after every path


@pytest.mark.parametrize("second", WAYS)
@pytest.mark.parametrize("first", WAYS)
def test_every_pair_of_formats_gives_the_logits_of_transformers(
    tiny_models: TinyModels, tmp_path: Path, first: str, second: str
) -> None:
    model, source = tiny_models(**SIZES)
    convert(source, tmp_path / "one", to=first)
    convert(tmp_path / "one", tmp_path / "two", to=second)
    wanted = logits_of(model)
    for path in (tmp_path / "one", tmp_path / "two"):
        assert relative_error(our_logits(path), wanted) < 2e-5
    same_bits(tensors(source), tensors(tmp_path / "one"))
    same_bits(tensors(source), tensors(tmp_path / "two"))


@pytest.mark.parametrize("way", ["hf", "mlx"])
def test_transformers_reads_what_is_written(tiny_models: TinyModels, tmp_path: Path, way: str) -> None:
    import transformers

    model, _ = tiny_models("llama3", **SIZES, tie_word_embeddings=True)
    source = write_gguf(tmp_path / "x.gguf", model, "F32", rope=_llama3_divisors)
    convert(source, tmp_path / "out", to=way, max_shard_size="40KB")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert relative_error(logits_of(again), logits_of(model)) < 2e-5


def _llama3_divisors(writer: Any) -> None:
    from polyllama.core.checkpoint.gguf.rope import llama3_divisors

    rule = {k: v for k, v in ROPE_TYPES["llama3"].items() if k not in ("rope_type", "rope_theta")}
    writer.add_tensor("rope_freqs.weight", llama3_divisors(rule, 10000.0, 16).astype(np.float32))
    writer.add_rope_scaling_orig_ctx_len(rule["original_max_position_embeddings"])


def test_torch_reads_the_pth_that_is_written(tiny_models: TinyModels, tmp_path: Path) -> None:
    """By torch's own restricted reader; Meta's code does the same."""
    from checkpoint_models import meta_tensors

    model, source = tiny_models(**SIZES)
    convert(source, tmp_path / "meta", to="meta")
    found = torch.load(tmp_path / "meta" / "consolidated.00.pth", weights_only=True)
    wanted = meta_tensors(model)
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    mapped = torch.load(tmp_path / "meta" / "consolidated.00.pth", weights_only=True, mmap=True)
    assert torch.equal(mapped["norm.weight"], wanted["norm.weight"])


def test_the_gguf_package_reads_what_is_written(tiny_models: TinyModels, tmp_path: Path) -> None:
    import gguf
    from checkpoint_models import gguf_tensors

    model, source = tiny_models(**SIZES)
    convert(source, tmp_path / "x.gguf", to="gguf")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    wanted = gguf_tensors(model)
    found = {t.name: t.data for t in reader.tensors}
    assert set(found) == set(wanted)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert reader.fields["llama.block_count"].contents() == model.config.num_hidden_layers
    assert reader.fields["general.architecture"].contents() == "llama"


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_of_meta_become_whole(tiny_models: TinyModels, tmp_path: Path, ranks: int) -> None:
    model, source = tiny_models(**SIZES)
    meta = write_meta(tmp_path / "meta", model, ranks, multiple_of=32, ffn_dim_multiplier=0.5)
    convert(meta, tmp_path / "hf", to="hf")
    same_bits(tensors(source), tensors(tmp_path / "hf"))
    assert relative_error(our_logits(tmp_path / "hf"), logits_of(model)) < 2e-5


def test_llama2c_becomes_all_others(tiny_models: TinyModels, tmp_path: Path) -> None:
    from llama2c_models import write

    model, _ = tiny_models(**SIZES, rms_norm_eps=1e-5)
    source = write(tmp_path / "model.bin", model, 1)
    for way in WAYS:
        convert(source, tmp_path / way, to=way)
        assert relative_error(our_logits(tmp_path / way), logits_of(model)) < 2e-5
    with pytest.raises(UnsupportedError, match=r"llama2c is only read.*can be written: gguf, hf"):
        convert(tmp_path / "hf", tmp_path / "x.bin", to="llama2c")


def test_older_folders_become_all_others(tiny_models: TinyModels, tmp_path: Path) -> None:
    """pytorch_model.bin, in two shards as transformers 4 wrote them."""
    model, source = tiny_models(**SIZES)
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(source / "config.json", old)
    state, placed = model.state_dict(), {}
    for number in (1, 2):
        names = list(state)[number - 1 :: 2]
        torch.save({name: state[name].clone() for name in names}, old / f"pytorch_model-{number:05d}-of-00002.bin")
        placed |= dict.fromkeys(names, f"pytorch_model-{number:05d}-of-00002.bin")
    (old / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    for way in WAYS:
        convert(old, tmp_path / way, to=way)
        same_bits(tensors(source), tensors(tmp_path / way))
        assert relative_error(our_logits(tmp_path / way), logits_of(model)) < 2e-5


# ---- what each format holds

ROPES = {
    "hf": {"default", "linear", "dynamic", "yarn", "llama3", "longrope"},
    "mlx": {"default", "linear", "dynamic", "yarn", "llama3", "longrope"},
    "gguf": {"default", "linear", "yarn", "llama3", "longrope"},
    "meta": {"default"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rope", ROPE_TYPES)
def test_rope_is_kept_or_refused(tiny_models: TinyModels, tmp_path: Path, way: str, rope: str) -> None:
    model, source = tiny_models(rope)
    if rope not in ROPES[way]:
        with pytest.raises(UnsupportedError, match="has no place for"):
            convert(source, tmp_path / "out", to=way)
        assert list(tmp_path.iterdir()) == []
        return
    convert(source, tmp_path / "out", to=way)
    assert relative_error(our_logits(tmp_path / "out"), logits_of(model)) < 5e-5


def test_the_rope_of_llama_3_1_in_meta(tiny_models: TinyModels, tmp_path: Path) -> None:
    rope = ROPE_TYPES["llama3"] | {"original_max_position_embeddings": 8192, "rope_theta": 500000.0, "factor": 32.0}
    model, source = tiny_models(rope, **SIZES)
    convert(source, tmp_path / "meta", to="meta")
    assert json.loads((tmp_path / "meta" / "params.json").read_text())["use_scaled_rope"] is True
    assert relative_error(our_logits(tmp_path / "meta"), logits_of(model)) < 2e-5


FIELDS = {
    "tied": ({"tie_word_embeddings": True}, {"hf", "mlx", "gguf", "meta"}),
    "biases": ({"attention_bias": True, "mlp_bias": True}, {"hf", "mlx", "gguf"}),
    "wide heads": ({"head_dim": 32}, {"hf", "mlx", "gguf"}),
    "gelu": ({"hidden_act": "gelu"}, {"hf", "mlx"}),
    "epsilon": ({"rms_norm_eps": 3e-4}, {"hf", "mlx", "gguf", "meta"}),
    "inner size": ({"intermediate_size": 77}, {"hf", "mlx", "gguf", "meta"}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", FIELDS)
def test_fields_are_kept_or_refused(tiny_models: TinyModels, tmp_path: Path, way: str, case: str) -> None:
    fields, holders = FIELDS[case]
    model, source = tiny_models(**SIZES | fields)
    if way not in holders:
        with pytest.raises(UnsupportedError, match=r"has no place for.*; convert to"):
            convert(source, tmp_path / "out", to=way)
        return
    convert(source, tmp_path / "out", to=way)
    assert relative_error(our_logits(tmp_path / "out"), logits_of(model)) < 2e-5


def test_what_a_format_loses_is_said(tiny_models: TinyModels, tmp_path: Path) -> None:
    _, source = tiny_models(**SIZES)
    with pytest.warns(PolyllamaWarning, match=r"max_position_embeddings \(64 is read back as"):
        convert(source, tmp_path / "meta", to="meta")


@pytest.mark.parametrize("hidden", [64, 2048, 3200, 4096, 5120, 8192])
@pytest.mark.parametrize("inner", [1, 77, 5632, 8192, 8640, 11008, 13824, 14336, 28672])
def test_metas_rule_gives_any_inner_size(hidden: int, inner: int) -> None:
    """The rule as model.py of meta-llama/llama has it."""
    said = intermediate_size_rule(hidden, inner)
    size = int(2 * (4 * hidden) / 3)
    if "ffn_dim_multiplier" in said:
        size = int(said["ffn_dim_multiplier"] * size)
    multiple = said["multiple_of"]
    assert multiple * ((size + multiple - 1) // multiple) == inner


# ---- dtypes


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtypes_are_those_of_torch(tiny_models: TinyModels, tmp_path: Path, way: str, dtype: str) -> None:
    """Rounded as torch rounds; GGUF keeps norms in float32, which holds the rounded values exactly."""
    model, source = tiny_models(**SIZES)
    made = convert(source, tmp_path / "out", to=way, dtype=dtype)
    assert made.dtype == dtype
    kind = getattr(torch, dtype)
    found = tensors(tmp_path / "out")
    for name, tensor in model.state_dict().items():
        assert np.array_equal(found[name].astype(np.float32), tensor.to(kind).float().numpy()), name
        assert found[name].dtype.name == ("float32" if way == "gguf" and tensor.ndim == 1 else dtype)
    convert(tmp_path / "out", tmp_path / "again", to="hf")
    same_bits(found, tensors(tmp_path / "again"))


def test_values_too_large_for_a_dtype(tiny_models: TinyModels, tmp_path: Path) -> None:
    import safetensors.torch

    model, source = tiny_models(**SIZES)
    shutil.copytree(source, tmp_path / "big")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["model.layers.0.mlp.up_proj.weight"][3, 4] = 1e6
    safetensors.torch.save_file(state, tmp_path / "big" / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"model\.layers\.0\.mlp\.up_proj\.weight: has values too large for float16"
    ):
        convert(tmp_path / "big", tmp_path / "out", to="hf", dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["big"]
    convert(tmp_path / "big", tmp_path / "out", to="hf", dtype="bfloat16")


# ---- packed weights


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_packed_weights_stay_as_they_are(tiny_models: TinyModels, tmp_path: Path, kind: str) -> None:
    """GGUF to MLX and back is exact, bit for bit; to the others as floats it is exact in float32."""
    import gguf

    model, _ = tiny_models(**SIZES)
    source = write_gguf(tmp_path / "x.gguf", model, kind)
    convert(source, tmp_path / "mlx", to="mlx")
    same_bits(tensors(source), tensors(tmp_path / "mlx"))
    convert(tmp_path / "mlx", tmp_path / "again.gguf", to="gguf")
    one, two = ({t.name: t for t in gguf.GGUFReader(path).tensors} for path in (source, tmp_path / "again.gguf"))
    assert set(one) == set(two)
    for name in one:
        assert one[name].tensor_type == two[name].tensor_type
        assert np.array_equal(one[name].data, two[name].data), name
    wanted = our_logits(source)
    assert np.array_equal(our_logits(tmp_path / "mlx"), wanted)
    for way in ("hf", "meta"):
        convert(tmp_path / "mlx", tmp_path / way, to=way, dtype="float32")
        assert relative_error(our_logits(tmp_path / way), wanted) < 1e-6
    with pytest.warns(PolyllamaWarning, match=r"the weights are quantized; they become float16, which rounds"):
        convert(source, tmp_path / "half", to="hf")
    assert relative_error(our_logits(tmp_path / "half"), wanted) < 2e-3


def test_mlx_lm_reads_the_packed_folder(tiny_models: TinyModels, tmp_path: Path) -> None:
    mlx = pytest.importorskip("mlx.core")
    utilities = pytest.importorskip("mlx_lm.utils")
    from checkpoint_models import IDS

    model, _ = tiny_models(**SIZES)
    source = write_gguf(tmp_path / "x.gguf", model, "Q8_0")
    convert(source, tmp_path / "mlx", to="mlx")
    theirs, _ = utilities.load_model(tmp_path / "mlx")
    found = np.array(theirs(mlx.array(IDS)).astype(mlx.float32))
    assert relative_error(found, our_logits(source)) < 5e-3


def test_groups_that_gguf_cannot_hold_become_floats_if_asked(tiny_models: TinyModels, tmp_path: Path) -> None:
    from polyllama.core.export.quantize_checkpoint import quantize_checkpoint

    _, source = tiny_models(**SIZES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PolyllamaWarning)
        quantize_checkpoint(source, tmp_path / "q8", bits=8, group_size=32)
    convert(tmp_path / "q8", tmp_path / "x.gguf", to="gguf", dtype="float16")
    assert relative_error(our_logits(tmp_path / "x.gguf"), our_logits(tmp_path / "q8")) < 5e-3


# ---- another vocabulary


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_vocabularies_are_resized(tiny_models: TinyModels, tmp_path: Path, way: str, tied: bool) -> None:
    model, source = tiny_models(**SIZES, tie_word_embeddings=tied)
    wanted = logits_of(model)
    convert(source, tmp_path / "more", to=way, vocab_size=100)
    more = our_logits(tmp_path / "more")
    assert more.shape[-1] == 100
    assert relative_error(more[..., :96], wanted) < 2e-5
    head = model.lm_head.weight.detach().double().numpy()
    new = tensors(tmp_path / "more").get("lm_head.weight", tensors(tmp_path / "more")["model.embed_tokens.weight"])
    assert np.array_equal(new[96:], np.repeat(head.mean(0)[None].astype(np.float32), 4, 0))
    convert(tmp_path / "more", tmp_path / "same", to="hf", vocab_size=96)
    same_bits(
        {n: a for n, a in tensors(source).items() if n != "lm_head.weight"},
        {n: a for n, a in tensors(tmp_path / "same").items() if n != "lm_head.weight"},
    )
    convert(source, tmp_path / "less", to=way, vocab_size=90)
    assert relative_error(our_logits(tmp_path / "less"), wanted[..., :90]) < 1e-4


def test_vocabularies_that_cannot_be(tiny_models: TinyModels, tmp_path: Path) -> None:
    _, source = tiny_models(**SIZES)
    for size, message in (
        (0, "vocab_size=0 is not a number of tokens"),
        (2.5, "is not a number of tokens"),
        (2, "would cut off eos_token_id 2"),
    ):
        with pytest.raises(InputError, match=message):
            convert(source, tmp_path / "out", to="hf", vocab_size=size)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="vocab_size=1000, but the tokenizer has 1,792 tokens"):
        convert("tiny", tmp_path / "out", to="hf", vocab_size=1000)


# ---- tokenizers


@pytest.mark.parametrize("pre", ["smollm", "qwen2", "llama-bpe", "deepseek-llm"])
def test_a_byte_level_tokenizer_goes_through_gguf_and_back(tiny_models: TinyModels, tmp_path: Path, pre: str) -> None:
    splitting = SPLITTINGS[pre]
    backend = gguf_tokenizers.oracle(splitting.pre_tokenizer(), whole_words=splitting.whole_words)
    _, source = tiny_models(**SIZES | {"vocab_size": backend.get_vocab_size()})
    folder = shutil.copytree(source, tmp_path / "start")
    backend.save(str(folder / "tokenizer.json"))
    roles = {"bos_token": gguf_tokenizers.SPECIAL[0], "eos_token": gguf_tokenizers.SPECIAL[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    ids = {f"{role}_id": backend.token_to_id(token) for role, token in roles.items()}
    for name in ("config.json", "generation_config.json"):
        if (folder / name).exists():
            (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | ids))
    convert(folder, tmp_path / "x.gguf", to="gguf")
    convert(tmp_path / "x.gguf", tmp_path / "end", to="hf")
    text = "It's 12345 llamas!\n\n  naïve café É日本 x+y=1234<|turn|>"
    for path in (folder, tmp_path / "x.gguf", tmp_path / "end"):
        found = Llama.load(path, backend="reference").tokenizer
        assert found.encode(text, add_special_tokens=False) == backend.encode(text).ids, path
        assert found.decode(found.encode(text)) == text


@pytest.mark.parametrize("way", WAYS)
def test_the_tokenizer_goes_along(tmp_path: Path, way: str) -> None:
    tiny = Llama.load("tiny", backend="reference")
    made = convert("tiny", tmp_path / "out", to=way)
    assert made.nbytes == sum(file.stat().st_size for file in made.files)
    found = Llama.load(tmp_path / "out", backend="reference")
    text = "Once upon a time, a bear; <s> 12\n\té 😀"
    assert found.tokenizer.encode(text) == tiny.tokenizer.encode(text)
    options = {"max_new_tokens": 12, "temperature": 0.8, "seed": 3}
    assert found.generate("Once", **options).text == tiny.generate("Once", **options).text
    if way in ("hf", "mlx"):
        folder = locate("tiny").path
        for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
            assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()


# ---- places


def test_mistakes(tiny_models: TinyModels, tmp_path: Path) -> None:
    _, source = tiny_models(**SIZES)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.doc").write_text("mine")
    cases: list[tuple[type[PolyllamaError], str, Any, dict[str, Any]]] = [
        (CheckpointError, "is there already", tmp_path / "file", {}),
        (CheckpointError, "is there already", tmp_path / "folder", {}),
        (CheckpointError, "is a file where a folder is to be", tmp_path / "file", {"overwrite": True}),
        (CheckpointError, "holds thesis.doc, which is no part of a model", tmp_path / "folder", {"overwrite": True}),
        (InputError, "overlaps with", source, {"overwrite": True}),
        (InputError, "overlaps with", source / "inside", {}),
        (InputError, "overlaps with", source.parent, {"overwrite": True}),
        (InputError, "dtype='int8' is none to convert to", tmp_path / "out", {"dtype": "int8"}),
        (PluginError, "pth", tmp_path / "out", {"to": "pth"}),
        (CheckpointError, "is not a size", tmp_path / "out", {"max_shard_size": "big"}),
        (CheckpointError, "file: is a file where a folder is to be", tmp_path / "file" / "out", {}),
        (CheckpointError, "cannot be written", Path("/proc/nothing"), {}),
        (InputError, "gguf is one file of weights", tmp_path / "x.gguf", {"to": "gguf", "max_shard_size": "1GB"}),
        (InputError, "the destination is ''", "", {}),
        (InputError, "the destination is None", None, {}),
    ]
    for kind, message, target, options in cases:
        with pytest.raises(kind, match=message):
            convert(source, target, **{"to": "hf"} | options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "folder" / "thesis.doc").read_text() == "mine"


def test_overwriting_replaces_a_model_whole(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, source = tiny_models(**SIZES)
    convert("tiny", tmp_path / "out", to="meta")
    convert(source, tmp_path / "out", to="hf", overwrite=True)
    assert not (tmp_path / "out" / "params.json").exists()
    assert relative_error(our_logits(tmp_path / "out"), logits_of(model)) < 2e-5
    convert("tiny", tmp_path / "x.gguf", to="gguf")
    convert(source, tmp_path / "x.gguf", to="gguf", overwrite=True)
    assert relative_error(our_logits(tmp_path / "x.gguf"), logits_of(model)) < 2e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.gguf"]


def test_too_little_space_is_known_beforehand(tiny_models: TinyModels, tmp_path: Path, monkeypatch: Any) -> None:
    _, source = tiny_models(**SIZES)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match=r"writing takes 0\.\d+ MB, only 0\.00 MB are free"):
        convert(source, tmp_path / "out", to="gguf")
    assert list(tmp_path.iterdir()) == []
    size = sum(array.nbytes for array in tensors(source).values())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * size))
    convert(source, tmp_path / "out", to="gguf")  # what is left for a tokenizer goes by the model's size


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_memory_holds_about_one_tensor(tmp_path: Path, way: str, dtype: str | None) -> None:
    """A model of 34 MB whose largest tensor has 1 MB; ``benchmarks/convert_memory.py`` measures whole processes."""
    import tracemalloc

    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_hidden_layers": 8}
    config = LlamaConfig(**sizes, vocab_size=1000, dtype="float32")
    Llama.load(config, load_format="dummy", backend="reference").save(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "once", to=way, dtype=dtype)  # imports what it needs
    tracemalloc.start()
    try:
        convert(tmp_path / "hf", tmp_path / "out", to=way, dtype=dtype)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 << 20


def test_progress_counts_every_byte_once(tiny_models: TinyModels, tmp_path: Path) -> None:
    _, source = tiny_models(**SIZES, tie_word_embeddings=True)
    for way in WAYS:
        said: list[tuple[str, int, int]] = []
        convert(source, tmp_path / way, to=way, progress=lambda *what, said=said: said.append(what))
        sizes = {name: array.nbytes for name, array in tensors(source).items()}
        total = sum(sizes.values())
        assert sorted(name for name, _, _ in said) == sorted([*sizes, ""])
        assert [done for _, done, _ in said] == sorted(done for _, done, _ in said)
        assert all(all_of_it == total for _, _, all_of_it in said)
        assert said[-1] == ("", total, total)
