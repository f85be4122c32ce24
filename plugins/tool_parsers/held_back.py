"""Text that may be the beginning of a mark."""

from __future__ import annotations


def beginning_of(text: str, *marks: str) -> int:
    """The length of the longest end of `text` with which one of the marks could begin.

    >>> beginning_of("a <tool", "<tool_call>")
    5
    """
    longest = max(map(len, marks)) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(mark.startswith(text[-length:]) for mark in marks):
            return length
    return 0
