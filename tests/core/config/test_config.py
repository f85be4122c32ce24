"""The config schema: defaults, a message for every mistake, overrides, copies, files."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama.core.config.keys import FOREIGN_KEYS, changes_the_model
from polyllama.core.config.rope import RopeParameters
from polyllama.core.config.schema import LlamaConfig
from polyllama.core.errors import ConfigError
from polyllama.core.quantization.scheme import Quantization

SMALL = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
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


def error(**fields: Any) -> str:
    """The message that the small config with these fields gives."""
    with pytest.raises(ConfigError) as caught:
        LlamaConfig(**{**SMALL, **fields})
    return str(caught.value)


# ---- defaults and derived values


def test_defaults_are_the_documented_ones() -> None:
    from transformers import LlamaConfig as Theirs

    ours, theirs = LlamaConfig(), Theirs()
    for name in type(ours).model_fields:
        if name in ("extra", "architectures", "rope_parameters", "classifier_dropout", "hidden_dropout"):
            continue
        if name == "quantization":  # which transformers keeps under quantization_config, if at all
            assert ours.quantization is None
            continue
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.rope_parameters.to_dict() == {"rope_type": "default", "rope_theta": 10000.0}
    assert dict(theirs.rope_parameters) == {"rope_type": "default", "rope_theta": 10000.0}
    assert ours.num_labels == theirs.num_labels == 2
    assert (ours.architectures, ours.classifier_dropout, ours.hidden_dropout, ours.extra) == ([], None, None, {})


def test_heads_are_derived_and_say_so() -> None:
    config = LlamaConfig(**SMALL)
    assert (config.num_key_value_heads, config.head_dim, config.rotary_dim) == (4, 16, 16)
    assert config.provenance["num_key_value_heads"] == "derived: num_attention_heads"
    assert config.provenance["head_dim"] == "derived: hidden_size / num_attention_heads"
    explicit = LlamaConfig(**SMALL, num_key_value_heads=2, head_dim=10)
    assert explicit.provenance["head_dim"] == explicit.provenance["num_key_value_heads"] == "argument"


def test_explicit_head_dim_need_not_divide() -> None:
    config = LlamaConfig(hidden_size=100, num_attention_heads=7, head_dim=12)
    assert (config.hidden_size, config.head_dim) == (100, 12)
    with pytest.raises(ConfigError, match=r"hidden_size=100 is not a multiple of num_attention_heads=7.*head_dim"):
        LlamaConfig(hidden_size=100, num_attention_heads=7)


def test_every_field_has_a_provenance() -> None:
    config = LlamaConfig(**SMALL, foo=1, rope_scaling={"type": "yarn", "factor": 2.0})
    assert set(config.provenance) >= (set(LlamaConfig.model_fields) - {"extra"}) | {"foo"}
    for name in RopeParameters.model_fields:
        value = getattr(config.rope_parameters, name)
        assert (f"rope_parameters.{name}" in config.provenance) == (value is not None), name


def test_attributes_of_other_shapes() -> None:
    config = LlamaConfig(**SMALL, eos_token_id=[2, 7], rope_theta=5e5, partial_rotary_factor=0.5, torch_dtype="float16")
    assert config.eos_token_ids == (2, 7)
    assert LlamaConfig(**SMALL).eos_token_ids == (2,)
    assert LlamaConfig(**SMALL, eos_token_id=None).eos_token_ids == ()
    assert (config.rope_theta, config.partial_rotary_factor, config.rotary_dim) == (5e5, 0.5, 8)
    assert (config.dtype, config.torch_dtype, config.model_type) == ("float16", "float16", "llama")
    assert config.rope_scaling is None


# ---- wrong values


KV_MESSAGE = "num_key_value_heads=5 must divide num_attention_heads=32; use one of 1, 2, 4, 8, 16, 32"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 32, "hidden_size": 64, "num_key_value_heads": 5}, KV_MESSAGE),
        ({"hidden_act": "bogus"}, 'hidden_act="bogus" is not known; use one of silu, swish, gelu,'),
        ({"hidden_act": "sliu"}, 'did you mean "silu"'),
        ({"hidden_act": ["silu"]}, "hidden_act=['silu'] is not known"),
        ({"vocab_size": -3}, "vocab_size=-3 must be at least 1"),
        ({"vocab_size": "32"}, 'vocab_size="32" must be an integer: write 32 without quotes'),
        ({"vocab_size": 32.0}, "vocab_size=32.0 must be an integer: write 32"),
        ({"vocab_size": True}, "vocab_size=true must be an integer"),
        ({"vocab_size": None}, "vocab_size=null must be an integer"),
        ({"vocab_size": 10**400}, "vocab_size=(an integer of 1329 bits) must be at most 2147483647"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 must be at least 1"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan must be a finite number"),
        ({"rms_norm_eps": "1e-5"}, 'rms_norm_eps="1e-5" must be a number: write 1e-5 without quotes'),
        ({"rms_norm_eps": 0}, "rms_norm_eps=0 must be greater than 0"),
        ({"attention_dropout": 1.5}, "attention_dropout=1.5 must be less than 1"),
        ({"use_cache": 1}, "use_cache=1 must be true or false"),
        ({"tie_word_embeddings": "true"}, "must be true or false: write true without quotes"),
        ({"initializer_range": float("inf")}, "initializer_range=inf must be a finite number"),
        ({"rope_theta": 0}, "rope_theta=0 must be greater than 0"),
        ({"rope_theta": "10000"}, 'rope_theta="10000" must be a number: write 10000 without quotes'),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor=1.5 must be at most 1"),
        ({"head_dim": 15}, "head_dim=15 gives 15 rotated components; it must be even"),
        ({"head_dim": 10, "partial_rotary_factor": 0.5}, "head_dim=10 * partial_rotary_factor=0.5 gives 5 rotated"),
        ({"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "too small for dynamic RoPE"),
        ({"bos_token_id": 99}, "bos_token_id=99 is outside the vocabulary (vocab_size=99); use an id from 0 to 98"),
        ({"eos_token_id": [1, 128009]}, "eos_token_id=[1, 128009] is outside the vocabulary"),
        ({"eos_token_id": []}, "eos_token_id=[] names no token; use null"),
        ({"eos_token_id": ["2"]}, "eos_token_id=['2'] must be an integer, a list of integers or null"),
        ({"eos_token_id": -1}, "eos_token_id=-1 is outside the vocabulary"),
        ({"pad_token_id": 99}, "pad_token_id=99 is outside"),
        ({"pad_token_id": -2}, "pad_token_id=-2 is outside"),
        ({"vocab_size": 2}, "eos_token_id=2 (the default) is outside the vocabulary (vocab_size=2)"),
        ({"dtype": "bf16"}, 'dtype="bf16" is not known (did you mean "bfloat16"?)'),
        ({"dtype": 16}, "dtype=16 is not known"),
        ({"pretraining_tp": 0}, "pretraining_tp=0 must be at least 1"),
        ({"architectures": "LlamaForCausalLM"}, "must be a list"),
        ({"foo": float("nan")}, "foo=nan cannot be stored as JSON"),
        ({"foo": {1, 2}}, "cannot be stored as JSON: a set"),
        ({"foo": {3: 4}}, "the key 3 is not text"),
        ({"foo": [10**5000]}, "the number is too large"),
        ({"n_layers": 3, "num_hidden_layers": None}, 'n_layers=3 is not a field (did you mean "num_hidden_layers"?)'),
    ],
)  # fmt: skip
def test_wrong_values_name_field_value_and_remedy(fields: dict[str, Any], message: str) -> None:
    assert message in error(**fields)


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        LlamaConfig(
            num_key_value_heads=5,
            hidden_act="bogus",
            vocab_size=-3,
            rope_scaling={"type": "bogus"},
            num_hidden_layer=3,
            head_dim="12",
            problem_type="guessing",
            num_labels=0,
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "LlamaConfig: 8 problems"
    for text in ("num_key_value_heads=5", "hidden_act=", "vocab_size=-3", "rope_scaling.type=", "num_hidden_layer=3"):
        assert sum(text in line for line in lines) == 1, text
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


MISSPELT = ["num_hidden_layer", "rope_thetas", "hiden_size", "vocabSize", "num-attention-heads", "rms_norm_epsilon",
            "tie_embeddings", "Hidden_Act", "num_label", "torch_dtypes"]  # fmt: skip


@pytest.mark.parametrize("misspelt", MISSPELT)
def test_misspelt_fields_are_errors(misspelt: str) -> None:
    message = error(**{misspelt: 1, "rms_norm_eps": None} if misspelt.startswith("rms") else {misspelt: 1})
    assert f"{misspelt}=1 is not a field (did you mean" in message


def test_known_foreign_keys_are_never_taken_for_misspelt_fields() -> None:
    foreign = {name: "x" for name in FOREIGN_KEYS - {"max_sequence_length", "original_max_position_embeddings"}}
    config = LlamaConfig.from_dict({**SMALL, **foreign})
    assert config.extra == foreign
    assert config.to_dict().items() >= foreign.items()


def test_another_projects_name_beside_the_field_is_kept() -> None:
    assert LlamaConfig(**SMALL, n_layers=2).extra == {"n_layers": 2}


@pytest.mark.parametrize("kind", ["gpt2", "mistral", "LLAMA", 3, ["llama"]])
def test_other_models_are_named(kind: Any) -> None:
    with pytest.raises(ConfigError, match="not a Llama: model_type is ") as caught:
        LlamaConfig.from_dict({"model_type": kind, "n_embd": 768}, source="config.json")
    assert str(caught.value).startswith("config.json: not a Llama")
    assert str(kind).replace("'", '"') in str(caught.value).replace("'", '"')


def test_architectures_decide_without_a_model_type() -> None:
    assert LlamaConfig.from_dict({**SMALL, "architectures": ["LlamaForCausalLM"]}).architectures == ["LlamaForCausalLM"]
    with pytest.raises(ConfigError, match="not a Llama: architectures is"):
        LlamaConfig.from_dict({**SMALL, "architectures": ["GPT2LMHeadModel"]})


def test_null_where_a_default_is_meant() -> None:
    config = LlamaConfig(
        **SMALL, pretraining_tp=None, attention_dropout=None, num_key_value_heads=None, architectures=None
    )
    assert (config.pretraining_tp, config.attention_dropout, config.num_key_value_heads) == (1, 0.0, 4)
    assert config.provenance["pretraining_tp"] == "default (null in argument)"
    nulls = dict.fromkeys(("attention_bias", "mlp_bias", "tie_word_embeddings"))
    config = LlamaConfig.from_dict({**SMALL, **nulls})
    assert [getattr(config, name) for name in nulls] == [False] * 3
    assert config.provenance["mlp_bias"].startswith("default (null in ")


def test_torch_and_numpy_dtypes_are_accepted() -> None:
    import torch

    assert LlamaConfig(dtype=torch.bfloat16).dtype == LlamaConfig(torch_dtype="torch.bfloat16").dtype == "bfloat16"
    assert LlamaConfig(dtype=np.dtype("float32")).dtype == LlamaConfig(dtype=np.float32).dtype == "float32"


# ---- labels


def test_labels() -> None:
    named = {0: "no", 1: "yes", 2: "maybe"}
    config = LlamaConfig(**SMALL, id2label={"0": "no", "1": "yes", "2": "maybe"})
    assert (config.id2label, config.num_labels) == (named, 3)
    assert config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    assert (
        LlamaConfig(**SMALL, label2id=config.label2id) == LlamaConfig(**SMALL, id2label=named, num_labels=3) == config
    )
    assert LlamaConfig(**SMALL, num_labels=1).id2label == {0: "LABEL_0"}
    written = json.loads(config.to_json_string())
    assert written["id2label"] == {"0": "no", "1": "yes", "2": "maybe"}
    assert LlamaConfig.from_dict(written) == config
    assert "id2label" not in LlamaConfig(**SMALL).to_dict()
    assert LlamaConfig.from_dict(written, num_labels=2) == LlamaConfig(**SMALL)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_labels": 3, "id2label": {"0": "a", "1": "b"}}, "num_labels=3 contradicts the 2 labels"),
        ({"id2label": {"0": "a", "2": "b"}}, "must number its labels 0 to 1"),
        ({"id2label": {"0": "a", "x": "b"}}, 'the key "x" must be a label\'s number'),
        ({"id2label": {"00": "a"}}, "must be a label's number"),
        ({"id2label": {"0": "a", "1": "a"}}, 'the label "a" is used twice'),
        ({"id2label": {"0": 1}}, "id2label[0]=1 must be text"),
        ({"id2label": ["a", "b"]}, "must be an object such as"),
        ({"id2label": {"0": "a"}, "label2id": {"b": 0}}, "contradicts id2label"),
        ({"label2id": {"a": 1}}, "must number its labels"),
        ({"label2id": {"a": "0"}}, "must be a name and an integer"),
        ({"num_labels": 0}, "num_labels=0 must be an integer from 1"),
        ({"num_labels": 10**9}, "must be an integer from 1 to 1000000"),
        ({"num_labels": True}, "num_labels=true must be an integer"),
        ({"problem_type": "ranking"}, "use one of regression, single_label_classification, multi_label_classification"),
        ({"problem_type": "single_label_classification", "num_labels": 1}, "needs at least 2 labels"),
        ({"classifier_dropout": 2}, "classifier_dropout=2 must be less than 1"),
    ],
)
def test_label_mistakes(fields: dict[str, Any], message: str) -> None:
    assert message in error(**fields)


# ---- overrides and copies


LLAMA31 = {
    **{
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 4096,
        "dtype": "bfloat16",
        "rope_theta": 5e5,
    },
    "rope_scaling": {"rope_type": "llama3", **SCALINGS["llama3"]},
}


def test_overrides_win_in_any_spelling(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(LlamaConfig(**LLAMA31).to_json_string())  # holds both spellings of everything
    load = LlamaConfig.from_pretrained
    config = load(tmp_path, rope_theta=10000, torch_dtype="float32", foo=1)
    assert (config.rope_theta, config.dtype, config.foo) == (10000.0, "float32", 1)
    assert config.rope_parameters.factor == 8.0
    assert config.provenance["rope_parameters.rope_theta"] == "argument"
    assert config.provenance["dtype"] == "argument: torch_dtype"
    assert config.provenance["rope_parameters.factor"] == "config.json: rope_parameters.factor"
    linear = load(tmp_path, rope_scaling={"type": "linear", "factor": 2.0}).rope_parameters
    assert linear == RopeParameters(rope_type="linear", rope_theta=5e5, factor=2.0)
    plain = load(tmp_path, rope_scaling=None).rope_parameters
    assert plain == load(tmp_path, rope_parameters={}).rope_parameters == RopeParameters(rope_theta=5e5)
    with pytest.raises(ConfigError, match=r"config.json: num_key_value_heads=8 must divide num_attention_heads=20"):
        load(tmp_path, num_attention_heads=20)


def test_replace_checks_and_derives_anew() -> None:
    config = LlamaConfig(**SMALL, foo=1)
    wider = config.replace(hidden_size=128, num_attention_heads=2)
    assert (wider.head_dim, wider.num_key_value_heads, wider.foo) == (64, 2, 1)
    assert (config.head_dim, config.num_key_value_heads) == (16, 4)
    assert LlamaConfig(**SMALL, head_dim=20).replace(hidden_size=128).head_dim == 20
    assert LlamaConfig(**SMALL, head_dim=20).replace(head_dim=None).head_dim == 16
    with pytest.raises(ConfigError, match="vocab_size=0"):
        config.replace(vocab_size=0)
    with pytest.raises(ConfigError, match="did you mean"):
        config.replace(num_hidden_layer=3)
    assert config.model_copy(update={"hidden_size": 128}) == config.replace(hidden_size=128)
    assert config.model_copy() == config.model_copy(deep=True) == config


@pytest.mark.parametrize(
    "facts",
    [
        {"dtype": "float16"},
        {"quantization": Quantization(group_size=64, bits=4)},
        {"dtype": "bfloat16", "architectures": ["LlamaForTokenClassification"]},
    ],
)
def test_what_nothing_depends_on_is_set_as_replace_sets_it(facts: dict[str, Any]) -> None:
    config = LlamaConfig(**SMALL, foo=1)
    replaced, described = config.replace(**facts), config.describing(**facts)
    assert replaced == described and replaced.to_dict() == described.to_dict() and replaced != config
    assert dict(replaced.provenance) == dict(described.provenance)
    assert replaced.replace(hidden_size=128) == described.replace(hidden_size=128)
    with pytest.raises(TypeError, match="hidden_size: other fields depend on it"):
        config.describing(hidden_size=128)


def test_value_semantics() -> None:
    one, two = LlamaConfig(**SMALL, foo=[1]), LlamaConfig.from_dict({**SMALL, "foo": [1]})
    assert one == two
    assert one.provenance != two.provenance
    assert hash(one) == hash(two)
    assert one != LlamaConfig(**SMALL, foo=[2])
    assert one != 3
    for copied in (copy.deepcopy(one), copy.copy(one), pickle.loads(pickle.dumps(one))):
        assert copied == one
        assert copied.provenance == one.provenance
        assert copied.replace(vocab_size=100).foo == [1]
        copied.vocab_size = 98
        assert (one.vocab_size, copied.vocab_size) == (99, 98)
    mine = {"foo": {"a": [1]}}
    kept = LlamaConfig.from_dict({**SMALL, **mine})
    mine["foo"]["a"].append(2)
    assert kept.foo == {"a": [1]}


def test_repr_is_short_and_makes_an_equal_config() -> None:
    config = LlamaConfig(
        **SMALL,
        rope_scaling={"type": "longrope", **SCALINGS["longrope"]},
        eos_token_id=[1, 2],
        num_labels=3,
        foo={"a": 1},
        **{"b-c": None},
    )
    assert eval(repr(config)) == config
    assert repr(LlamaConfig()) == "LlamaConfig()"
    assert repr(LlamaConfig(vocab_size=99)) == "LlamaConfig(vocab_size=99)"
    assert eval(repr(config.rope_parameters)) == config.rope_parameters


def test_unknown_attributes() -> None:
    config = LlamaConfig(**SMALL, foo=1)
    assert config.foo == 1
    assert not hasattr(config, "bar")
    with pytest.raises(AttributeError, match="LlamaConfig has no field 'bar'"):
        _ = config.bar


def test_keys_that_would_change_what_is_computed() -> None:
    said = {
        "logit_scale": 0.5,
        "qk_norm": True,
        "num_experts": 8,
        "layer_types": ["full_attention", "chunked_attention"],
    }
    assert set(changes_the_model(said)) == set(said)
    assert changes_the_model({"num_experts": 1, "logit_scale": 1.0, "layer_types": ["full_attention"]}) == []
