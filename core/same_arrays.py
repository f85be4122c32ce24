"""Which arrays a model's weights are, without holding them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any


class SameArrays:
    """Equal to another as long as both stand for the very same arrays, written to as often.

    Args:
        arrays: by name; torch counts what is written to its tensors in place.

    >>> import numpy as np
    >>> ones = np.ones(2)
    >>> SameArrays({"a": ones}) == SameArrays({"a": ones}), SameArrays({"a": ones}) == SameArrays({"a": np.ones(2)})
    (True, False)
    """

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays = {name: (weakref.ref(array), getattr(array, "_version", 0)) for name, array in arrays.items()}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SameArrays) or self._arrays.keys() != other._arrays.keys():
            return False
        for name, (array, written) in self._arrays.items():
            same, written_there = other._arrays[name]
            if array() is None or array() is not same() or written != written_there:
                return False
        return True

    def __hash__(self) -> int:
        return hash(tuple(self._arrays))
