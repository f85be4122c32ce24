"""Sizes that kernels have roads of their own for: many heads, large heads, odd widths, positions far out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .candidate import Candidate
from .checks import check
from .checks_models import pieces
from .measure import Measurement, compare
from .probes import FAR_ROPES, IDS, LENGTH, probe

ROWS = IDS[:2]


def _odd(name: str) -> Callable[[Candidate], Iterator[Measurement]]:
    return lambda candidate: pieces(candidate, probe(name), IDS[:1, :21], (19, 20, 21), keep=2)


check("sizes.odd", "widths of 301 and 433 and 20 heads over one: in one pass, then token by token")(_odd("odd"))
check("sizes.vocabulary", "the same with a vocabulary of 14001", thorough=True)(_odd("odd.vocabulary"))


def _stepwise(name: str) -> Callable[[Candidate], Iterator[Measurement]]:
    """Two rows in one pass, then token by token; then a row alone, which may go by another road."""

    def run(candidate: Candidate) -> Iterator[Measurement]:
        yield from pieces(candidate, probe(name), ROWS[:, :22], (20, 21, 22))
        yield from pieces(candidate, probe(name), ROWS[:1, :22], (20, 21, 22))

    return run


for _heads in (32, 17, 20, 64):
    check(
        f"attention.heads.{_heads}",
        f"{_heads} query heads that read a single key/value head, in one pass and at one new token",
        thorough=_heads != 32,
    )(_stepwise(f"heads.{_heads}"))
for _size in (128, 64, 80, 256):
    check(
        f"attention.head_dim.{_size}",
        f"heads of {_size}, in one pass and at one new token",
        thorough=_size != 128,
    )(_stepwise(f"head_dim.{_size}"))


def far_positions() -> np.ndarray:
    """Positions ``[1, 30]`` from 10,000, 100,000 and 10,000,000 on, which float32 counts all."""
    each = 7 * np.arange(LENGTH // 3)
    return np.concatenate([first + each for first in (10_000, 100_000, 10_000_000)])[None]


def _far(name: str) -> Callable[[Candidate], Measurement]:
    """The contract's angle is the float32 product of position and float32 frequency, so every backend has the same.

    In float64 it would be another one, by half a unit in the last place: 0.0005 at 10,000, 0.004 at 100,000 and 0.5 at
    10,000,000, where half precisions notice too. The bound is that of any other position: the angle has no error.
    """

    def run(candidate: Candidate) -> Measurement:
        p, positions = probe(f"far.{name}"), far_positions()
        found = candidate.run(p, ROWS, position_ids=positions)["logits"]
        return compare(found, candidate.oracle(p, ROWS, position_ids=positions)["logits"], "logits")

    return run


for _name in FAR_ROPES:
    check(
        f"rope.{_name}.far",
        f"RoPE of type {_name!r} at positions of 10,000, 100,000 and 10,000,000, with angles in float32",
        thorough=_name not in ("default", "llama3", "yarn"),
    )(_far(_name))
