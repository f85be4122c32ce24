"""Whole models: every shape a config can ask for, every RoPE type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..core.graph.cache import Cache
from .candidate import Candidate
from .checks import check
from .measure import Measurement, compare
from .probes import IDS, LENGTH, ROPES, SHAPES, Probe, probe

ROWS = IDS[:2]
STOPS = (7, 12, 18, 19, 20, 21, 22, 30)
"""Where the passes of a cached run end: chunks and single tokens, across the lengths at which ropes change."""

_SHAPES = {
    "attention.mha": "as many key/value heads as query heads",
    "attention.gqa": "grouped queries: head h reads key/value head h // (heads / key/value heads)",
    "attention.mqa": "a single key/value head",
    "attention.biases": "biases on the attention's projections",
    "attention.dropout": "attention_dropout, which drops nothing outside training",
    "attention.head_dim": "a head_dim other than hidden_size / heads",
    "mlp.biases": "biases on the MLP's projections",
    "weights.tied": "a head that is the embedding table",
}


def logits_of(candidate: Candidate, p: Probe, rows: Any) -> Iterator[Measurement]:
    """Logits of a batch of rows, each beside what the spec gives for it alone."""
    found = candidate.run(p, rows)["logits"]
    for index, row in enumerate(rows):
        yield compare(found[index], candidate.oracle.logits(p, row), f"logits[{index}]")


def pieces(
    candidate: Candidate,
    p: Probe,
    texts: Any,
    stops: tuple[int, ...],
    starts: list[int] | None = None,
    keep: int = 0,
) -> Iterator[Measurement]:
    """Run texts from a cache in pieces; all logits of a piece beside what the text gives alone and in one pass.

    Args:
        texts: ids ``[B, tokens]``; a row takes as many of them as it has places.
        stops: where the pieces end.
        starts: padding on the left of each row, within the first piece.
        keep: how many logits of a piece are asked for, 0 for all.
    """
    padding, mask = starts or [0] * len(texts), np.ones((len(texts), stops[0]), np.int64)
    ids = np.zeros((len(texts), stops[-1]), np.int64)
    for index, (row, first) in enumerate(zip(texts, padding, strict=True)):
        ids[index, first:], mask[index, :first] = row[: stops[-1] - first], 0
    begin, inputs = 0, {"attention_mask": mask} if starts else {}
    for stop in stops:
        output = candidate.forward(p, ids[:, begin:stop], use_cache=True, logits_to_keep=keep, **inputs)
        found, inputs = candidate.read(p, output)["logits"], {"past_key_values": output.past_key_values}
        for index, first in enumerate(padding):
            since = max(begin, first, stop - keep if keep else 0)
            wanted = candidate.oracle.logits(p, texts[index])[since - first : stop - first]
            yield compare(found[index, since - stop :], wanted, f"tokens {begin} to {stop}, logits[{index}, {since}:]")
        begin = stop


def cached(
    candidate: Candidate, p: Probe, stops: tuple[int, ...], cache: Cache | None = None, **inputs: Any
) -> Iterator[Measurement]:
    """Run two rows in pieces; the last logits of each piece are those of everything so far in one pass."""
    start = 0
    for stop in stops:
        here = {name: value(start, stop) for name, value in inputs.items()}
        output = candidate.forward(p, ROWS[:, start:stop], past_key_values=cache, use_cache=True, **here)
        cache = output.past_key_values
        found = candidate.read(p, output)["logits"]
        for index, row in enumerate(ROWS):
            whole = candidate.oracle.logits(p, row[:stop] if p.by_length else row)
            yield compare(found[index, -1], whole[stop - 1], f"after {stop} tokens, logits[{index}, -1]")
        start = stop


def left_padded(rows: list[Any], length: int) -> tuple[Any, Any]:
    """Rows of unequal length as one batch: ids and mask."""
    ids, mask = np.zeros((2, len(rows), length), np.int64)
    for index, row in enumerate(rows):
        ids[index, length - len(row) :], mask[index, length - len(row) :] = row, 1
    return ids, mask


def _shape(name: str) -> Callable[[Candidate], Iterator[Measurement]]:
    return lambda candidate: logits_of(candidate, probe(name), ROWS)


def _rope(name: str) -> Callable[[Candidate], Iterator[Measurement]]:
    return lambda candidate: logits_of(candidate, probe(f"rope.{name}"), ROWS)


def _rope_cached(name: str) -> Callable[[Candidate], Iterator[Measurement]]:
    return lambda candidate: cached(candidate, probe(f"rope.{name}"), STOPS)


def _rope_padded(name: str) -> Callable[[Candidate], Iterator[Measurement]]:
    def run(candidate: Candidate) -> Iterator[Measurement]:
        p = probe(f"rope.{name}")
        rows = [IDS[0], IDS[1][:13]]
        ids, mask = left_padded(rows, LENGTH)
        found = candidate.run(p, ids, attention_mask=mask)["logits"]
        for index, row in enumerate(rows):
            yield compare(found[index, LENGTH - len(row) :], candidate.oracle.logits(p, row), f"logits[{index}]")

    return run


@check("weights.independent", "two models of the same shapes do not see each other's weights or frequencies")
def weights_independent(candidate: Candidate) -> Iterator[Measurement]:
    for name in ("rope.default", "rope.linear", "rope.default"):
        p = probe(name)
        found = candidate.read(p, candidate.forward(p, ROWS))["logits"]
        for index, row in enumerate(ROWS):
            yield compare(found[index], candidate.oracle.logits(p, row), f"{name}: logits[{index}]")


for _name in SHAPES:
    check(_name, f"{_SHAPES[_name]}, in a whole model")(_shape(_name))
for _name in ROPES:
    _what = "half of each head rotated" if _name == "partial" else f"RoPE of type {_name!r}"
    check(f"rope.{_name}", f"{_what}, in one pass")(_rope(_name))
    check(f"rope.{_name}.cached", f"{_what}, in chunks and token by token")(_rope_cached(_name))
    if probe(f"rope.{_name}").by_length:
        check(f"rope.{_name}.padded", f"{_what}: each row by its own length, not the batch's")(_rope_padded(_name))
