"""The arguments of a call, sorted: options checked, what is not offered refused, what has no effect said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import GenerationError, warn
from ..messages import mention
from .cache_kinds import check_cache
from .not_offered import NOT_OFFERED, WITHOUT_EFFECT, refuse_unless_inert
from .option_rules import ALIASES, OPTION_RULES, check_option, unknown_option_hint

_said: set[tuple[str, ...]] = set()


def warn_once(message: str, *about: str) -> None:
    """Warn of something that a program may do in every call, the first time.

    Args:
        about: what tells it from other warnings: names, and no values, which may differ in each call.
    """
    if about not in _said:
        _said.add(about)
        warn(message)


def read_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The options among the arguments of a call, checked, by their names here; ``None`` counts as not given.

    Raises:
        GenerationError: an argument that generation does not know, or does not offer; a wrong value.

    Warns:
        PolyllamaWarning: once, of arguments about speed and memory that have no effect here.

    >>> read_arguments({"stop_strings": "END", "num_beam_groups": 1, "top_k": None})
    {'stop': ('END',)}
    """
    found: dict[str, Any] = {}
    for given, value in arguments.items():
        name = ALIASES.get(given, given)
        if name in OPTION_RULES:
            if value is None:
                continue
            if name in found:
                raise GenerationError(f"{name} is given twice", hint=f"{given} is another name of it")
            found[name] = check_option(name, value)
        elif name in NOT_OFFERED:
            refuse_unless_inert(name, value)
        elif name == "cache_implementation" or name in WITHOUT_EFFECT:
            if value is not None:
                _say_without_effect(name, value)
        else:
            raise GenerationError(f"generation has no option {name!r}", hint=unknown_option_hint(name))
    return found


def _say_without_effect(name: str, value: Any) -> None:
    if name == "cache_implementation":
        check_cache(value)
        if value == "dynamic":  # what every backend has
            return
    shown = mention(name, value) if isinstance(value, str | bool | int) else mention(name)
    warn_once(shown + " changes nothing here: each backend has a cache of its own and compiles as it needs", name)
