"""Keys and values of texts that were run before: what a new prompt has in common with one of them is not run again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph.cache import CachedRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..graph.cache import Cache

MOST = 512
"""Texts that are kept at most: each is looked at for every prompt."""

SHORTEST = 16
"""Tokens in common from which on copying keys and values takes less than running them."""


@dataclass(eq=False)
class _Entry:
    """A text.

    Attributes:
        adapter: what it was run with.
        least: tokens that another must have in common with it.
        passing: it goes when nothing runs any more.
    """

    ids: NDArray[np.int64]
    rows: CachedRows
    state: Hashable
    adapter: str | None
    least: int = 0
    passing: bool = False
    used: int = 0


class Prefixes:
    """Texts with their keys and values, the least recently used of which go first.

    Args:
        bytes_of: a cache's size in bytes.
    """

    def __init__(self, bytes_of: Any) -> None:
        self._bytes_of = bytes_of
        self._entries: list[_Entry] = []
        self._clock = 0

    @property
    def nbytes(self) -> int:
        """Bytes that all of it takes; entries of one cache share it."""
        return sum(self._bytes_of(cache) for cache in self._caches())

    def find(self, ids: Sequence[int], state: Hashable, adapter: str | None = None) -> CachedRows | None:
        """The keys and values of the longest beginning of `ids` that there are; never of all of them.

        Args:
            state: of the model's weights; what others gave is forgotten.
            adapter: what `ids` are run with; what was run with another, or with none, is no beginning of them.
        """
        self._entries = [entry for entry in self._entries if entry.state == state]
        wanted, best, longest = np.asarray(ids[:-1], np.int64), None, SHORTEST - 1
        for entry in self._entries:
            if entry.adapter != adapter:
                continue
            count = common(entry.ids, wanted)
            if count > longest and count >= entry.least:
                best, longest = entry, count
        if best is None:
            return None
        self._clock += 1
        best.used = self._clock
        return CachedRows(best.rows.cache, best.rows.rows, best.rows.slots[:longest])

    def keep(
        self,
        ids: Sequence[int],
        rows: CachedRows,
        state: Hashable,
        adapter: str | None = None,
        *,
        least: int = 0,
        passing: bool = False,
    ) -> None:
        """Keep a row's keys and values, one slot for each of `ids`, unless a longer text begins with them.

        Args:
            adapter: what it was run with.
            least: tokens that another text must have in common with this one.
            passing: only until :meth:`rest`.
        """
        if len(ids) < SHORTEST:
            return
        new = np.asarray(ids, np.int64)
        self._clock += 1
        self._entries = [entry for entry in self._entries if entry.state == state]
        alike = [(entry, common(entry.ids, new)) for entry in self._entries if entry.adapter == adapter]
        for entry, count in alike:
            if count == len(new) and entry.least <= least:
                entry.used = self._clock
                return
        covered = {id(entry) for entry, count in alike if count == len(entry.ids) and entry.least >= least}
        self._entries = [entry for entry in self._entries if id(entry) not in covered]
        self._entries.append(_Entry(new, rows, state, adapter, least, passing, self._clock))
        if len(self._entries) > MOST:
            self._entries.remove(min(self._entries, key=lambda entry: entry.used))

    def rest(self, *, all_of_them: bool) -> None:
        """Forget what was kept for as long as something runs, or everything."""
        self._entries = [] if all_of_them else [entry for entry in self._entries if not entry.passing]

    def shrink(self, nbytes: int) -> None:
        """Forget what was not used for the longest time, until the rest takes at most so many bytes."""
        while self._entries and self.nbytes > max(nbytes, 0):
            self._entries.remove(min(self._entries, key=lambda entry: entry.used))

    def _caches(self) -> list[Cache]:
        return list({id(entry.rows.cache): entry.rows.cache for entry in self._entries}.values())


def common(first: Sequence[int] | NDArray[np.int64], second: Sequence[int] | NDArray[np.int64]) -> int:
    """How many ids two texts begin with alike.

    >>> common([1, 2, 3], [1, 2, 4, 5])
    2
    """
    count = min(len(first), len(second))
    differ = np.asarray(first[:count]) != np.asarray(second[:count])
    return int(differ.argmax()) if differ.any() else count
