"""Defaults of a tokenizer's methods: sides, lengths, clean-up, chat template."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import TokenizerError
from ..messages import subject
from .declared import SPECIAL_ROLES
from .files import max_length

SIDES = ("left", "right")


@dataclass
class Behaviour:
    """Defaults of the methods; each can be overridden in a call."""

    clean_up_tokenization_spaces: bool = False
    spaces_between_special_tokens: bool = False
    use_default_system_prompt: bool = False
    split_special_tokens: bool = False
    model_max_length: int | None = None
    padding_side: str = "left"
    truncation_side: str = "right"
    chat_template: str | dict[str, str] | None = None
    # a checkpoint's tokenizer_config.json asks for clean-up, which is not done unless the caller asks too
    clean_up_unheeded: bool = False
    kept: dict[str, Any] = field(default_factory=dict)  # keys of tokenizer_config.json to write back as they were


def read_behaviour(options: dict[str, Any], source: str) -> Behaviour:
    """Read the defaults out of a constructor's remaining keyword arguments; one that is unknown is an error."""
    kinds: dict[str, tuple[type, ...]] = {
        "clean_up_tokenization_spaces": (bool,),
        "spaces_between_special_tokens": (bool,),
        "use_default_system_prompt": (bool,),
        "split_special_tokens": (bool,),
        "padding_side": (str,),
        "truncation_side": (str,),
        "chat_template": (str, dict, type(None)),
        "kept": (dict,),
    }
    if "model_max_length" in options:
        options["model_max_length"] = max_length(options["model_max_length"], f"{source}: model_max_length")
    for name, value in options.items():
        if name != "model_max_length" and name not in kinds:
            known = (*kinds, "model_max_length", "additional_special_tokens", "added_tokens_decoder", *SPECIAL_ROLES)
            raise TokenizerError(
                f"unknown argument {name}={value!r:.60}",
                hint=f"known beside the documented ones: {', '.join(sorted(known))}",
            )
        if name in kinds and not isinstance(value, kinds[name]):
            raise TokenizerError(f"{name} must be a {kinds[name][0].__name__}, got {value!r:.80}")
    return Behaviour(**options)


def checked_side(value: str, argument: str) -> str:
    """Return `value`, which must be one of :data:`SIDES`; an error names `argument`."""
    if value not in SIDES:
        raise TokenizerError(subject(argument, value) + f" must be 'left' or 'right', got {value!r:.80}")
    return value
