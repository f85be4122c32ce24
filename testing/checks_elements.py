"""Every element type that a backend offers for keys and values (the setting ``kv_cache``), over more than 200 tokens.

The bound is the model's own with one more rounding of every key and value: to the element's unit roundoff, or, in int8,
to half a step of the vector's own scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .candidate import Candidate
from .checks import Skipped, check
from .checks_lengths import TEXTS
from .checks_models import left_padded, pieces
from .measure import Measurement, compare
from .probes import probe
from .rounding import STORED

STOPS = (130, 131, 132, 201, 202, 210)
"""A prefill beyond two tiles of 64 slots, single tokens, a chunk across the fourth tile's begin, and more of both."""


def _other(candidate: Candidate, element: str) -> Candidate:
    """The backend with such a cache."""
    if element not in candidate.kv_caches:
        raise Skipped(f"the backend offers no kv_cache of {element}")
    return candidate.other(element)


def _cached(element: str, stops: tuple[int, ...], rows: int) -> Callable[[Candidate], Iterator[Measurement]]:
    def run(candidate: Candidate) -> Iterator[Measurement]:
        return pieces(_other(candidate, element), probe("stored"), TEXTS[:rows, : stops[-1]], stops)

    return run


def _picked(element: str) -> Callable[[Candidate], Iterator[Measurement]]:
    """Rows 1, 0 and 1 of a batch that is padded on the left."""

    def run(candidate: Candidate) -> Iterator[Measurement]:
        other, p, lengths = _other(candidate, element), probe("stored"), (150, 70)
        text = TEXTS[0, : STOPS[-1]]
        ids, mask = left_padded([text[:length] for length in lengths], lengths[0])
        cache: Any = other.forward(p, ids, attention_mask=mask, use_cache=True).past_key_values
        picked = [1, 0, 1]
        cache = cache.select_rows(picked)
        for step in range(2):
            more = np.array([[text[lengths[row] + step]] for row in picked])
            output = other.forward(p, more, past_key_values=cache, use_cache=True)
            found, cache = other.read(p, output)["logits"], output.past_key_values
            for index, row in enumerate(picked):
                wanted = other.oracle.logits(p, text)[lengths[row] + step]
                yield compare(found[index, -1], wanted, f"token {step} after the cache, logits[{index}]")

    return run


for _element in STORED:
    check(
        f"cache.element.{_element}",
        f"keys and values stored as {_element}, for 210 tokens: prefilled, in a chunk and token by token",
    )(_cached(_element, STOPS, 1))
    check(
        f"cache.element.{_element}.rows",
        f"keys and values stored as {_element}: picked rows of a padded batch",
    )(_picked(_element))
    check(
        f"cache.element.{_element}.long",
        f"keys and values stored as {_element}, for 600 tokens of three rows",
        thorough=True,
    )(_cached(_element, (1, 16, 17, 255, 256, 257, 598, 599, 600), 3))
