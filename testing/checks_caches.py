"""What a cache has to keep up: growing far, padding, picked rows, masks and embeddings after it, what it gives out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..core.errors import InputError
from .candidate import Candidate
from .checks import check
from .checks_models import ROWS, left_padded
from .measure import Measurement, compare, equal, failure
from .probes import IDS, LENGTH, ROPES, VOCABULARY, probe

FULL, SHORT = IDS[0, :20], IDS[1, :9]
MORE = IDS[:2, 20:]
PICKED = (1, 0, 1)

GROWTH = (62, 63, 64, 65, 126, 127, 128, 129, 254, 255, 256, 257, 510, 511, 512, 513, 514)
"""Where the passes of a long text end: single tokens across the sizes that buffers usually have, chunks between."""


def _padded_prefill(candidate: Candidate) -> Any:
    """A cache of two rows, the second padded on the left."""
    ids, mask = left_padded([FULL, SHORT], len(FULL))
    return candidate.forward(probe("plain"), ids, attention_mask=mask, use_cache=True).past_key_values


def _alone(candidate: Candidate, index: int, count: int) -> Any:
    """Logits of a row of :func:`_padded_prefill` and `count` more tokens, alone and in one pass."""
    return candidate.oracle.logits(probe("plain"), np.concatenate([(FULL, SHORT)[index], MORE[index, :count]]))


@check("cache.long", "a cache grows to some hundred tokens, across the sizes that buffers have, and loses nothing")
def cache_long(candidate: Candidate) -> Iterator[Measurement]:
    p, row = probe("long"), np.random.default_rng(9).integers(1, VOCABULARY, GROWTH[-1])
    wanted, cache, start = candidate.oracle.logits(p, row), None, 0
    for stop in GROWTH:
        output = candidate.forward(
            p, row[None, start:stop], past_key_values=cache, use_cache=True, logits_to_keep=min(stop - start, 2)
        )
        cache, start = output.past_key_values, stop
        found = candidate.read(p, output)["logits"]
        yield compare(found[0, -1], wanted[stop - 1], f"after {stop} tokens, logits[0, -1]")


@check("cache.refused", "a pass that was refused leaves the cache as it was")
def cache_refused(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("plain")
    cache: Any = candidate.forward(p, ROWS[:, :10], use_cache=True).past_key_values
    for wrong in ({"input_ids": [[1], [VOCABULARY]]}, {"input_ids": [[1], [2]], "attention_mask": [[1, 1], [1, 1]]}):
        with contextlib.suppress(InputError):
            candidate.forward(p, past_key_values=cache, **wrong)
            yield failure(f"{wrong} was accepted")
    found = candidate.read(p, candidate.forward(p, ROWS[:, 10:12], past_key_values=cache))["logits"]
    for index, row in enumerate(ROWS):
        yield compare(found[index], candidate.oracle.logits(p, row)[10:12], f"logits[{index}]")


@check("cache.select_rows.padded", "picked rows keep their own padding")
def select_padded(candidate: Candidate) -> Iterator[Measurement]:
    p, picked = probe("plain"), list(PICKED)
    cache = _padded_prefill(candidate).select_rows(PICKED)
    found = candidate.read(p, candidate.forward(p, MORE[picked, :2], past_key_values=cache))["logits"]
    for index, row in enumerate(PICKED):
        yield compare(found[index], _alone(candidate, row, 2)[-2:], f"logits[{index}]")


def _rope_rows(name: str) -> Callable[[Candidate], Iterator[Measurement]]:
    def run(candidate: Candidate) -> Iterator[Measurement]:
        p, picked = probe(f"rope.{name}"), list(PICKED)
        cache: Any = candidate.forward(p, ROWS[:, :15], use_cache=True).past_key_values.select_rows(PICKED)
        for start, stop in ((15, 17), (17, 19), (19, 20), (20, 22)):
            output = candidate.forward(p, ROWS[picked, start:stop], past_key_values=cache)
            found = candidate.read(p, output)["logits"]
            for index, row in enumerate(PICKED):
                wanted = candidate.oracle.logits(p, ROWS[row, :stop])[stop - 1]
                yield compare(found[index, -1], wanted, f"after {stop} tokens, logits[{index}, -1]")

    return run


for _name in ROPES:
    if probe(f"rope.{_name}").by_length:
        check(f"rope.{_name}.rows", f"RoPE of type {_name!r}: picked rows of a cache grow into other frequencies")(
            _rope_rows(_name)
        )


@check("mask.cached", "a four-dimensional mask after a cache with padding, and plain tokens after that")
def mask_cached(candidate: Candidate) -> Iterator[Measurement]:
    p, past, total = probe("plain"), len(FULL), len(FULL) + 4
    ids, padding = left_padded([FULL, SHORT], past)
    ids = np.concatenate([ids, MORE[:, :4]], axis=1)
    attended = np.concatenate([padding, np.ones((2, 4), np.int64)], axis=1)
    mask = np.tril(np.ones((total, total), np.int64)) * attended[:, None, None, :] | np.eye(total, dtype=np.int64)
    mask[:, :, past : past + 3, 13:16] = 0  # three earlier tokens that the next three may not look at
    positions = np.maximum(np.cumsum(attended, axis=1) - 1, 0)
    wanted = candidate.oracle(p, ids, attention_mask=mask, position_ids=positions)["logits"]
    cache = _padded_prefill(candidate)
    seen = mask[:, :, past : past + 3, : past + 3]
    output = candidate.forward(p, ids[:, past : past + 3], attention_mask=seen, past_key_values=cache)
    yield compare(candidate.read(p, output)["logits"], wanted[:, past : past + 3], "under the mask, logits")
    output = candidate.forward(p, ids[:, past + 3 :], past_key_values=cache)
    yield compare(candidate.read(p, output)["logits"], wanted[:, past + 3 :], "after the mask, logits")


@check("inputs.embeds.cached", "embeddings instead of ids, in pieces from a cache")
def embeds_cached(candidate: Candidate) -> Iterator[Measurement]:
    p, cache, start = probe("plain"), None, 0
    embeds = p.weights["model.embed_tokens.weight"][ROWS]
    for stop in (12, 13, LENGTH):
        output = candidate.forward(p, inputs_embeds=embeds[:, start:stop], past_key_values=cache, use_cache=True)
        found, cache = candidate.read(p, output)["logits"], output.past_key_values
        for index, row in enumerate(ROWS):
            yield compare(found[index], candidate.oracle.logits(p, row)[start:stop], f"logits[{index}, {start}:]")
        start = stop


@check("output.cached", "hidden states of the new tokens, and their probabilities over all tokens so far, from a cache")
def output_cached(candidate: Candidate) -> Iterator[Measurement]:
    p, new = probe("plain"), 3
    cache = _padded_prefill(candidate)
    asked = {"output_hidden_states": True, "output_attentions": True}
    found = candidate.read(p, candidate.forward(p, MORE[:, :new], past_key_values=cache, **asked))
    for index, prefix in enumerate((FULL, SHORT)):
        row = np.concatenate([prefix, MORE[index, :new]])
        wanted = candidate.oracle(p, row[None], **asked)
        for layer, (state, right) in enumerate(zip(found["hidden_states"], wanted["hidden_states"], strict=True)):
            yield compare(state[index], right[0, -new:], f"hidden_states[{layer}][{index}]")
        padding = len(FULL) - len(prefix)
        for layer, (weights, right) in enumerate(zip(found["attentions"], wanted["attentions"], strict=True)):
            yield compare(weights[index][..., padding:], right[0, :, -new:], f"attentions[{layer}][{index}]")
            if not padding:
                continue
            rest = weights[index][..., :padding]
            yield equal(rest, np.zeros_like(rest), f"attentions[{layer}][{index}], of its padding")


@check("output.logits_to_keep.cached", "logits of the last positions of a padded batch, and after a cache")
def keep_cached(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("plain")
    ids, mask = left_padded([FULL, SHORT], len(FULL))
    output = candidate.forward(p, ids, attention_mask=mask, use_cache=True, logits_to_keep=2)
    after = candidate.forward(p, MORE[:, :4], past_key_values=output.past_key_values, logits_to_keep=2)
    for name, found, count in (("padded", output, 0), ("after a cache", after, 4)):
        logits = candidate.read(p, found)["logits"]
        for index in range(2):
            yield compare(logits[index], _alone(candidate, index, count)[-2:], f"{name}, logits[{index}]")
