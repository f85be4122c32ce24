"""Layers of defaults below a call's own options: the checkpoint's, and a ``generation_config`` that is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import warn
from ..messages import shortened
from .cache_kinds import check_cache
from .config import FILE, read_file
from .not_offered import NOT_OFFERED, WITHOUT_EFFECT, does_nothing, refuse_unless_inert
from .option_rules import ALIASES, CALLABLES, OPTION_RULES, check_option

_OF_CALLS = frozenset({
    "stop", "stop_token_ids", "logit_bias", "seed", "logprobs", "skip_special_tokens", "batch_size", *CALLABLES,
    "negative_prompt_ids", "negative_prompt_attention_mask", "adapter",
})  # fmt: skip
"""Options that are polyllama's own, or of calls alone: a generation_config has no such keys."""

_IDS_THAT_MAY_BE_UNSET = frozenset({"pad_token_id", "bos_token_id"})

_LIMITS = ("max_new_tokens", "max_length")


@dataclass(frozen=True)
class GenerationDefaults:
    """Defaults of a request: option name -> checked value, what they are from, and the keys not honoured.

    Attributes:
        sources: option name -> what its value is from, where that is not `source`.
        asked: the options that this program asks for, and no file.

    >>> GenerationDefaults.from_dict({"temperature": 0.6, "do_sample": True}).values["temperature"]
    0.6
    """

    values: Mapping[str, Any]
    source: str
    not_honoured: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    asked: frozenset[str] = frozenset()

    @classmethod
    def from_pretrained(cls, folder: Path) -> GenerationDefaults | None:
        """Read ``generation_config.json`` of a checkpoint folder; ``None`` where there is none.

        Warns:
            PolyllamaWarning: once, naming every key that would change the output and is not honoured.

        Raises:
            GenerationError: the file is unreadable or not a JSON object, or one of its values is wrong.
        """
        path = Path(folder) / FILE
        return cls.from_dict(read_file(path), source=str(path)) if path.is_file() else None

    @classmethod
    def from_dict(
        cls, raw: Mapping[str, Any], *, source: str = "generation_config", strict: bool = False
    ) -> GenerationDefaults:
        """Read the content of a ``generation_config.json``; ``null`` counts as not given.

        Args:
            strict: refuse what is not honoured, as it is asked for by this program and not by a file.

        Warns and raises as :meth:`from_pretrained` does.
        """
        values: dict[str, Any] = {}
        ignored: dict[str, Any] = {}
        for key, value in raw.items():
            name = ALIASES.get(key, key)
            if value is None or key.startswith("_") or key == "transformers_version":
                continue
            if key in _IDS_THAT_MAY_BE_UNSET and isinstance(value, int) and value < 0:
                continue
            if name in OPTION_RULES and key not in _OF_CALLS:
                values[name] = check_option(name, value, where=f"{source}: ")
            elif strict and key in NOT_OFFERED:
                refuse_unless_inert(key, value, f" (from {source})")
            elif strict and key == "cache_implementation":
                check_cache(value)
            elif not _is_harmless(key, value):
                ignored[key] = value
        if ignored:
            listing = ", ".join(f"{key}={_short(value)}" for key, value in ignored.items())
            warn(f"{source}: not honoured, so the output may differ from the one intended: {listing}")
        return cls(MappingProxyType(values), source, tuple(ignored), asked=frozenset(values if strict else ()))

    def over(self, other: GenerationDefaults | None) -> GenerationDefaults:
        """These defaults, and the `other` ones where they say nothing; a limit of these sets aside both others."""
        if other is None:
            return self
        below = dict(other.values)
        if any(name in self.values for name in _LIMITS):
            below = {name: value for name, value in below.items() if name not in _LIMITS}
        sources = {name: other.origin(name) for name in below if name not in self.values}
        values = MappingProxyType({**below, **self.values})
        ignored = (*other.not_honoured, *self.not_honoured)
        return GenerationDefaults(values, self.source, ignored, sources, self.asked | other.asked)

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping that is only a view cannot be copied or pickled; what is made of the content can.
        return _made, (dict(self.values), self.source, self.not_honoured, dict(self.sources), self.asked)

    def origin(self, name: str) -> str:
        """What the value of an option is from."""
        return self.sources.get(name, self.source)


def _made(values: dict[str, Any], *more: Any) -> GenerationDefaults:
    return GenerationDefaults(MappingProxyType(values), *more)


def _is_harmless(key: str, value: Any) -> bool:
    """Whether a key of a file that is no option here changes nothing that is generated."""
    if key in NOT_OFFERED:
        return NOT_OFFERED[key].needs is not None or does_nothing(key, value)
    return key in WITHOUT_EFFECT or (key == "cache_implementation" and value != "quantized")


def _short(value: Any) -> str:
    return shortened(json.dumps(value, default=str), 40)
