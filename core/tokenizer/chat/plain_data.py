"""What a chat template is given: text, numbers, lists and mappings, copied, and nothing that it could call."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from ...errors import TokenizerError


def as_plain(value: object, what: str) -> Any:
    """Return a copy of a value made of ``None``, ``bool``, ``int``, ``float``, ``str``, lists, tuples and dictionaries.

    A template is a stranger's program, and its sandbox does not know the methods of other objects, such as an array's
    ``tofile``. Members of an ``Enum`` that are texts or numbers become these, and so do NumPy's scalars.

    Errors: TokenizerError that says what holds a value of another type; `what` names the whole.

    >>> as_plain([{"role": "user", "content": ("a", 1.5)}], "messages")
    [{'role': 'user', 'content': ('a', 1.5)}]
    """
    try:
        return _plain(value, what)
    except RecursionError:
        raise TokenizerError(f"{what} holds itself, or is nested too deep for a chat template") from None


def _plain(value: Any, what: str) -> Any:
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(key, what): _plain(item, f"{what}[{key!r:.40}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = (_plain(item, f"{what}[{place}]") for place, item in enumerate(value))
        return tuple(items) if isinstance(value, tuple) else list(items)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if str(getattr(value, "dtype", "")) == "bool" and getattr(value, "shape", None) == ():  # NumPy's True
        return bool(value)
    raise TokenizerError(
        f"{what} is {value!r:.80} ({type(value).__name__}), which a chat template cannot be given",
        hint="give text, numbers, True, False, None, and lists and mappings of them",
    )
