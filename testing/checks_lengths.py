"""Long prompts, many rows, and rows whose lengths lie around the sizes that kernels work in.

Kernels take tokens in tiles of 16, blocks of 64 to 256 and chunks of some hundred, and few rows by other roads than
many. Short prompts stay within the first of each, where a wrong offset is an offset of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .candidate import Candidate
from .checks import check
from .checks_models import left_padded, pieces
from .measure import Measurement, compare, equal, within
from .probes import VOCABULARY, probe
from .rounding import linear_bound

LONGEST = 600

TEXTS = np.random.default_rng(11).integers(1, VOCABULARY, (3, LONGEST))
"""Rows of ids. What the first tokens of one get does not depend on those after them, so one run of the spec in float64
over all of them is the truth for rows of every length."""
TEXTS.flags.writeable = False

EDGES = (300, 129, 128, 65, 64, 63, 17, 16)
"""Lengths of the rows of one batch, on both sides of where tiles and blocks end."""

MANY = 40
"""Rows of a batch: more than kernels treat as a few."""


@check("lengths.300", "a prompt of 300 tokens in one pass")
def lengths_300(candidate: Candidate) -> Iterator[Measurement]:
    return pieces(candidate, probe("lengths"), TEXTS[:1], (300,))


@check("lengths.600", "a prompt of 600 tokens in one pass, and its hidden states")
def lengths_600(candidate: Candidate) -> Iterator[Measurement]:
    p, ids = probe("lengths"), TEXTS[:1]
    found = candidate.run(p, ids, output_hidden_states=True)
    yield compare(found["logits"][0], candidate.oracle.logits(p, ids[0]), "logits[0]")
    first, last = found["hidden_states"][0], found["hidden_states"][-1]
    yield equal(first[0], p.weights["model.embed_tokens.weight"][ids[0]], "hidden_states[0]")
    weight = p.weights["lm_head.weight"]
    bound = linear_bound(candidate.precision, last, weight, last @ weight.T)
    yield within(found["logits"], last @ weight.T, bound, "logits of the last hidden state")


@check("lengths.chunked", "600 tokens in chunks of 300, 1 and 299, from a cache")
def lengths_chunked(candidate: Candidate) -> Iterator[Measurement]:
    return pieces(candidate, probe("lengths"), TEXTS[:1], (300, 301, LONGEST))


@check("lengths.edges", "rows of 16 to 300 tokens, padded left to one batch, and two more tokens of each")
def lengths_edges(candidate: Candidate) -> Iterator[Measurement]:
    stops = EDGES[0], EDGES[0] + 1, EDGES[0] + 2
    return pieces(candidate, probe("lengths"), TEXTS[[0] * len(EDGES)], stops, [EDGES[0] - n for n in EDGES])


@check("lengths.batch", "a batch of 40 rows, and one more token of each")
def lengths_batch(candidate: Candidate) -> Iterator[Measurement]:
    p, stops = probe("lengths"), (15, 16)
    rows = TEXTS.ravel()[: MANY * stops[-1]].reshape(MANY, -1)
    cache, begin = None, 0
    for stop in stops:
        output = candidate.forward(p, rows[:, begin:stop], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        wanted = candidate.oracle(p, rows)["logits"][:, begin:stop]
        yield compare(candidate.read(p, output)["logits"], wanted, f"tokens {begin} to {stop}, logits")
        begin = stop


@check(
    "lengths.padded", "rows of 600 and 300 tokens, padded left to one batch, the last two token by token", thorough=True
)
def lengths_padded(candidate: Candidate) -> Iterator[Measurement]:
    return pieces(candidate, probe("lengths"), TEXTS[:2], (LONGEST - 2, LONGEST - 1, LONGEST), [0, 300])


@check("lengths.right", "a batch of 600 and 129 tokens, padded right", thorough=True)
def lengths_right(candidate: Candidate) -> Iterator[Measurement]:
    p, (ids, mask) = probe("lengths"), left_padded([TEXTS[0], TEXTS[1, :129]], LONGEST)
    ids[1], mask[1] = np.roll(ids[1], 129), np.roll(mask[1], 129)
    found = candidate.run(p, ids, attention_mask=mask)["logits"]
    for index, length in enumerate((LONGEST, 129)):
        wanted = candidate.oracle.logits(p, TEXTS[index])[:length]
        yield compare(found[index, :length], wanted, f"logits[{index}, :{length}]")


@check("lengths.packed", "two texts of 290 and 310 tokens in one row, told by their positions", thorough=True)
def lengths_packed(candidate: Candidate) -> Iterator[Measurement]:
    p, cut = probe("lengths"), 290
    positions = np.concatenate([np.arange(cut), np.arange(LONGEST - cut)])[None]
    found = candidate.run(p, TEXTS[:1], position_ids=positions)["logits"][0]
    yield compare(found[:cut], candidate.oracle.logits(p, TEXTS[0, :cut]), "the first text, logits")
    yield compare(found[cut:], candidate.oracle.logits(p, TEXTS[0, cut:]), "the second text, logits")


@check("lengths.pieces", "600 tokens in chunks of many sizes and single tokens, three rows at a time", thorough=True)
def lengths_pieces(candidate: Candidate) -> Iterator[Measurement]:
    stops = 1, 16, 33, 97, 98, 226, 227, 483, 484, 599, LONGEST
    return pieces(candidate, probe("lengths"), TEXTS, stops)


def _threads(count: int) -> Callable[[Candidate], Iterator[Measurement]]:
    def run(candidate: Candidate) -> Iterator[Measurement]:
        several: Any = candidate.other(threads=count)
        yield from pieces(several, probe("lengths"), TEXTS[:1], (300, 301, 302, 310))
        yield from pieces(several, probe("odd"), TEXTS[1:2], (19, 20, 21), keep=1)
        yield from pieces(several, probe("quantized.lengths.int4"), TEXTS[:1], (40, 41))

    return run


check("lengths.threads", "the same with three threads, where the backend takes a number", thorough=True)(_threads(3))
