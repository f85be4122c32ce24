"""Counting the memory of a library that records operations first and computes them later, as MLX does.

What is needed no more is known when everything is recorded: operations then run in order, a new array may be written
over an input that nobody else needs, and memory is handed out some operations ahead of the one that is being computed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .ghost import Ghost, Memory, Storage


@dataclass(frozen=True)
class _Step:
    """One operation: what it reads and what it makes (``None`` for another view of what it reads)."""

    inputs: tuple[int, ...]
    output: int | None
    reuses: bool
    cost: int


class TapeMemory(Memory):
    """Counts when everything is recorded.

    Args:
        ahead: how far handing out memory runs ahead of computing, in units of `cost`.
        cost: units of an operation that computes, and of one that only views.
    """

    def __init__(self, ahead: int, cost: tuple[int, int]) -> None:
        super().__init__()
        self.ahead, self.cost = ahead, cost
        self.steps: list[_Step] = []
        self.sizes: list[int] = []
        self._numbers: dict[int, int] = {}
        self._held: list[Storage] = []  # so that no two have the same id

    def allocate(self, nbytes: int, inputs: Sequence[Ghost] = (), reuses: bool = False) -> Storage:
        """Record an operation."""
        read = tuple(dict.fromkeys(self._number(x.storage) for x in inputs if x.storage.nbytes))
        storage = _Recorded(self, nbytes)
        self.steps.append(_Step(read, self._number(storage), reuses, self.cost[0]))
        return storage

    def viewed(self, storage: Storage) -> None:
        """Record a view."""
        read = (self._number(storage),) if storage.nbytes else ()
        self.steps.append(_Step(read, None, False, self.cost[1]))

    def added(self, nbytes: int) -> None:
        """Nothing: memory is counted in the end."""

    def _number(self, storage: Storage) -> int:
        if id(storage) not in self._numbers:
            self._numbers[id(storage)] = len(self.sizes)
            self.sizes.append(storage.nbytes)
            self._held.append(storage)
        return self._numbers[id(storage)]

    def finish(self, outputs: Iterable[Any], cache: Any) -> None:
        """Run what is recorded; `outputs` and what is in the cache stay."""
        kept = [x for x in outputs if isinstance(x, Ghost)]
        kept += [part for parts in cache.entries.values() for part in parts]
        self.peak = self._run({self._number(x.storage) for x in kept if x.storage.nbytes})

    def _run(self, kept: set[int]) -> int:
        times, now = [], 0
        uses: dict[int, list[int]] = defaultdict(list)
        for index, step in enumerate(self.steps):
            now += step.cost
            times.append(now)
            for number in step.inputs:
                uses[number].append(index)
        live = peak = 0
        size_of = list(self.sizes)
        leaving: list[tuple[int, int]] = []  # when its last reader has run, and what it was, in the order of readers
        first = 0
        for index, step in enumerate(self.steps):
            while first < len(leaving) and leaving[first][0] + self.ahead <= times[index]:
                live -= size_of[leaving[first][1]]
                first += 1
            if step.output is not None:
                taken = self._taken(step, index, uses, times, kept)
                if taken is not None:
                    size_of[taken] = 0  # the output is in its place
                else:
                    live += self.sizes[step.output]
                    peak = max(peak, live)
                if not uses[step.output] and step.output not in kept:
                    leaving.append((times[index], step.output))
            for number in step.inputs:
                if uses[number][-1] == index and number not in kept:
                    leaving.append((times[index], number))
        return peak

    def _taken(
        self, step: _Step, index: int, uses: dict[int, list[int]], times: list[int], kept: set[int]
    ) -> int | None:
        """An input whose memory the output takes over: of its size, read by nobody later and by nobody just now."""
        if not step.reuses or step.output is None:
            return None
        for number in step.inputs:
            others = [u for u in uses[number] if u != index]
            free = all(u < index and times[u] + self.ahead <= times[index] for u in others)
            if number not in kept and free and self.sizes[number] == self.sizes[step.output]:
                return number
        return None


class _Recorded(Storage):
    """A storage whose end is found in the recording."""

    __slots__ = ()

    def __del__(self) -> None:
        pass
