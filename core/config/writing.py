"""A configuration written down: as the content of a config.json, and as an expression of Python."""

from __future__ import annotations

from collections.abc import Mapping
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

from .resolve import DEFAULTS
from .rope import RopeParameters

if TYPE_CHECKING:
    from .fields import ConfigFields

_WRITTEN_APART = ("rope_parameters", "id2label", "label2id", "quantization", "extra")
_OPTIONAL = ("dtype", "problem_type", "classifier_dropout", "hidden_dropout")


def as_dict(config: ConfigFields) -> dict[str, Any]:
    """See :meth:`polyllama.LlamaConfig.to_dict`."""
    found: dict[str, Any] = {"model_type": config.model_type}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if name in _WRITTEN_APART or (value is None and name in _OPTIONAL):
            continue
        found[name] = list(value) if isinstance(value, list) else value
    if not config.architectures:
        del found["architectures"]
    if config.dtype is not None:
        found["torch_dtype"] = config.dtype
    if config.quantization is not None:  # the second is where the Hub looks
        found["quantization"] = found["quantization_config"] = config.quantization.to_dict()
    if config.id2label != {0: "LABEL_0", 1: "LABEL_1"}:
        found["id2label"] = {str(number): label for number, label in config.id2label.items()}
        found["label2id"] = dict(config.label2id)
    rope = config.rope_parameters
    found["rope_parameters"] = rope.to_dict()
    found["rope_theta"] = rope.rope_theta
    found["rope_scaling"] = rope.scaling_dict()
    if rope.partial_rotary_factor != 1.0:
        found["partial_rotary_factor"] = rope.partial_rotary_factor
    if rope.rope_type == "longrope":  # transformers 4 looks for it there
        found["original_max_position_embeddings"] = rope.original_max_position_embeddings
    written: dict[str, Any] = config.extra | found
    return written


def as_expression(config: ConfigFields, provenance: Mapping[str, str]) -> str:
    """What is not at its default, as an expression that makes an equal config."""
    shown = []
    for name in type(config).model_fields:
        value = getattr(config, name)
        if name in ("label2id", "extra") or (name in DEFAULTS and value == DEFAULTS[name]):
            continue
        if provenance[name].startswith("derived") and name in ("num_key_value_heads", "head_dim"):
            continue
        if name == "id2label" and value == {0: "LABEL_0", 1: "LABEL_1"}:
            continue
        if name == "rope_parameters" and value == RopeParameters():
            continue
        shown.append(f"{name}={value!r}")
    plain = {name: value for name, value in config.extra.items() if name.isidentifier() and not iskeyword(name)}
    shown += [f"{name}={value!r}" for name, value in plain.items()]
    if len(plain) < len(config.extra):
        shown.append(f"**{ {name: value for name, value in config.extra.items() if name not in plain}!r}")
    return f"{type(config).__name__}({', '.join(shown)})"
