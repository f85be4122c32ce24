"""What an error that somebody keeps holds on to."""

from __future__ import annotations


def forget_frames(error: BaseException) -> None:
    """Let go of the frames of an error and of those behind it: they hold the batch, and so all keys and values."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            left += [one.__cause__, one.__context__]
