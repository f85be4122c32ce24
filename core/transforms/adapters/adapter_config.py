"""What an adapter_config.json says, as far as it changes what is computed: PEFT's, and mlx-lm's of the same name."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, UnsupportedError, refuse_lfs_pointer, warn
from .name_patterns import check_patterns, matches

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

_READ = {
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "target_modules",
    "peft_type",
    "init_lora_weights",
}
_OF_TRAINING = {
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
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

_STARTS = {"gaussian", "eva", "orthogonal", "mica"}
"""Values of init_lora_weights that leave the base model's weights as they are. Others (PiSSA, OLoRA, CorDA, LoftQ,
LoRA-GA) take the first product of the factors out of them, so that the adapter fits the changed weights only."""


@dataclass(frozen=True)
class AdapterSettings:
    """The numbers of an adapter.

    Attributes:
        rank, alpha: of every module that no pattern names.
        rank_pattern, alpha_pattern: regular expressions of module names -> another rank or alpha.
        rslora: divide alpha by the square root of the rank instead of the rank.
        dora: weights are a direction that LoRA changes and a magnitude for each output.
        targets: module names that were asked for; a text is a regular expression.
        partial: whether further settings leave some of these modules out.
        scale: of every module, in place of what alpha and rank make.
        mlx: saved by mlx-lm, where an adapted embedding changes a head that is tied to it too.
    """

    file: Path
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False
    dora: bool = False
    targets: tuple[str, ...] | str = ()
    partial: bool = False
    scale: float | None = None
    mlx: bool = False

    def rank_of(self, module: str) -> int:
        """The rank that the settings give a module, by its name in the model that was trained."""
        return int(_by_pattern(self.rank_pattern, module, self.rank))

    def scale_of(self, module: str) -> float:
        """What the product of a module's two matrices is multiplied by.

        >>> AdapterSettings(Path("adapter_config.json"), 8, 16).scale_of("layers.0.self_attn.q_proj")
        2.0
        """
        if self.scale is not None:
            return self.scale
        rank, alpha = self.rank_of(module), float(_by_pattern(self.alpha_pattern, module, self.alpha))
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def unused_patterns(self, modules: Collection[str]) -> list[str]:
        """Patterns that are the end of no module's name, each with the field that it stands in."""
        return [
            f"{name} of {pattern!r}"
            for name in ("rank_pattern", "alpha_pattern")
            for pattern in getattr(self, name)
            if not any(matches(pattern, module) for module in modules)
        ]


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that is the end of a module's name, as PEFT looks it up."""
    for pattern, value in patterns.items():
        if matches(pattern, module):
            return value
    return default


def read_settings(file: Path) -> AdapterSettings:
    """Read and check an adapter_config.json.

    Raises:
        CheckpointError: not there, not JSON, or fields of the wrong kind.
        UnsupportedError: another method than LoRA, or a variant of it that is not done here; named.
    """
    try:
        content = file.read_bytes()
        refuse_lfs_pointer(content[:64], file, CheckpointError)
        raw = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"{file}: cannot be read ({reason})", hint="an adapter is a folder that has it") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{file}: is no JSON object")
    if "fine_tune_type" in raw or ("lora_parameters" in raw and "peft_type" not in raw):
        return _mlx_settings(file, raw)
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
    for name in ("rank_pattern", "alpha_pattern"):
        check_patterns(file, name, _object(file, raw, name))
    _check_start(file, raw.get("init_lora_weights"))
    targets = raw.get("target_modules") or ()
    return AdapterSettings(
        file,
        _rank(file, "r", raw.get("r", 8)),
        _number(file, "lora_alpha", raw.get("lora_alpha", 8)),
        {k: _rank(file, f"rank_pattern.{k}", v) for k, v in _object(file, raw, "rank_pattern").items()},
        {k: _number(file, f"alpha_pattern.{k}", v) for k, v in _object(file, raw, "alpha_pattern").items()},
        _truth(file, raw, "use_rslora"),
        _truth(file, raw, "use_dora"),
        targets if isinstance(targets, str) else tuple(map(str, targets)),
        any(raw.get(name) for name in ("exclude_modules", "layers_to_transform", "layers_pattern")),
    )


def _check_start(file: Path, start: Any) -> None:
    """Refuse an adapter whose training began by changing the base model's weights, which the base's file has not."""
    if start is None or isinstance(start, bool) or (isinstance(start, str) and start.lower() in _STARTS):
        return
    raise UnsupportedError(
        f"{file}: init_lora_weights is {start!r:.80}: the adapter fits base weights that were changed before training, "
        "not those that the base model's files hold",
        hint="save it with peft's save_pretrained(..., path_initial_model_for_weight_conversion=...), or merge it with "
        "peft; if the base that you load is the changed one, set init_lora_weights to true",
    )


_MLX_METHODS = ("lora", "dora", "full")


def _mlx_settings(file: Path, raw: Mapping[str, Any]) -> AdapterSettings:
    """The settings in mlx-lm's file: the arguments of a training run, of which three matter here."""
    method = raw.get("fine_tune_type", "lora")
    if method not in _MLX_METHODS:
        raise UnsupportedError(
            f"{file}: fine_tune_type is {method!r}; of mlx-lm's methods {', '.join(_MLX_METHODS)} are known here",
            hint="fuse the adapter with mlx_lm.fuse",
        )
    if method == "full":  # whole weights: there is neither a rank nor a scale
        return AdapterSettings(file, 1, 1.0, mlx=True)
    numbers = _object(file, raw, "lora_parameters")
    unknown = sorted(set(numbers) - {"rank", "scale", "dropout", "keys", "alpha"})
    if unknown:
        raise UnsupportedError(
            f"{file}: lora_parameters.{unknown[0]}={numbers[unknown[0]]!r} is not known here, and may change what is "
            "computed",
            hint="fuse the adapter with mlx_lm.fuse",
        )
    if "scale" not in numbers:
        raise CheckpointError(f"{file}: lora_parameters has no scale", hint="mlx-lm multiplies by it; add it")
    if "alpha" in numbers:
        warn(f"{file}: lora_parameters.alpha is ignored, as mlx-lm ignores it: it multiplies by scale alone")
    rank = _rank(file, "lora_parameters.rank", numbers.get("rank"))
    scale = _number(file, "lora_parameters.scale", numbers["scale"])
    return AdapterSettings(file, rank, scale * rank, dora=method == "dora", scale=scale, mlx=True)


def _object(file: Path, raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: {name} must be an object, not {value!r}")
    return value


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
