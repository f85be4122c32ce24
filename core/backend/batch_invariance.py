"""What a model says of its rows' bits: for which passes a row gets the same in any company as alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import BackendError

PASSES = ("prefill", "decode")
"""Passes of several tokens a row, and of one. See :class:`~polyllama.extend.Model`."""


def batch_invariant(model: Any) -> frozenset[str]:
    """The passes that a model claims to be the same bit by bit, whatever other rows run; empty where it says nothing.

    Raises:
        BackendError: it claims a pass that there is not.

    >>> from polyllama import Llama
    >>> sorted(batch_invariant(Llama.load("tiny", backend="reference").model))
    []
    """
    claimed: Iterable[str] = getattr(model, "batch_invariant", ())
    found = frozenset(claimed)
    unknown = sorted(found.difference(PASSES))
    if unknown or isinstance(claimed, str):
        raise BackendError(
            f"{type(model).__name__}.batch_invariant claims {', '.join(unknown) or claimed!r}",
            hint=f"there are: {', '.join(PASSES)}",
        )
    return found
