"""Any valid config survives a round trip, and nothing at all raises anything but a ConfigError."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polyllama.core.config.reading import KNOWN_SPELLINGS
from polyllama.core.config.rope import RopeParameters
from polyllama.core.config.schema import LlamaConfig
from polyllama.core.errors import ConfigError, PolyllamaError, PolyllamaWarning

SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16.0},
    "longrope": {
        "short_factor": [1.0 + i / 10 for i in range(8)],
        "long_factor": [2.0 + i for i in range(8)],
        "original_max_position_embeddings": 64,
        "factor": 4.0,
    },
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


CONFIGS = Path(__file__).parents[2] / "data" / "configs"
REAL = [path.stem for path in CONFIGS.glob("*.json") if not path.stem.endswith(".params")]

KINDS = st.sampled_from(list(SCALINGS))


@st.composite
def valid_fields(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12]))
    head_dim = 2 * draw(st.integers(2, 16))
    fields: dict[str, Any] = {
        "vocab_size": draw(st.integers(3, 200_000)),
        "hidden_size": draw(st.sampled_from([heads * head_dim, heads * head_dim + 1])),
        "head_dim": head_dim,
        "num_attention_heads": heads,
        "num_key_value_heads": draw(st.sampled_from([d for d in range(1, heads + 1) if heads % d == 0])),
        "max_position_embeddings": draw(st.integers(2, 1_000_000)),
    }
    kind = draw(KINDS)
    theta = draw(st.floats(1.5, 1e9) | st.integers(2, 10**9))
    block = copy.deepcopy(SCALINGS[kind])
    if kind == "longrope":
        numbers = st.lists(st.floats(0.1, 100), min_size=head_dim // 2, max_size=head_dim // 2)
        block |= {"short_factor": draw(numbers), "long_factor": draw(numbers)}
    if draw(st.booleans()):
        fields |= {"rope_theta": theta, "rope_scaling": {draw(st.sampled_from(["type", "rope_type"])): kind, **block}}
    else:
        fields["rope_parameters"] = {"rope_type": kind, "rope_theta": theta, **block}
    optional: dict[str, Any] = {
        "hidden_act": st.sampled_from(["silu", "gelu", "relu", "gelu_pytorch_tanh"]),
        "rms_norm_eps": st.floats(1e-12, 1e-3),
        "eos_token_id": st.none() | st.integers(0, 2) | st.lists(st.integers(0, 2), min_size=1, max_size=3),
        "pad_token_id": st.none() | st.integers(-1, 2),
        "tie_word_embeddings": st.booleans(),
        "attention_bias": st.booleans(),
        "mlp_bias": st.booleans(),
        "attention_dropout": st.floats(0, 0.9),
        "torch_dtype": st.sampled_from(["float16", "bfloat16", "float32"]),
        "num_labels": st.integers(1, 9),
        "architectures": st.lists(st.just("LlamaForCausalLM"), max_size=1),
        "zz_unknown": st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=6,
        ),
    }
    for name, strategy in optional.items():
        if draw(st.booleans()):
            fields[name] = draw(strategy)
    return fields


@settings(max_examples=100, deadline=None)
@given(valid_fields())
def test_any_valid_config_round_trips(fields: dict[str, Any]) -> None:
    config = LlamaConfig(**fields)
    text = config.to_json_string()
    again = LlamaConfig.from_dict(json.loads(text), source="config.json")
    assert again == config
    assert again.to_json_string() == text
    assert eval(repr(config), {"LlamaConfig": LlamaConfig, "RopeParameters": RopeParameters}) == config
    for name, value in fields.items():
        if name not in ("rope_parameters", "rope_scaling", "pad_token_id"):
            assert getattr(config, name) == value, name


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=3)
    | st.sampled_from([10**400, -1, 0, "32", object(), {1}, 1j, "linear", "llama", float("inf")]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["rope_type", "type", "factor", "rope_theta", "0", "1", "beta_fast"])
        | st.integers()
        | st.text(max_size=4),
        inner,
        max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip
META_NAMES = ["dim", "n_layers", "n_heads", "n_kv_heads", "multiple_of", "ffn_dim_multiplier", "norm_eps", "vocab_size",
              "rope_theta", "use_scaled_rope", "rope_scaling_factor", "max_seq_len"]  # fmt: skip
KEYS = st.sampled_from([*KNOWN_SPELLINGS, *META_NAMES, "quantization", "max_sequence_length"]) | st.text(max_size=6)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS | st.integers(), JUNK, max_size=6), st.dictionaries(KEYS, JUNK, max_size=2))
def test_junk_raises_nothing_but_config_errors(raw: dict[Any, Any], overrides: dict[str, Any]) -> None:
    overrides.pop("source", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PolyllamaWarning)
        try:
            config = LlamaConfig.from_dict(raw, **overrides)
        except PolyllamaError as problem:
            assert isinstance(problem, ConfigError)
            assert str(problem).startswith("dict: ")
        else:
            assert LlamaConfig.from_dict(json.loads(config.to_json_string())) == config


@settings(max_examples=200, deadline=None)
@given(KEYS, JUNK, st.sampled_from(REAL))
def test_one_wrong_value_in_a_real_file(key: str, value: Any, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PolyllamaWarning)
        try:
            config = LlamaConfig.from_dict({**json.loads((CONFIGS / f"{name}.json").read_text()), key: value})
        except ConfigError as problem:
            assert key in str(problem) or not key.isascii() or not key.isprintable() or key in ("label2id", "head_dim")
        else:
            assert LlamaConfig.from_dict(config.to_dict()) == config


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_junk_files_raise_nothing_but_config_errors(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "junk.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"junk.json"):
        LlamaConfig.from_pretrained(file)
