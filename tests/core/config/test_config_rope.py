"""The rotary parameters in every spelling, with transformers as the oracle in both directions."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama.core.config.rope import RopeParameters
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


@pytest.mark.parametrize("kind", SCALINGS)
def test_both_spellings_and_both_type_keys_read_alike(kind: str) -> None:
    block = SCALINGS[kind]
    new = LlamaConfig(**SMALL, rope_parameters={"rope_type": kind, "rope_theta": 5e5, **block})
    assert new == LlamaConfig(**SMALL, rope_theta=500000, rope_scaling={"type": kind, **block})
    assert new == LlamaConfig(**SMALL, rope_theta=500000.0, rope_scaling={"rope_type": kind, "type": kind, **block})
    assert new == LlamaConfig(**SMALL, rope_parameters=RopeParameters(rope_type=kind, rope_theta=5e5, **block))
    written = new.to_dict()
    assert written["rope_theta"] == 5e5
    assert written["rope_parameters"] == {"rope_type": kind, "rope_theta": 5e5, **block}
    if kind == "default":
        assert written["rope_scaling"] is None
    else:
        assert written["rope_scaling"] == {"rope_type": kind, "type": kind, **block}
    without_new = {k: v for k, v in written.items() if k != "rope_parameters"}
    without_old = {k: v for k, v in written.items() if k not in ("rope_theta", "rope_scaling")}
    assert LlamaConfig.from_dict(without_new) == LlamaConfig.from_dict(without_old) == new


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("spelling", ["both", "old", "new"])
def test_transformers_reads_what_we_write(kind: str, spelling: str, tmp_path: Path) -> None:
    from transformers import LlamaConfig as Theirs
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    block = {"rope_type": kind, "rope_theta": 12345.0, **SCALINGS[kind]}
    expected = LlamaRotaryEmbedding(Theirs(**SMALL, rope_parameters=copy.deepcopy(block)))
    file = LlamaConfig(**SMALL, rope_parameters=block, dtype="bfloat16").save_pretrained(tmp_path)
    written = json.loads(file.read_text())
    dropped = {"both": [], "old": ["rope_parameters"], "new": ["rope_theta", "rope_scaling"]}[spelling]
    file.write_text(json.dumps({k: v for k, v in written.items() if k not in dropped}))
    theirs = Theirs.from_pretrained(tmp_path)
    found = LlamaRotaryEmbedding(theirs)
    np.testing.assert_array_equal(found.inv_freq.numpy(), expected.inv_freq.numpy())
    assert found.attention_scaling == expected.attention_scaling
    assert theirs.rope_parameters["rope_theta"] == 12345.0
    assert (theirs.head_dim, theirs.num_key_value_heads, str(theirs.dtype)) == (16, 4, "torch.bfloat16")


@pytest.mark.parametrize("kind", SCALINGS)
def test_we_read_what_transformers_writes(kind: str, tmp_path: Path) -> None:
    from transformers import LlamaConfig as Theirs

    block = {"rope_type": kind, "rope_theta": 12345.0, **SCALINGS[kind]}
    Theirs(**SMALL, rope_parameters=copy.deepcopy(block), num_labels=3, dtype="float16", foo="bar").save_pretrained(
        tmp_path
    )
    config = LlamaConfig.from_pretrained(tmp_path)
    assert config.rope_parameters == RopeParameters(**block)
    assert (config.num_labels, config.dtype, config.foo) == (3, "float16", "bar")
    assert config.replace(id2label=None, label2id=None, dtype=None) == LlamaConfig(
        **SMALL, rope_parameters=block, foo="bar", transformers_version=config.transformers_version
    )


def test_su_is_longrope_and_its_original_length_may_lie_outside() -> None:
    block = {"type": "su", "short_factor": [1.0] * 8, "long_factor": [2] * 8}
    config = LlamaConfig(**SMALL, rope_scaling=block, original_max_position_embeddings=64)
    rope = config.rope_parameters
    assert (rope.rope_type, rope.original_max_position_embeddings, rope.factor) == ("longrope", 64, 4.0)
    assert config.provenance["rope_parameters.factor"].startswith("derived: max_position_embeddings /")
    assert config.provenance["rope_parameters.original_max_position_embeddings"].startswith("argument")
    assert config.to_dict()["original_max_position_embeddings"] == 64
    assert LlamaConfig.from_dict(config.to_dict()) == config
    inside = LlamaConfig(**SMALL, rope_scaling={**block, "original_max_position_embeddings": 64})
    assert inside == config
    assert "contradict" in error(
        rope_scaling={**block, "original_max_position_embeddings": 64}, original_max_position_embeddings=32
    )


def test_original_length_beside_a_type_that_does_not_read_it_is_kept() -> None:
    config = LlamaConfig(**SMALL, original_max_position_embeddings=64)
    assert config.extra == {"original_max_position_embeddings": 64}
    assert config.to_dict()["original_max_position_embeddings"] == 64


def test_yarn_defaults() -> None:
    config = LlamaConfig(**SMALL, rope_scaling={"type": "yarn", "factor": 2.0})
    rope = config.rope_parameters
    assert (rope.beta_fast, rope.beta_slow, rope.truncate, rope.attention_factor) == (32.0, 1.0, True, None)
    assert rope.original_max_position_embeddings == 256
    assert config.provenance["rope_parameters.original_max_position_embeddings"] == "derived: max_position_embeddings"
    assert config.provenance["rope_parameters.beta_fast"] == "default"
    assert config.replace(max_position_embeddings=512).rope_parameters.original_max_position_embeddings == 512


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (
            {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 64},
            "not used.*max_position_embeddings=256",
        ),
        ({"type": "yarn", "factor": 2.0, "mscale": 0.7}, "mscale=0.7 is not used.*mscale_all_dim"),
        ({"type": "yarn", "factor": 2.0, "mscale_all_dim": 0.7}, "mscale_all_dim=0.7 is not used.*mscale"),
    ],
)
def test_parameters_without_effect_are_said(rope: dict[str, Any], message: str) -> None:
    with pytest.warns(PolyllamaWarning, match=message):
        LlamaConfig(**SMALL, rope_scaling=rope)


@pytest.mark.parametrize(
    ("rope", "said", "read"),
    [
        ({"type": "linear", "factor": 2.0, "beta_fast": 3}, ['beta_fast=3 is not used: rope_type "linear" does'], {}),
        (
            {"rope_type": "default", "factor": 1.0, "original_max_position_embeddings": 64},
            ["factor=1.0 is not used", "original_max_position_embeddings=64 is not used"],
            {"rope_type": "default"},
        ),
        ({"factor": 1.0}, ["rope_scaling.factor=1.0 is not used"], {"rope_type": "default"}),
        ({"type": "linear", "factor": 2.0, "mrope_section": [1]}, ["mrope_section=[1] is not used"], {}),
        (
            {"type": "yarn", "factor": 2.0, "attn_factor": 1.0, "extrapolation_factor": 1.0},
            ["attn_factor=1.0 is not used", "extrapolation_factor=1.0 is not used"],
            {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": SMALL["max_position_embeddings"]},
        ),
    ],
)
def test_in_a_file_parameters_of_other_types_are_said_and_left_out(
    rope: dict[str, Any], said: list[str], read: dict[str, Any]
) -> None:
    with pytest.warns(PolyllamaWarning) as caught:
        config = LlamaConfig.from_dict({**SMALL, "rope_scaling": rope}, source="config.json")
    assert [any(text in str(w.message) for w in caught) for text in said] == [True] * len(said) == [True] * len(caught)
    assert config.rope_parameters == RopeParameters(**read or {"rope_type": "linear", "factor": 2.0})
    with pytest.raises(ConfigError):
        LlamaConfig(**SMALL, rope_scaling=rope)


@pytest.mark.parametrize("rope", [{"type": "linear", "factor": 2.0, "factr": 3}, {"factor": 2.0}, {"type": "bogus"}])
def test_in_a_file_too_a_misspelt_parameter_or_a_missing_type_is_an_error(rope: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="rope_scaling"):
        LlamaConfig.from_dict({**SMALL, "rope_scaling": rope}, source="config.json")


LONG = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
LLAMA3 = {"rope_type": "llama3", **SCALINGS["llama3"]}


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"type": "bogus", "factor": 2.0}, 'rope_scaling.type="bogus" is not a known type; use one of default, linear'),
        ({"rope_type": "lama3"}, 'did you mean "llama3"'),
        ({"rope_type": 7}, "rope_scaling.rope_type=7 is not a known type"),
        ({"type": "linear"}, "rope_scaling.factor is missing"),
        ({"type": "linear", "factor": 0.5}, "rope_scaling.factor=0.5 must be at least 1"),
        ({"type": "linear", "factor": "2"}, 'rope_scaling.factor="2" must be a number: write 2 without quotes'),
        ({"type": "linear", "factor": True}, "rope_scaling.factor=true must be a number"),
        ({"type": "linear", "factor": float("inf")}, "rope_scaling.factor=inf must be a finite number"),
        ({"type": "linear", "factor": 2.0, "beta_fast": 3}, "beta_fast=3 does not belong to rope_type"),
        ({"type": "linear", "factor": 2.0, "factr": 3}, r'factr=3 is not a RoPE parameter \(did you mean "factor"'),
        ({"type": "default", "factor": 2.0}, 'factor=2.0 does not belong to rope_type "default"'),
        ({"factor": 2.0}, "rope_scaling.rope_type is missing beside factor"),
        ({"type": "linear", "rope_type": "yarn", "factor": 2.0}, 'rope_type="yarn" and type="linear" contradict'),
        ({**LLAMA3, "low_freq_factor": 4.0, "high_freq_factor": 1.0}, "low_freq_factor=4.0 must be less than"),
        ({**LLAMA3, "low_freq_factor": 4.0}, "low_freq_factor=4.0 must be less than high_freq_factor=4.0"),
        ({**LLAMA3, "original_max_position_embeddings": 8192.0}, "must be an integer: write 8192"),
        ({k: v for k, v in LLAMA3.items() if k != "high_freq_factor"}, "high_freq_factor is missing"),
        (
            {"type": "yarn", "factor": 2.0, "beta_fast": 1, "beta_slow": 32},
            "beta_fast=1.* must be at least beta_slow=32",
        ),
        ({"type": "yarn", "factor": 2.0, "beta_fast": 0}, "beta_fast=0 must be greater than 0"),
        ({"type": "yarn", "factor": 2.0, "rope_theta": 1}, "rope_theta=1 must be greater than 1"),
        ({"type": "yarn", "factor": 2.0, "truncate": "false"}, "truncate.*must be true or false: write false without"),
        ({**LONG, "short_factor": [1.0] * 7}, "short_factor has 7 numbers; it must have 8, half of head_dim=16"),
        ({**LONG, "long_factor": [2.0] * 7 + [0]}, "long_factor=.* must hold positive numbers"),
        ({**LONG, "long_factor": [2.0] * 7 + ["2"]}, r'long_factor\[7\]="2" must be a number'),
        ({**LONG, "long_factor": 2.0}, "long_factor=2.0 must be a list of numbers"),
        ({**LONG, "original_max_position_embeddings": 1}, "must be at least 2 for longrope"),
        ("linear", 'rope_scaling="linear" must be an object such as'),
        ([], r"rope_scaling=\[\] must be an object such as"),
    ],
)
def test_rope_mistakes(rope: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LlamaConfig(**SMALL, rope_scaling=rope)


def test_rope_parameters_alone_raise_config_errors() -> None:
    with pytest.raises(ConfigError, match=r"RopeParameters: factor=0.5 must be at least 1"):
        RopeParameters(rope_type="linear", factor=0.5)
    with pytest.raises(ConfigError, match="frozen"):
        RopeParameters().rope_theta = 3.0


def test_equal_parameters_are_one_key_of_a_dictionary() -> None:
    other = {"rope_type": "longrope", "short_factor": (1,) * 8, "long_factor": (2,) * 8, "rope_theta": 10000}
    assert {RopeParameters(**LONG): 1}[RopeParameters(**other)] == 1
    changed = [
        {**LONG, field: value} for field, value in (("rope_theta", 5e5), ("long_factor", [3.0] * 8), ("factor", 2))
    ]
    assert len({RopeParameters(**block) for block in (LONG, other, *changed)}) == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rope_theta": 10000, "rope_parameters": {"rope_theta": 500000.0}},
            "rope_parameters.rope_theta=500000.0 and rope_theta=10000 contradict each other; "
            "remove rope_parameters.rope_theta if 10000 is right, or rope_theta if 500000.0 is",
        ),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2.0}},
            'rope_parameters.rope_type="default" and rope_scaling.type="linear" contradict',
        ),
        (
            {"rope_parameters": {"type": "linear", "factor": 2}, "rope_scaling": {"type": "linear", "factor": 4}},
            "rope_parameters.factor=2 and rope_scaling.factor=4 contradict",
        ),
        (
            {"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.25}},
            "rope_parameters.partial_rotary_factor=0.25 and partial_rotary_factor=0.5 contradict",
        ),
        ({"dtype": "bfloat16", "torch_dtype": "float16"}, 'dtype="bfloat16" and torch_dtype="float16" contradict'),
    ],
)
def test_contradicting_spellings_name_both_and_the_remedy(fields: dict[str, Any], message: str) -> None:
    assert message in error(**fields)


def test_agreeing_spellings_are_fine() -> None:
    config = LlamaConfig(
        **SMALL, rope_theta=5e5, rope_parameters={"rope_theta": 500000}, dtype="float16", torch_dtype="float16"
    )
    assert (config.rope_theta, config.dtype) == (5e5, "float16")
