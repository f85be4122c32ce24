"""Real files of every dialect, as published, with transformers' own reading as the oracle."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from polyllama.core.config.dialects import detect_dialect
from polyllama.core.config.meta import count_sentencepieces
from polyllama.core.config.reading import KNOWN_SPELLINGS
from polyllama.core.config.schema import LlamaConfig
from polyllama.core.errors import ConfigError, PolyllamaWarning

SMALL = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
CONFIGS = Path(__file__).parents[2] / "data" / "configs"
REAL = [path.stem for path in CONFIGS.glob("*.json") if not path.stem.endswith(".params")]


def raw_of(name: str) -> dict[str, Any]:
    """The content of a published file."""
    found: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    return found


def read(name: str) -> LlamaConfig:
    """A published file, under the name it has beside its weights."""
    return LlamaConfig.from_dict(raw_of(name), source="params.json" if name.endswith(".params") else "config.json")


@pytest.mark.parametrize("name", REAL)
def test_real_file_reads_as_transformers_reads_it(name: str) -> None:
    from transformers import LlamaConfig as Theirs

    raw = raw_of(name)
    ours, theirs = LlamaConfig.from_dict(raw, source="config.json"), Theirs(**copy.deepcopy(raw))
    for field in type(ours).model_fields:
        if field in ("extra", "rope_parameters", "pad_token_id", "dtype", "classifier_dropout", "hidden_dropout"):
            continue
        if field == "quantization":  # a key that transformers does not know
            assert (ours.quantization is not None) == ("quantization" in raw)
            continue
        assert getattr(ours, field) == (
            getattr(theirs, field) or [] if field == "architectures" else getattr(theirs, field)
        ), field
    assert f"torch.{ours.dtype}" == str(theirs.dtype) or ours.dtype is theirs.dtype is None
    for key, value in theirs.rope_parameters.items():
        if key != "type":
            assert getattr(ours.rope_parameters, key) == value, key
    for key in set(raw) - set(type(ours).model_fields):
        assert ours.provenance.get(key) == f"config.json: {key}" or key in (*KNOWN_SPELLINGS, "max_sequence_length")


@pytest.mark.parametrize("name", REAL)
def test_real_file_round_trips(name: str, tmp_path: Path) -> None:
    config = read(name)
    assert config.save_pretrained(tmp_path) == tmp_path / "config.json"
    again = LlamaConfig.from_pretrained(tmp_path)
    assert again == config
    assert again.to_dict() == config.to_dict()
    written = json.loads((tmp_path / "config.json").read_text())
    assert written == config.to_diff_dict() == json.loads(config.to_json_string())
    usual = {"output_hidden_states": False, "output_attentions": False, "return_dict": True}
    assert {**usual, **written} == config.to_dict() == json.loads(config.to_json_string(use_diff=False))
    lost = set(raw_of(name)) - set(config.to_dict()) - {"max_sequence_length"}
    assert not lost


def test_provenance_of_a_version_4_file() -> None:
    config = read("llama-3.1-8b")
    assert config.provenance["vocab_size"] == "config.json: vocab_size"
    assert config.provenance["dtype"] == "config.json: torch_dtype"
    assert config.provenance["rope_parameters.rope_type"] == "config.json: rope_scaling.rope_type"
    assert config.provenance["rope_parameters.rope_theta"] == "config.json: rope_theta"
    assert config.provenance["rope_parameters"] == "config.json: rope_scaling, config.json: rope_theta"
    assert config.provenance["pad_token_id"] == "default"
    assert read("yarn-llama-2-7b-64k").provenance["rope_parameters.rope_type"] == "config.json: rope_scaling.type"


def test_first_conversions_of_llama_1() -> None:
    config = read("llama-1-7b-first-conversion")
    assert (config.max_position_embeddings, config.pad_token_id) == (2048, None)
    assert config.provenance["max_position_embeddings"] == "config.json: max_sequence_length"
    assert config.provenance["pad_token_id"] == "config.json: pad_token_id (-1 there, which means none)"


def test_stale_max_sequence_length_is_said() -> None:
    with pytest.warns(PolyllamaWarning, match="max_sequence_length=2048 is not used"):
        config = LlamaConfig.from_dict({**SMALL, "max_sequence_length": 2048})
    assert config.max_position_embeddings == 256
    assert config.extra == {"max_sequence_length": 2048}


def test_mlx_quantization_is_read_and_written() -> None:
    config = read("llama-3.2-1b-mlx-4bit")
    assert detect_dialect(raw_of("llama-3.2-1b-mlx-4bit")).name == "mlx"
    assert str(config.quantization) == "int4-g64" and "quantization" not in config.extra
    written = config.to_dict()
    assert written["quantization"] == {"group_size": 64, "bits": 4, "mode": "affine"}
    assert written["quantization_config"] == written["quantization"]
    assert config.rope_parameters.factor == 32.0


# ---- Meta's params.json


def test_params_of_llama_2_70b() -> None:
    config = read("llama-2-70b.params")
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (8192, 28672, 80)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (64, 8, 128)
    assert (config.vocab_size, config.max_position_embeddings, config.rms_norm_eps) == (32000, 4096, 1e-5)
    assert (config.bos_token_id, config.eos_token_id) == (1, 2)
    assert config.provenance["hidden_size"] == "params.json: dim"
    assert config.provenance["vocab_size"].startswith("derived: params.json leaves it to the tokenizer")
    assert config.provenance["intermediate_size"] == "derived: params.json: dim, multiple_of, ffn_dim_multiplier"
    assert config.provenance["max_position_embeddings"] == "derived: params.json does not say; 4096 as in Llama 2"
    assert LlamaConfig.from_dict(config.to_dict()) == config


def test_params_of_llama_31_8b_equal_the_published_config() -> None:
    ours, published = read("llama-3.1-8b.params"), read("llama-3.1-8b")
    for name in type(ours).model_fields:
        if name not in ("dtype", "architectures", "extra"):
            assert getattr(ours, name) == getattr(published, name), name
    assert ours.provenance["rope_parameters.factor"].startswith("derived: params.json: use_scaled_rope")


def test_params_of_llama_32_1b_say_that_the_factor_is_missing() -> None:
    with pytest.warns(PolyllamaWarning, match=r"factor 8.*3.2 1B and 3B says 32"):
        config = read("llama-3.2-1b.params")
    assert (config.rope_parameters.factor, config.intermediate_size) == (8.0, 8192)
    stated = raw_of("llama-3.2-1b.params") | {"rope_scaling_factor": 32}
    assert LlamaConfig.from_dict(stated).rope_parameters == read("llama-3.2-1b").rope_parameters
    settled = LlamaConfig.from_dict(raw_of("llama-3.2-1b.params"), rope_scaling=read("llama-3.2-1b").rope_scaling)
    assert settled.rope_parameters.factor == 32.0


@pytest.mark.parametrize(
    ("params", "intermediate", "context"),
    [
        (
            {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1},
            11008,
            2048,
        ),
        (
            {"dim": 5120, "multiple_of": 256, "n_heads": 40, "n_layers": 40, "norm_eps": 1e-06, "vocab_size": -1},
            13824,
            2048,
        ),
        (
            {"dim": 6656, "multiple_of": 256, "n_heads": 52, "n_layers": 60, "norm_eps": 1e-06, "vocab_size": -1},
            17920,
            2048,
        ),
        (
            {"dim": 8192, "multiple_of": 256, "n_heads": 64, "n_layers": 80, "norm_eps": 1e-05, "vocab_size": -1},
            22016,
            2048,
        ),
        (
            {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-05, "vocab_size": -1},
            11008,
            4096,
        ),
    ],
)
def test_params_of_llama_1_and_2(params: dict[str, Any], intermediate: int, context: int) -> None:
    config = LlamaConfig.from_dict(params, source="params.json")
    assert (config.intermediate_size, config.max_position_embeddings) == (intermediate, context)


CODE_PARAMS = {"dim": 64, "n_layers": 2, "n_heads": 4, "multiple_of": 16, "norm_eps": 1e-5, "rope_theta": 1000000}


def test_params_take_the_vocabulary_from_the_tokenizer_beside(tmp_path: Path) -> None:
    import io

    import sentencepiece

    (tmp_path / "params.json").write_text(json.dumps({**CODE_PARAMS, "vocab_size": -1}))
    with pytest.raises(ConfigError, match=r"vocab_size=-1 and there is no tokenizer.model.*pass vocab_size"):
        LlamaConfig.from_pretrained(tmp_path)
    assert LlamaConfig.from_pretrained(tmp_path, vocab_size=77).vocab_size == 77
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat"] * 20),
        model_writer=model,
        vocab_size=24,
        model_type="bpe",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    size = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()
    config = LlamaConfig.from_pretrained(tmp_path)
    assert config.vocab_size == size
    assert config.provenance["vocab_size"] == f"derived: tokenizer.model beside params.json has {size} pieces"
    assert config.max_position_embeddings == 16384
    (tmp_path / "cut.model").write_bytes(model.getvalue()[:-3])
    assert count_sentencepieces(tmp_path / "cut.model") is None
    (tmp_path / "text.model").write_text("IQ== 0\nIg== 1\n")
    assert count_sentencepieces(tmp_path / "text.model") is None


def test_params_messages_use_the_names_in_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        LlamaConfig.from_dict({**CODE_PARAMS, "n_kv_heads": 3, "vocab_size": 99, "n_layers": 0}, source="x/params.json")
    assert "x/params.json: 2 problems" in str(caught.value)
    assert "n_kv_heads=3 must divide n_heads=4; use one of 1, 2, 4" in str(caught.value)
    assert "n_layers=0 must be at least 1" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_chunk_size": 560}, "not a text Llama: vision_chunk_size"),
        ({"moe_args": {}}, "not a text Llama: moe_args"),
        ({"multiple_off": 256}, r'multiple_off=256 is not a field \(did you mean "multiple_of"'),
        ({"ffn_dim_multiplier": "1.3"}, "ffn_dim_multiplier"),
        ({"multiple_of": 0}, "multiple_of=0"),
        ({"use_scaled_rope": 1}, "use_scaled_rope=1 must be true or false"),
        ({"rope_scaling_factor": 8}, "no effect without use_scaled_rope"),
        ({"dim": None, "n_heads": 4}, "dim is missing"),
    ],
)
def test_params_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LlamaConfig.from_dict({**CODE_PARAMS, "vocab_size": 99, **change}, source="params.json")
