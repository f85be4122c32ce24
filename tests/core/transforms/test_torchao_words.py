"""``TorchAoConfig``: what its words ask for, and which of them are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from polyllama import TorchAoConfig
from polyllama.core.errors import InputError, PolyllamaError, PolyllamaWarning, UnsupportedError
from polyllama.core.quantization.torchao import asked_for


@dataclass
class Int4WeightOnlyConfig:
    """What torchao's object of that name looks like, as far as anybody asks."""

    group_size: int = 128
    set_inductor_config: bool = True
    int4_packing_format: str = "plain"
    use_hqq: bool = False


@dataclass
class Int8WeightOnlyConfig:
    group_size: int | None = None


@dataclass
class Float8WeightOnlyConfig:
    pass


@pytest.mark.parametrize(
    ("config", "quantize"),
    [
        (TorchAoConfig("int4_weight_only"), "int4-g128"),
        (TorchAoConfig("int4_weight_only", group_size=32), "int4-g32"),
        (TorchAoConfig("int8_weight_only"), "int8-g64"),
        (TorchAoConfig(Int4WeightOnlyConfig(group_size=64)), "int4-g64"),
        (TorchAoConfig(quant_type=Int8WeightOnlyConfig()), "int8-g64"),
    ],
)
def test_what_is_asked_for(config: TorchAoConfig, quantize: str) -> None:
    assert config.quantize == quantize
    again = TorchAoConfig.from_dict(config.to_dict())
    assert again.quantize == quantize and again.to_dict() == config.to_dict()
    found = asked_for(config.to_dict())
    assert isinstance(found, TorchAoConfig) and found.quantize == quantize
    assert asked_for(config) is config


def test_it_is_written_as_transformers_4_writes_it() -> None:
    assert TorchAoConfig("int4_weight_only", group_size=128).to_dict() == {
        "quant_method": "torchao",
        "quant_type": "int4_weight_only",
        "quant_type_kwargs": {"group_size": 128},
        "modules_to_not_convert": None,
        "include_input_output_embeddings": False,
        "untie_embedding_weights": False,
    }


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("int8_dynamic_activation_int8_weight", {}, r"is not offered here; the nearest is TorchAoConfig\('int8_weight"),
        ("float8_weight_only", {}, "nearest is TorchAoConfig.'int8_weight_only'"),
        ("autoquant", {}, "torchao's autoquant is not offered here"),
        (Float8WeightOnlyConfig(), {}, "torchao's Float8WeightOnlyConfig is not offered here"),
        ("int4_weight_onyl", {}, "did you mean 'int4_weight_only'"),
        ("int4_weight_only", {"group_size": 256}, "group_size=256: .* 32, 64, 128 inputs; use group_size=128"),
        ("int4_weight_only", {"group_size": True}, "group_size=True"),
        ("int4_weight_only", {"grup_size": 64}, "has no option 'grup_size'.*did you mean 'group_size'"),
        ("int4_weight_only", {"use_hqq": True}, "HQQ rounding is not offered"),
        ("int4_weight_only", {"untie_embedding_weights": True}, "untie_embedding_weights=True is not offered"),
        (Int4WeightOnlyConfig(use_hqq=True), {}, "HQQ rounding is not offered"),
    ],
)  # fmt: skip
def test_what_is_refused(given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolyllamaError, match=message):
        TorchAoConfig(given, **options)


def test_torchaos_layout_has_no_meaning_and_that_is_said() -> None:
    with pytest.warns(PolyllamaWarning, match="int4_packing_format: about torchao's layout"):
        assert TorchAoConfig("int4_weight_only", int4_packing_format="plain").quantize == "int4-g128"


def test_other_methods_are_refused_by_name() -> None:
    import transformers

    four = transformers.BitsAndBytesConfig(load_in_4bit=True)
    eight = transformers.BitsAndBytesConfig(load_in_8bit=True)
    for config, message in [
        (four, "BitsAndBytesConfig is not offered.*use quantize='int4'"),
        (eight, "BitsAndBytesConfig is not offered.*use quantize='int8'"),
        (transformers.AwqConfig(bits=4), "AwqConfig is not offered.*quantize='int4'"),
        ({"quant_method": "gptq", "bits": 8}, "method 'gptq' is not offered.*quantize='int8'"),
        ({"some": 1}, "method 'unknown'"),
    ]:
        with pytest.raises(UnsupportedError, match=message):
            asked_for(config)
    with pytest.raises(InputError, match="quantization_config is a int"):
        asked_for(4)
    with pytest.raises(InputError, match="without quant_type"):
        asked_for({"quant_method": "torchao"})
    assert asked_for(None) is None


def test_transformers_own_config_is_read_without_torchao() -> None:
    import transformers

    theirs = object.__new__(transformers.TorchAoConfig)  # its __init__ asks for torchao
    theirs.quant_type = Int4WeightOnlyConfig(group_size=32)
    theirs.modules_to_not_convert = ["lm_head"]
    theirs.include_input_output_embeddings = True
    found = asked_for(theirs)
    assert isinstance(found, TorchAoConfig) and found.quantize == "int4-g32"
    assert found.include_input_output_embeddings and found.keeps("lm_head") and not found.keeps("model.lm_head_x")
