"""How a pass may be cut up: caches, chunks, padding, positions, masks, and what a pass may be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.forward.arguments import ForwardArguments
from .candidate import Candidate
from .checks import check
from .checks_models import ROWS, cached, left_padded, logits_of
from .measure import Measurement, compare, equal, failure
from .probes import IDS, LENGTH, probe
from .rounding import LAMBDA, Expected

LONG, SHORT = IDS[0], IDS[1][:13]


def _explicit(start: int, stop: int) -> Any:
    return np.arange(start, stop)[None]


@check("cache.step", "token by token from a cache, positions given: the keys and values of all earlier tokens are used")
def cache_step(candidate: Candidate) -> Iterator[Measurement]:
    return cached(candidate, probe("plain"), tuple(range(1, 13)), position_ids=_explicit)


@check("cache.chunked", "prefill in chunks of several sizes, then single tokens, equals one pass")
def cache_chunked(candidate: Candidate) -> Iterator[Measurement]:
    return cached(candidate, probe("plain"), (7, 12, 13, 17, 18, 19, 28, 30))


@check("cache.capacity", "a cache takes more tokens than were planned for")
def cache_capacity(candidate: Candidate) -> Iterator[Measurement]:
    cache = candidate.model(probe("plain")).new_cache(2, 8)
    return cached(candidate, probe("plain"), (5, 8, 9, 20, 21, 30), cache)


@check("cache.select_rows", "rows of a cache can be picked, doubled and reordered, and both caches go on alone")
def cache_select_rows(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("plain")
    cache: Any = candidate.forward(p, ROWS[:, :10], use_cache=True).past_key_values
    picked = cache.select_rows([1, 0, 1])
    # The first goes on with other tokens: if the two shared storage, the picked rows would see them.
    other = ROWS[:, 20:21]
    first = candidate.read(p, candidate.forward(p, other, past_key_values=cache))["logits"]
    second = candidate.read(p, candidate.forward(p, ROWS[[1, 0, 1], 10:12], past_key_values=picked))["logits"]
    for index, row in enumerate(ROWS):
        wanted = candidate.oracle.logits(p, np.concatenate([row[:10], other[index]]))
        yield compare(first[index, -1], wanted[-1], f"the first cache, logits[{index}]")
    for index, row in enumerate((1, 0, 1)):
        yield compare(second[index], candidate.oracle.logits(p, ROWS[row])[10:12], f"picked rows, logits[{index}]")


@check("cache.padded", "a cache remembers which of its slots are padding")
def cache_padded(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("plain")
    ids, mask = left_padded([LONG[:20], SHORT[:9]], 20)
    more = IDS[:2, 20:24]
    output = candidate.forward(p, ids, attention_mask=mask, use_cache=True)
    whole = np.concatenate([mask, np.ones((2, 2), np.int64)], axis=1)
    output = candidate.forward(p, more[:, :2], attention_mask=whole, past_key_values=output.past_key_values)
    output = candidate.forward(p, more[:, 2:], past_key_values=output.past_key_values)
    found = candidate.read(p, output)["logits"]
    for index, row in enumerate((LONG[:20], SHORT[:9])):
        wanted = candidate.oracle.logits(p, np.concatenate([row, more[index]]))
        yield compare(found[index], wanted[-2:], f"logits[{index}]")


@check("cache.independent", "two caches of one model do not disturb each other")
def cache_independent(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("plain")
    first = candidate.forward(p, LONG[None, :10], use_cache=True).past_key_values
    second = candidate.forward(p, SHORT[None, :7], use_cache=True).past_key_values
    for stop in (11, 12):
        ours = candidate.read(p, candidate.forward(p, LONG[None, stop - 1 : stop], past_key_values=first))
        theirs = candidate.read(p, candidate.forward(p, SHORT[None, stop - 4 : stop - 3], past_key_values=second))
        yield compare(ours["logits"][0, -1], candidate.oracle.logits(p, LONG)[stop - 1], "the first cache")
        yield compare(theirs["logits"][0, -1], candidate.oracle.logits(p, SHORT)[stop - 4], "the second cache")


@check("positions.cached", "after cached tokens positions go on where those ended")
def positions_cached(candidate: Candidate) -> Iterator[Measurement]:
    return cached(candidate, probe("plain"), (10, 11, 12, 15))


@check("positions.explicit", "position_ids that are given are used")
def positions_explicit(candidate: Candidate) -> Measurement:
    return at_positions(candidate, 2 * np.arange(LENGTH)[None] + 3)


def at_positions(candidate: Candidate, positions: np.ndarray) -> Measurement:
    """The rows at positions ``[1, tokens]`` that are given."""
    p = probe("plain")
    found = candidate.run(p, ROWS, position_ids=positions)["logits"]
    return compare(found, candidate.oracle(p, ROWS, position_ids=positions)["logits"], "logits")


@check("positions.holes", "a position is the count of attended tokens before it, also around masked ones in the middle")
def positions_holes(candidate: Candidate) -> Iterator[Measurement]:
    p, kept = probe("plain"), np.ones((2, LENGTH), bool)
    kept[0, [4, 5, 17]], kept[1, [0, 9, 10, 11, 29]] = False, False
    found = candidate.run(p, ROWS, attention_mask=kept.astype(np.int64))["logits"]
    for index, row in enumerate(ROWS):
        yield compare(found[index, kept[index]], candidate.oracle.logits(p, row[kept[index]]), f"logits[{index}]")


@check("positions.large", "positions beyond max_position_embeddings, and beyond what bfloat16 can count")
def positions_large(candidate: Candidate) -> Measurement:
    return at_positions(candidate, 11 * np.arange(LENGTH)[None] + 200)


@check("positions.packed", "given alone, a position that does not rise begins another text, which sees none before it")
def positions_packed(candidate: Candidate) -> Iterator[Measurement]:
    p, cut = probe("plain"), 11
    positions = np.concatenate([np.arange(cut), np.arange(LENGTH - cut)])[None]
    found = candidate.run(p, ROWS, position_ids=positions)["logits"]
    for index, row in enumerate(ROWS):
        yield compare(found[index, :cut], candidate.oracle.logits(p, row[:cut]), f"the first text, logits[{index}]")
        yield compare(found[index, cut:], candidate.oracle.logits(p, row[cut:]), f"the second text, logits[{index}]")
    given = {"position_ids": positions, "attention_mask": np.ones(ROWS.shape, np.int64)}
    beside = candidate.run(p, ROWS, **given)["logits"]
    yield compare(beside, candidate.oracle(p, ROWS, **given)["logits"], "logits beside a mask of ones, of one text")


def _padded(candidate: Candidate, starts: list[int]) -> Iterator[Measurement]:
    """Short rows that begin at different places of a batch, beside a full one."""
    p = probe("plain")
    rows = [LONG, *([SHORT] * len(starts))]
    ids, mask = np.full((len(rows), LENGTH), 96), np.zeros((len(rows), LENGTH), np.int64)
    ids[0], mask[0] = LONG, 1
    for index, start in enumerate(starts, start=1):
        ids[index, start : start + len(SHORT)], mask[index, start : start + len(SHORT)] = SHORT, 1
    found = candidate.run(p, ids, attention_mask=mask)["logits"]
    for index, row in enumerate(rows):
        wanted = candidate.oracle.logits(p, row)
        yield compare(found[index, mask[index] == 1], wanted, f"logits[{index}], its {len(row)} real tokens")


@check("padding.left", "a row padded on the left gets what it gets alone")
def padding_left(candidate: Candidate) -> Iterator[Measurement]:
    return _padded(candidate, [LENGTH - len(SHORT)])


@check("padding.right", "a row padded on the right gets what it gets alone")
def padding_right(candidate: Candidate) -> Iterator[Measurement]:
    return _padded(candidate, [0])


@check("padding.mixed", "rows padded left, right and on both sides in one batch each get what they get alone")
def padding_mixed(candidate: Candidate) -> Iterator[Measurement]:
    return _padded(candidate, [LENGTH - len(SHORT), 0, 9])


@check("batch.solo", "a row of a batch gets what it gets alone")
def batch_solo(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("plain")
    yield from logits_of(candidate, p, IDS)
    for row in IDS:
        yield from logits_of(candidate, p, row[None])


@check("mask.packed", "a four-dimensional mask says who looks at whom: two texts packed into one row")
def mask_packed(candidate: Candidate) -> Iterator[Measurement]:
    p, row, cut = probe("plain"), LONG[:9], 4
    mask = np.zeros((1, 1, 9, 9), np.int64)
    mask[..., :cut, :cut] = np.tril(np.ones((cut, cut)))
    mask[..., cut:, cut:] = np.tril(np.ones((9 - cut, 9 - cut)))
    positions = np.concatenate([np.arange(cut), np.arange(9 - cut)])[None]
    found = candidate.run(p, row[None], attention_mask=mask, position_ids=positions)["logits"][0]
    yield compare(found[:cut], candidate.oracle.logits(p, row[:cut]), "the first text's logits")
    yield compare(found[cut:], candidate.oracle.logits(p, row[cut:]), "the second text's logits")


@check("mask.additive", "a four-dimensional mask of 0 and minus infinity says the same as one of 1 and 0")
def mask_additive(candidate: Candidate) -> Measurement:
    p, mask = probe("plain"), np.tril(np.ones((1, 1, LENGTH, LENGTH), np.int64))
    mask[..., 9:, 2:6] = 0
    additive = np.where(mask == 1, 0.0, -np.inf).astype(np.float32)
    found = candidate.run(p, ROWS, attention_mask=additive)["logits"]
    return compare(found, candidate.oracle(p, ROWS, attention_mask=mask)["logits"], "logits")


@check("inputs.untouched", "ids, mask and positions that were given stay what they were")
def inputs_untouched(candidate: Candidate) -> Iterator[Measurement]:
    ids, mask = left_padded([LONG, SHORT], LENGTH)
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    before = {name: array.copy() for name, array in given.items()}
    candidate.model(probe("plain")).forward(ForwardArguments(**given, use_cache=True))
    for name, array in given.items():
        yield equal(array, before[name], name)


@check("output.kept", "an output stays what it was while the model runs on")
def output_kept(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("plain")
    first = candidate.forward(p, ROWS, use_cache=True, output_hidden_states=True)
    candidate.forward(p, ROWS[::-1], output_hidden_states=True)
    candidate.forward(p, ROWS[::-1, :1], past_key_values=first.past_key_values)
    found = candidate.read(p, first)
    for index, row in enumerate(ROWS):
        yield compare(found["logits"][index], candidate.oracle.logits(p, row), f"logits[{index}]")
    last = candidate.oracle(p, ROWS, output_hidden_states=True)["hidden_states"][-1]
    yield compare(found["hidden_states"][-1], last, "hidden_states[-1]")


@check("inputs.embeds", "embeddings instead of ids")
def inputs_embeds(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("plain")
    embeds = p.weights["model.embed_tokens.weight"][ROWS]
    found = candidate.run(p, inputs_embeds=embeds)["logits"]
    for index, row in enumerate(ROWS):
        yield compare(found[index], candidate.oracle.logits(p, row), f"logits[{index}]")


@check("output.logits_to_keep", "logits of the last positions, or of given ones")
def logits_to_keep(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("plain")
    for keep, places in ((3, [27, 28, 29]), (np.array([0, 7, 29]), [0, 7, 29])):
        found = candidate.run(p, ROWS, logits_to_keep=keep)["logits"]
        for index, row in enumerate(ROWS):
            yield compare(found[index], candidate.oracle.logits(p, row)[places], f"logits_to_keep={keep}: [{index}]")


@check("output.loss", "the loss, with ignored labels, as a mean and divided by num_items_in_batch")
def loss(candidate: Candidate) -> Iterator[Measurement]:
    p, labels = probe("plain"), ROWS.copy()
    labels[0, 5:9] = -100
    for options in ({}, {"num_items_in_batch": 7}):
        wanted: Expected = candidate.oracle(p, ROWS, labels=labels, **options)["loss"]
        found = candidate.run(p, ROWS, labels=labels, **options).get("loss")
        if found is None:
            yield failure("no loss came out")
            continue
        yield compare_loss(found, wanted, candidate, labels.size * p.config.vocab_size, "loss")


def compare_loss(found: Any, wanted: Expected, candidate: Candidate, terms: int, what: str) -> Measurement:
    """A loss, which is a sum of so many terms beside the `wanted` one.

    A loss is a sum of logarithms, or of squares of numbers up to 1: what its bound means is seen beside 1 where it is
    smaller. How wide the bound is, is that of the graph alone.
    """
    scale = max(1.0, float(np.max(np.abs(wanted.wanted))))
    widest = float(np.max(wanted.bound)) / scale
    return replace(compare(found, widened(wanted, candidate, terms), what), widest=widest, typical=widest)


def widened(wanted: Expected, candidate: Candidate, terms: int) -> Expected:
    """The bound with the float32 roundings of a sum of so many terms, which happen after the graph."""
    sums = LAMBDA * np.sqrt(terms) * candidate.precision.wide * np.abs(wanted.wanted)
    return Expected(wanted.wanted, wanted.bound + sums)
