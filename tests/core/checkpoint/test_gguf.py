"""GGUF files written by the gguf package, read here: configuration, weights, packed weights, RoPE, tokenizers."""

from __future__ import annotations

import math
import shutil
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from checkpoint_models import gguf_tensors, logits_of, our_logits, write_gguf
from gguf.constants import GGMLQuantizationType, RopeScalingType
from polyllama import Llama, LlamaConfig, LlamaTokenizer
from polyllama.core.checkpoint.gguf import blocks as gguf_blocks
from polyllama.core.checkpoint.gguf.file import TYPES
from polyllama.core.checkpoint.gguf.reader import GgufCheckpoint, gguf_name, huggingface_name
from polyllama.core.errors import CheckpointError, ConfigError, PolyllamaWarning, TokenizerError
from polyllama.core.quantization.affine import dequantize
from polyllama.core.sources.locate import locate
from polyllama.core.tokenizer.llama_tokenizer import load_tokenizer
from tiny_models import ROPE_TYPES, TinyModels, relative_error

SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_exact_types_give_the_logits_of_transformers(tiny_models: TinyModels, tmp_path: Path, kind: str) -> None:
    model, _ = tiny_models(**SIZES)
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    rounded = {n: t.to(dtype).float() if t.ndim > 1 else t for n, t in model.state_dict().items()}
    again = type(model)(model.config).eval()
    again.load_state_dict(rounded)
    path = write_gguf(tmp_path / "x.gguf", model, kind)
    assert relative_error(our_logits(path, dtype="float64"), logits_of(again)) < 2e-5
    checkpoint = GgufCheckpoint(tmp_path)
    for name, wanted in rounded.items():
        assert np.array_equal(checkpoint.read(name).astype(np.float32), wanted.numpy()), name
    assert Llama.load(path, backend="reference").config.dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("fields", [{"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}])
def test_what_shows_in_the_tensors_alone(tiny_models: TinyModels, tmp_path: Path, fields: dict[str, Any]) -> None:
    model, _ = tiny_models(**SIZES, **fields)
    path = write_gguf(tmp_path / "x.gguf", model)
    assert relative_error(our_logits(path), logits_of(model)) < 2e-5


def with_rope(rope: dict[str, Any], positions: int) -> Any:
    """Adds what llama.cpp's converter writes for a RoPE type."""
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    def add(writer: Any) -> None:
        kind = rope["rope_type"]
        if kind == "llama3":
            config = transformers.LlamaConfig(**SIZES, max_position_embeddings=positions, rope_parameters=dict(rope))
            scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
            plain = rope["rope_theta"] ** -(torch.arange(0, 16, 2).double() / 16)
            writer.add_tensor("rope_freqs.weight", (plain / scaled).float().numpy())
        elif kind == "longrope":
            writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
            factor = positions / rope["original_max_position_embeddings"]
            attention = math.sqrt(1 + math.log(factor) / math.log(rope["original_max_position_embeddings"]))
            writer.add_rope_scaling_attn_factors(attention)
            for name in ("short", "long"):
                writer.add_tensor(f"rope_factors_{name}.weight", np.array(rope[f"{name}_factor"], np.float32))
        elif kind != "default":
            writer.add_rope_scaling_type({"linear": RopeScalingType.LINEAR, "yarn": RopeScalingType.YARN}[kind])
            writer.add_rope_scaling_factor(rope["factor"])
            if kind == "yarn":
                writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])

    return add


LONG = {**ROPE_TYPES["longrope"], "short_factor": [1 + i / 10 for i in range(8)], "original_max_position_embeddings": 9}
LONG["long_factor"] = [2 + i / 4 for i in range(8)]
ROPES = {
    "linear": ROPE_TYPES["linear"],
    "yarn": ROPE_TYPES["yarn"],
    "longrope": LONG,
    "llama3": {**ROPE_TYPES["llama3"], "rope_theta": 500000.0, "original_max_position_embeddings": 8192},
    "llama3-other-constants": ROPE_TYPES["llama3"] | {"original_max_position_embeddings": 64},
    "llama3-no-slope": ROPE_TYPES["llama3"] | {"original_max_position_embeddings": 9, "high_freq_factor": 1.4},
}


@pytest.mark.parametrize("name", ROPES)
def test_rope_is_found_again(tiny_models: TinyModels, tmp_path: Path, name: str) -> None:
    rope = ROPES[name]
    model, _ = tiny_models(rope, **SIZES)
    path = write_gguf(tmp_path / "x.gguf", model, rope=with_rope(rope, 64))
    assert relative_error(our_logits(path), logits_of(model)) < 5e-5
    found = LlamaConfig.from_pretrained(tiny_models(rope, **SIZES)[1]).rope_parameters
    if name in ("linear", "yarn", "llama3", "llama3-other-constants"):
        assert GgufCheckpoint(path).config().rope_parameters == found


# ---- packed types


def dequantized_model(model: Any, path: Path) -> Any:
    """The transformers model with the values that the gguf package reads from a file."""
    from checkpoint_models import interleaved

    config, state = model.config, {}
    reader = gguf.GGUFReader(path)
    for tensor in reader.tensors:
        values = torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32))
        name = huggingface_name(tensor.name)
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:  # the inverse of a permutation: where each row went
            rows = interleaved(torch.arange(values.shape[0])[:, None], heads)[:, 0]
            values = values[torch.argsort(rows)]
        state[name] = values
    again = type(model)(config).eval()
    again.load_state_dict(state)
    return again


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_packed_types_are_exact(tiny_models: TinyModels, tmp_path: Path, kind: str) -> None:
    model, _ = tiny_models(**SIZES)
    path = write_gguf(tmp_path / "x.gguf", model, kind)
    wanted = dequantized_model(model, path)
    checkpoint, bits = GgufCheckpoint(path), gguf_blocks.EXACT[kind].bits
    assert checkpoint.quantization == {"group_size": 32, "bits": bits, "mode": "affine"}
    for name, tensor in wanted.state_dict().items():
        if tensor.ndim > 1:
            module = name.removesuffix(".weight")
            parts = [checkpoint.read(f"{module}.{part}") for part in ("weight", "scales", "biases")]
            assert [p.dtype.name for p in parts] == ["uint32", "float16", "float16"]
            assert np.array_equal(dequantize(*parts, bits=bits), tensor.numpy()), name
            for part, info in zip(parts, ("weight", "scales", "biases"), strict=True):
                assert checkpoint.tensors()[f"{module}.{info}"].shape == part.shape
    assert relative_error(our_logits(path), logits_of(wanted)) < 2e-5
    llm = Llama.load(path, backend="torch", dtype="float32")
    from checkpoint_models import IDS

    assert relative_error(llm.forward(IDS).numpy()["logits"], logits_of(wanted)) < 1e-4


def test_a_mixture_of_types(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, _ = tiny_models(**SIZES | {"hidden_size": 256})
    mixed = {"attn_v": "Q8_0", "output": "F16", "ffn_gate": "Q5_0", "attn_q": "Q5_1"}
    path = write_gguf(tmp_path / "x.gguf", model, "Q4_0", mixed=mixed)
    with pytest.warns(PolyllamaWarning, match=r"x\.gguf: stored as Q5_0, Q5_1, which become float16 when read"):
        checkpoint = GgufCheckpoint(path)
    said = checkpoint.quantization
    assert said is not None
    assert (said["bits"], said["lm_head"], said["model.layers.0.mlp.gate_proj"]) == (4, False, False)
    assert said["model.layers.1.self_attn.v_proj"] == {"group_size": 32, "bits": 8}
    wanted = dequantized_model(model, path)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert np.array_equal(checkpoint.read(name), wanted.state_dict()[name].half().numpy())
    with pytest.warns(PolyllamaWarning, match="become float16"):
        assert relative_error(our_logits(path), logits_of(wanted)) < 2e-3


def test_other_types_need_the_package(tiny_models: TinyModels, tmp_path: Path, monkeypatch: Any) -> None:
    import sys

    model, _ = tiny_models(**SIZES)
    path = write_gguf(tmp_path / "x.gguf", model, "Q5_0")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"stored as Q5_0, for which the gguf package.*polyllama\[gguf\]"):
        GgufCheckpoint(path)
    exact = write_gguf_without_package(tmp_path)
    assert GgufCheckpoint(exact).tensors()["model.norm.weight"].shape == (4,)


def write_gguf_without_package(folder: Path) -> Path:
    """The smallest file with a norm, byte by byte."""
    path = folder / "small.gguf"
    pairs = {
        "general.architecture": "llama",
        "llama.context_length": 8,
        "llama.embedding_length": 4,
        "llama.block_count": 1,
        "llama.feed_forward_length": 8,
        "llama.attention.head_count": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }
    content = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs))
    for key, value in pairs.items():
        content += string(key)
        if isinstance(value, str):
            content += struct.pack("<I", 8) + string(value)
        else:
            content += struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)
    content += string("output_norm.weight") + struct.pack("<IQIQ", 1, 4, 0, 0)
    content += b"\0" * (-len(content) % 32) + np.ones(4, np.float32).tobytes()
    path.write_bytes(content)
    return path


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def test_the_table_of_types_is_that_of_the_package() -> None:
    for number, (name, values, nbytes) in TYPES.items():
        kind = GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (values, nbytes))


def test_names_both_ways(tiny_models: TinyModels) -> None:
    model, _ = tiny_models(**SIZES, attention_bias=True)
    assert {gguf_name(name) for name in model.state_dict()} == set(gguf_tensors(model))
    assert {huggingface_name(name) for name in gguf_tensors(model)} == set(model.state_dict())


def test_scales_that_are_no_numbers(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, _ = tiny_models(**SIZES)
    for kind, scale in (("Q8_0", float("nan")), ("Q4_1", float("inf")), ("Q8_0", 60000.0)):
        path = write_gguf(tmp_path / "x.gguf", model, kind)
        tensor = GgufCheckpoint(path)._sources["lm_head.scales"].tensor
        content = bytearray(path.read_bytes())
        content[tensor.offset : tensor.offset + 2] = np.float16(scale).tobytes()
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x\.gguf: tensor 'output\.weight': its (scales|biases) hold values"):
            Llama.load(path, backend="reference")


# ---- files


def test_parts_of_one_model(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, _ = tiny_models(**SIZES)
    tensors = gguf_tensors(model)
    for number in (1, 2):
        writer = gguf.GGUFWriter(tmp_path / f"m-{number:05d}-of-00002.gguf", "llama")
        if number == 1:
            c = model.config
            writer.add_context_length(64)
            writer.add_embedding_length(c.hidden_size)
            writer.add_block_count(c.num_hidden_layers)
            writer.add_feed_forward_length(c.intermediate_size)
            writer.add_head_count(c.num_attention_heads)
            writer.add_head_count_kv(c.num_key_value_heads)
            writer.add_layer_norm_rms_eps(c.rms_norm_eps)
        for index, (name, array) in enumerate(tensors.items()):
            if index % 2 == number - 1:
                writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    assert relative_error(our_logits(tmp_path), logits_of(model)) < 2e-5
    assert relative_error(our_logits(tmp_path / "m-00001-of-00002.gguf"), logits_of(model)) < 2e-5
    shutil.copy(tmp_path / "m-00001-of-00002.gguf", tmp_path / "other.gguf")
    with pytest.raises(CheckpointError, match=r"holds 2 GGUF models: m-00001-of-00002\.gguf, other\.gguf"):
        GgufCheckpoint(tmp_path)
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 2 parts are missing: m-00002-of-00002\.gguf"):
        GgufCheckpoint(tmp_path / "m-00001-of-00002.gguf")


HEADERS = [
    (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "is GGUF of version 1"),
    (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is a big-endian GGUF file"),
    (b"tjgg" + struct.pack("<IQQ", 3, 0, 0), "before GGUF"),
    (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "claims 1,152,921,504,606,846,976 entries"),
    (b"GGUF" + struct.pack("<IQQ", 3, 0, 1), "its header is cut off"),
    (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 50), "a metadata key of .* bytes reaches outside"),
    (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k") + struct.pack("<IIQ", 9, 4, 1 << 20), "array 'k' of"),
    (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k") + struct.pack("<IIQ", 9, 9, 1), "has the unknown type 9"),
    (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k") + struct.pack("<I", 77), "has the unknown type 77"),
    (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + (string("k") + struct.pack("<IB", 0, 1)) * 2, "'k' is there twice"),
    (
        b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("t") + struct.pack("<IQIQ", 1, 1 << 61, 0, 0),
        "is larger|ends at",
    ),
    (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("t") + struct.pack("<IQIQ", 1, 0, 8, 0), "is empty"),
    (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("t") + struct.pack("<IQIQ", 1, 33, 8, 0), "no multiple of Q8_0's"),
    (
        b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("t") + struct.pack("<IQIQ", 1, 1, 0, 7),
        "no multiple of the align",
    ),
    (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("t") + struct.pack("<IQIQ", 1, 1, 99, 0), "has the type 99"),
    (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("t") + struct.pack("<I", 1 << 30), "claims 1073741824 dimensions"),
    (
        b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + (string("t") + struct.pack("<IQIQ", 1, 1, 0, 0)) * 2 + b"\0" * 99,
        "the tensor 't' is there twice",
    ),
    (
        b"GGUF"
        + struct.pack("<IQQ", 3, 2, 0)
        + b"".join(string(n) + struct.pack("<IQIQ", 1, 9, 0, 0) for n in "tu")
        + b"\0" * 99,
        "'t' and 'u' overlap",
    ),
]


@pytest.mark.parametrize(("content", "message"), HEADERS, ids=range(len(HEADERS)))
def test_broken_headers(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        Llama.load(path, backend="reference")
    assert str(path) in str(caught.value)


def test_other_architectures_and_experts(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, _ = tiny_models(**SIZES)
    path = write_gguf(tmp_path / "x.gguf", model, more=lambda w: w.add_expert_count(8))
    with pytest.raises(ConfigError, match=r"x\.gguf.*llama\.expert_count=8"):
        Llama.load(path)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_tensor("output_norm.weight", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConfigError, match=r'general\.architecture is "qwen2"'):
        Llama.load(path)
    path = write_gguf(tmp_path / "y.gguf", model, more=lambda w: w.add_float32("llama.logit_scale", 2.0))
    with pytest.warns(
        PolyllamaWarning, match=r"y\.gguf: not used, as a Llama has no such thing: llama\.logit_scale"
    ) as w:
        Llama.load(path, backend="reference")
    assert len(w) == 1


# ---- tokenizers


def add_sentencepiece(writer: Any) -> None:
    """tiny's tokenizer.model as llama.cpp's converter writes it."""
    from sentencepiece import SentencePieceProcessor

    sp = SentencePieceProcessor(model_file=str(locate("tiny").path / "tokenizer.model"))
    kinds = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1 for i in range(len(sp))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([sp.id_to_piece(i) for i in range(len(sp))])
    writer.add_token_scores([sp.get_score(i) for i in range(len(sp))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")


TEXTS = ["Once upon a time", " two  spaces", "naïve café 🦙\n\ttab", "", "<s>not special", "1234567 + 89"]


def test_sentencepiece_tokenizers(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, _ = tiny_models(**SIZES | {"vocab_size": 1792})
    path = write_gguf(tmp_path / "x.gguf", model, tokens=add_sentencepiece)
    llm = Llama.load(path, backend="reference")
    wanted = LlamaTokenizer(locate("tiny").path / "tokenizer.model", legacy=True)
    for text in TEXTS:
        assert llm.tokenizer.encode(text) == wanted.encode(text)
        assert llm.tokenizer.decode(wanted.encode(text)) == wanted.decode(wanted.encode(text))
    assert (llm.tokenizer.bos_token_id, llm.tokenizer.eos_token_id, llm.config.eos_token_id) == (1, 2, 2)
    assert llm.tokenizer.decode(llm.chat_prompt([{"role": "user", "content": "hi"}])) == "[user]hi"
    assert llm.generate("Once", max_new_tokens=3).token_ids
    llm.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").encode(TEXTS[2]) == wanted.encode(TEXTS[2])


def test_a_hostile_template_stays_in_the_sandbox(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, _ = tiny_models(**SIZES | {"vocab_size": 1792})

    def add(writer: Any) -> None:
        writer.add_chat_template("{{ ''.__class__.__mro__[1].__subclasses__() }}")

    path = write_gguf(tmp_path / "x.gguf", model, tokens=lambda w: add_sentencepiece_without_template(w), hostile=add)
    llm = Llama.load(path, backend="reference")
    with pytest.raises(TokenizerError):
        llm.chat([{"role": "user", "content": "hi"}])


def add_sentencepiece_without_template(writer: Any) -> None:
    add_sentencepiece(writer)
    del writer.kv_data[0]["tokenizer.chat_template"]


def byte_level(folder: Path, *, llama3: bool) -> Any:
    """A byte-level tokenizer trained on a few words, with special tokens after the vocabulary."""
    from polyllama.core.tokenizer.engines.word_splitting import LLAMA3_PATTERN
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE(ignore_merges=llama3))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not llama3)
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, level]) if llama3 else level
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        ["once upon a time there was a llama 12345 " * 5, "the café was there"],
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False),
    )
    backend.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    backend.save(str(folder / "tokenizer.json"))
    return backend


@pytest.mark.parametrize(("pre", "llama3"), [("llama-bpe", True), ("gpt-2", False)])
def test_byte_level_tokenizers(tiny_models: TinyModels, tmp_path: Path, pre: str, llama3: bool) -> None:
    import json

    backend = byte_level(tmp_path, llama3=llama3)
    count = backend.get_vocab_size()
    model, _ = tiny_models(**SIZES | {"vocab_size": count})
    merges = json.loads(backend.to_str())["model"]["merges"]

    def add(writer: Any) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list([backend.id_to_token(i) for i in range(count)])
        writer.add_token_types([1] * (count - 3) + [3] * 3)
        writer.add_token_merges([" ".join(m) for m in merges])
        writer.add_bos_token_id(count - 3)
        writer.add_eos_token_id(count - 2)
        writer.add_eot_token_id(count - 1)

    llm = Llama.load(write_gguf(tmp_path / "x.gguf", model, tokens=add), backend="reference")
    assert llm.config.eos_token_ids == (count - 2, count - 1)
    for text in [*TEXTS, "it's 12345 llamas<|eot_id|> there"]:
        assert llm.tokenizer.encode(text, add_special_tokens=False) == backend.encode(text).ids, text
    assert (llm.tokenizer.encode("a")[0] == count - 3) == llama3  # what llama.cpp does where the file does not say
    assert llm.tokenizer.decode(llm.tokenizer.encode("café 🦙"), skip_special_tokens=True) == "café 🦙"
    path = write_gguf(
        tmp_path / "y.gguf", model, tokens=add, pre=lambda w: replace(w, "tokenizer.ggml.pre", "lama-bpe")
    )
    with pytest.raises(TokenizerError, match=r"y\.gguf: splits text into words as 'lama-bpe' .*known are llama-bpe"):
        _ = Llama.load(path, backend="reference").tokenizer


def replace(writer: Any, key: str, value: str) -> None:
    del writer.kv_data[0][key]
    writer.add_string(key, value)


def test_broken_tokenizers(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, _ = tiny_models(**SIZES)
    path = write_gguf(tmp_path / "x.gguf", model)
    with pytest.raises(TokenizerError, match=r"x\.gguf carries no tokenizer"):
        _ = Llama.load(path, backend="reference").tokenizer
    cases: list[tuple[Any, str]] = [
        (lambda w: w.add_tokenizer_model("bert"), "model is 'bert'"),
        (lambda w: (w.add_tokenizer_model("llama"), w.add_token_list(["a", "b", "c"])), "3 tokens, but 0 scores"),
        (
            lambda w: (w.add_tokenizer_model("llama"), w.add_token_list(["a"]), w.add_token_scores([0.0])),
            "bos_token_id=1 is no token of 1|cannot load this model",
        ),
    ]
    for add, message in cases:
        path = write_gguf(tmp_path / "x.gguf", model, tokens=add)
        with pytest.raises(TokenizerError, match=message):
            _ = Llama.load(path, backend="reference").tokenizer
