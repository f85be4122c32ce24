"""How far a long list has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

PATIENCE = 1.5
"""Seconds after which a terminal shows how far it is."""


class Progress:
    """Counts texts, or other things, for a function that wants to know or on a terminal's standard error.

    A terminal shows it once it takes a while.

    Args:
        wanted: a function of how many are done and of how many there are; ``None`` to show it where standard error is a
            terminal; ``True`` or ``False``.
        what: the plural of what is counted.
    """

    def __init__(self, total: int, wanted: bool | Callable[[int, int], object] | None, *, what: str = "texts") -> None:
        self.total, self.done, self.what = total, 0, what
        self._tell = wanted if callable(wanted) else None
        self._shows = wanted is True or (wanted is None and sys.stderr is not None and sys.stderr.isatty())
        self._began, self._width = time.monotonic(), 0

    def advance(self) -> None:
        """One more is done."""
        self.done += 1
        if self._tell is not None:
            self._tell(self.done, self.total)
        elif self._shows and time.monotonic() - self._began > PATIENCE:
            line = f"{self.done} of {self.total} {self.what}"
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
            self._width = len(line)

    def finish(self) -> None:
        """Leave an empty line behind."""
        if self._width:
            print(f"\r{' ' * self._width}\r", end="", file=sys.stderr, flush=True)
