"""Checks of options that several tasks take."""

from __future__ import annotations

from ..errors import InputError
from ..messages import subject
from ..public import for_plugins


@for_plugins
def check_whole(value: object, name: str, least: int) -> int:
    """A whole number from `least` up."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(subject(name, value) + f" is {value!r:.80}, wanted a whole number from {least} up")
    return value


@for_plugins
def check_top_k(value: object, everything: int) -> int | None:
    """How many results were asked for: a number, ``"all"``, or ``None`` for the best one alone.

    >>> check_top_k("all", 7), check_top_k(None, 7)
    (7, None)
    """
    if value is None:
        return None
    if value == "all":
        return everything
    if isinstance(value, str):
        raise InputError(subject("top_k", value) + f" is {value!r:.80}", hint="give a number, or 'all'")
    return check_whole(value, "top_k", 1)


@for_plugins
def check_flag(value: object, name: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise InputError(subject(name, value) + f" is {value!r:.80}, wanted True or False")
    return value
