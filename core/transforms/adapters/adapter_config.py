"""What an adapter_config.json says, as far as it changes what is computed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, UnsupportedError

CONFIG_NAME = "adapter_config.json"

_REFUSED = {
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "layer_replication": "layer replication",
    "megatron_config": "Megatron's parallel layers",
    "target_parameters": "LoRA on bare parameters",
    "trainable_token_indices": "retrained token embeddings",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QA-LoRA",
    "fan_in_fan_out": "transposed layers (fan_in_fan_out)",
}
"""Fields that change what is computed in a way that is not done here, and what each is."""

_READ = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "target_modules", "peft_type"}
_OF_TRAINING = {
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_bias",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "monteclora_config",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "velora_config",
}
"""Fields that decide how an adapter came to be; what came of them is in its tensors."""


@dataclass(frozen=True)
class AdapterSettings:
    """The numbers of an adapter.

    Attributes:
        rank, alpha: of every module that no pattern names.
        rank_pattern, alpha_pattern: regular expressions of module names -> another rank or alpha.
        rslora: divide alpha by the square root of the rank instead of the rank.
        dora: weights are a direction that LoRA changes and a magnitude for each output.
        targets: module names that were asked for; a text is a regular expression.
    """

    file: Path
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False
    dora: bool = False
    targets: tuple[str, ...] | str = ()

    def rank_of(self, module: str) -> int:
        """The rank that the settings give a module."""
        return int(_by_pattern(self.rank_pattern, module, self.rank))

    def scale_of(self, module: str) -> float:
        """What the product of a module's two matrices is multiplied by.

        >>> AdapterSettings(Path("adapter_config.json"), 8, 16).scale_of("layers.0.self_attn.q_proj")
        2.0
        """
        rank, alpha = self.rank_of(module), float(_by_pattern(self.alpha_pattern, module, self.alpha))
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that is the end of a module's name, as PEFT looks it up."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def read_settings(file: Path) -> AdapterSettings:
    """Read and check an adapter_config.json.

    Raises:
        CheckpointError: not there, not JSON, or fields of the wrong kind.
        UnsupportedError: another method than LoRA, or a variant of it that is not done here; named.
    """
    try:
        raw = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"{file}: cannot be read ({reason})", hint="an adapter is a folder that has it") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{file}: is no JSON object")
    method = raw.get("peft_type", "LORA")
    if method != "LORA":
        raise UnsupportedError(f"{file}: the adapter is {method}, only LORA is done here", hint="merge it with peft")
    for name, what in _REFUSED.items():
        if raw.get(name):
            raise UnsupportedError(f"{file}: {name} is set: {what} is not done here", hint="merge it with peft")
    unknown = [name for name in raw if name not in _READ | _OF_TRAINING | set(_REFUSED) and raw[name]]
    if unknown:
        raise UnsupportedError(
            f"{file}: {unknown[0]}={raw[unknown[0]]!r} is not known here, and may change what is computed",
            hint="merge the adapter with peft",
        )
    targets = raw.get("target_modules") or ()
    return AdapterSettings(
        file,
        _rank(file, "r", raw.get("r", 8)),
        _number(file, "lora_alpha", raw.get("lora_alpha", 8)),
        {_pattern(file, k): _rank(file, f"rank_pattern.{k}", v) for k, v in _object(file, raw, "rank_pattern").items()},
        {
            _pattern(file, k): _number(file, f"alpha_pattern.{k}", v)
            for k, v in _object(file, raw, "alpha_pattern").items()
        },
        _truth(file, raw, "use_rslora"),
        _truth(file, raw, "use_dora"),
        targets if isinstance(targets, str) else tuple(map(str, targets)),
    )


def _object(file: Path, raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: {name} must be an object, not {value!r}")
    return value


def _pattern(file: Path, text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise CheckpointError(f"{file}: {text!r} is no regular expression ({error})") from None
    return text


def _rank(file: Path, name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{file}: {name} is {value!r}, wanted a positive whole number")
    return value


def _number(file: Path, name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise CheckpointError(f"{file}: {name} is {value!r}, wanted a number")
    return float(value)


def _truth(file: Path, raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name, False)
    if not isinstance(value, bool):
        raise CheckpointError(f"{file}: {name} is {value!r}, wanted true or false")
    return value
