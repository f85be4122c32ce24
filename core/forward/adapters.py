"""Which adapter each row of a pass has: by name, as callers say it; by place in the graph's list, for a pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..messages import counted, did_you_mean, mention, subject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NONE = -1
"""The place of a row that has no adapter."""


def named_adapters(adapters: Sequence[str], given: Any, count: int, what: str = "prompt") -> tuple[str | None, ...]:
    """The adapter of each of so many rows, as somebody gives it: one name for all of them, or a list.

    Args:
        adapters: names of those that are loaded.
        what: what a row is called in messages.

    Raises:
        InputError: an adapter that is not loaded, or a list of another length.

    >>> named_adapters(("poems", "code"), ["code", None], 2)
    ('code', None)
    >>> named_adapters(("poems", "code"), "poem", 2)
    Traceback (most recent call last):
    ...
    polyllama.extend.InputError: no adapter 'poem' is loaded; did you mean 'poems'?
    """
    if given is None or isinstance(given, str):
        names: tuple[Any, ...] = (given,) * count
    elif isinstance(given, Sequence):
        names = tuple(given)
        if len(names) != count:
            raise InputError(
                subject("adapter", given) + f" names {counted(len(names), 'adapter')} for {counted(count, what)}",
                hint=f"give one for each {what}, None for none, or a single name for all",
            )
    else:
        raise InputError(subject("adapter", given) + f" is {given!r:.80}", hint="give the name of one, or a list")
    for name in names:
        if name is not None and name not in adapters:
            raise _unknown(name, adapters)
    return names


def _unknown(name: Any, adapters: Sequence[str]) -> InputError:
    if not adapters:
        loading = mention("adapters", shown=f"{{{name!r}: folder}}")
        return InputError(f"no adapter {name!r:.80} is loaded, and no other", hint="load the model with " + loading)
    otherwise = f"there are {', '.join(adapters)}; None is the model without any"
    return InputError(f"no adapter {name!r:.80} is loaded", hint=did_you_mean(name, adapters, otherwise))


def place_of(adapters: Sequence[str], name: str | None) -> int:
    """The place of an adapter that is loaded.

    >>> place_of(("poems", "code"), "code"), place_of(("poems", "code"), None)
    (1, -1)
    """
    return NONE if name is None else adapters.index(name)


def adapter_rows(adapters: Sequence[str], names: Sequence[str | None]) -> NDArray[np.int64] | None:
    """What :class:`~polyllama.extend.ForwardArguments` takes for rows of these adapters.

    >>> adapter_rows(("poems", "code"), ("code", None)).tolist(), adapter_rows(("poems", "code"), (None, None))
    ([1, -1], None)
    """
    import numpy as np

    if all(name is None for name in names):
        return None
    return np.array([place_of(adapters, name) for name in names], np.int64)
