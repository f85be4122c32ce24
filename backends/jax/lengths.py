"""The lengths that compiled passes and caches are padded to. Importing this does not import JAX."""

from __future__ import annotations

SMALLEST_PREFILL = 16
"""Tokens that a pass over more than one is padded to at least."""

SMALLEST_CACHE = 64
"""Slots of the smallest cache."""


def padded_length(count: int, smallest: int) -> int:
    """The next of 1, `smallest`, and then two sizes for each doubling: few to compile for, a third wasted at most.

    >>> [padded_length(count, 16) for count in (1, 2, 17, 25, 33, 49)]
    [1, 16, 24, 32, 48, 64]
    """
    if count == 1:
        return 1
    size = smallest
    while size < count:
        if count <= size + size // 2:
            return size + size // 2
        size *= 2
    return size
