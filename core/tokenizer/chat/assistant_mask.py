"""Which tokens the assistant said: characters of the text to ids of the rows."""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[int, int]


def assistant_mask(offsets: Sequence[Sequence[int]], spans: Sequence[Span]) -> list[int]:
    """Return 1 for each id that has a character within one of the spans, else 0.

    Args:
        offsets: per id the (start, end) characters of its text; (0, 0) for padding.
        spans: (start, end) of what the assistant said, in order.

    >>> assistant_mask([(0, 2), (2, 5), (5, 6), (0, 0)], [(3, 5)])
    [0, 1, 0, 0]
    """
    return [int(any(start < last and first < end for first, last in spans)) for start, end in offsets]
