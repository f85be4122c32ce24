"""Defaults of a tokenizer's methods: sides, lengths, clean-up, chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..arguments import meant
from ..errors import TokenizerError, warn
from ..messages import subject
from .declared import SPECIAL_ROLES
from .files import chat_templates, max_length

SIDES = ("left", "right")

_KINDS: dict[str, tuple[type, ...]] = {
    "clean_up_tokenization_spaces": (bool,),
    "spaces_between_special_tokens": (bool,),
    "use_default_system_prompt": (bool,),
    "split_special_tokens": (bool,),
    "padding_side": (str,),
    "truncation_side": (str,),
    "chat_template": (str, dict, type(None)),
    "name_or_path": (str,),
}
KNOWN_ARGUMENTS = (
    *_KINDS,
    *SPECIAL_ROLES,
    *("model_max_length", "additional_special_tokens", "extra_special_tokens", "added_tokens_decoder"),
    *("vocab_file", "tokenizer_file", "vocab", "merges", "sp_model_kwargs"),
    *("add_bos_token", "add_eos_token", "legacy", "add_prefix_space"),
)
_OF_LOADING = frozenset({"from_slow", "use_fast", "verbose", "tokenizer_class", "processor_class", "backend"})
"""Arguments about how transformers loads and which of its classes: the ids here are the same in any case."""
_MISSPELT = 0.82
""""add_bos" and "pad_tokens" are as close as this, "image_token" is not."""


OF_FILES = "_of_files"
"""What loading calls the argument that holds a :class:`SaidInFiles`."""


@dataclass(frozen=True)
class SaidInFiles:
    """What a tokenizer_config.json says that no caller does.

    Attributes:
        kept: keys to write back as they were.
        clean_up_unheeded: it asks for clean-up, which is not done unless the caller asks too.
    """

    kept: Mapping[str, Any] = field(default_factory=dict)
    clean_up_unheeded: bool = False


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
    name_or_path: str = ""
    clean_up_unheeded: bool = False
    kept: dict[str, Any] = field(default_factory=dict)


def read_behaviour(options: dict[str, Any], source: str) -> Behaviour:
    """Read the defaults out of a constructor's remaining keyword arguments; others of them are kept, which is said.

    Errors: TokenizerError for values of the wrong type, and for an argument that is probably a misspelt one.
    """
    of_files = options.pop(OF_FILES, None) or SaidInFiles()
    kept = dict(of_files.kept)
    if "model_max_length" in options:
        options["model_max_length"] = max_length(options["model_max_length"], f"{source}: model_max_length")
    found = {name: options.pop(name) for name in list(options) if name == "model_max_length" or name in _KINDS}
    if isinstance(found.get("chat_template"), dict):
        found["chat_template"] = chat_templates(found["chat_template"], "chat_template")
    for name, value in found.items():
        if name in _KINDS and not isinstance(value, _KINDS[name]):
            raise TokenizerError(f"{name} must be a {_KINDS[name][0].__name__}, got {value!r:.80}")
    for name, value in options.items():
        likely = meant(name, KNOWN_ARGUMENTS, cutoff=_MISSPELT)
        if name not in _OF_LOADING and likely is not None:
            raise TokenizerError(f"unknown argument {name}={value!r:.60}", hint=f"did you mean {likely!r}?")
        if name not in _OF_LOADING:
            warn(f"{source}: {name}={value!r:.60} is no argument of a tokenizer; it is kept in init_kwargs, unused")
            kept[name] = value
    return Behaviour(**found, kept=kept, clean_up_unheeded=of_files.clean_up_unheeded)


def checked_side(value: str, argument: str) -> str:
    """Return `value`, which must be one of :data:`SIDES`; an error names `argument`."""
    if value not in SIDES:
        raise TokenizerError(subject(argument, value) + f" must be 'left' or 'right', got {value!r:.80}")
    return value
