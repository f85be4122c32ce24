"""Rows of one batch with different adapters: each is what it is where its own adapter is the only one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.forward.adapters import adapter_rows
from ..core.forward.arguments import ForwardArguments
from ..core.generation.cache_memory import bytes_per_token
from ..core.generation.options import GenerationOptions
from ..core.graph.cache import Cache, CachedRows
from .candidate import Candidate
from .checks import Skipped, check
from .checks_engine import ROWS, recorded_scheduler
from .measure import Measurement, compare, equal, failure
from .probes_by_row import NAMES, alone, by_row

if TYPE_CHECKING:
    from ..core.backend.protocol import Model
    from .rounding import Expected


def _model(candidate: Candidate) -> Model:
    """The model whose rows choose.

    Raises:
        Skipped: its rows cannot.
    """
    model = candidate.model(by_row())
    if not getattr(model, "adapts_rows", False):
        raise Skipped("all rows of its batches have the same adapter")
    return model


def _pass(candidate: Candidate, ids: Any, names: Sequence[str | None], **more: Any) -> Any:
    given = ForwardArguments(input_ids=np.array(ids), adapter_rows=adapter_rows(NAMES, names), **more)
    return _model(candidate).forward(given)


def _wanted(candidate: Candidate, name: str | None, row: Any) -> Expected:
    return candidate.oracle.logits(alone(name), np.asarray(row))


@check("engine.adapters", "each row of a batch has its own adapter or none, in passes with and without a cache")
def adapters(candidate: Candidate) -> Iterator[Measurement]:
    names: list[str | None] = ["second", None, "first", "second"]
    output = _pass(candidate, ROWS[:, :20], names, use_cache=True)
    found = candidate.read(by_row(), output)["logits"]
    for row, name in enumerate(names):
        yield compare(found[row], _wanted(candidate, name, ROWS[row, :20]), f"{name}: logits[{row}]")
    cache = output.past_key_values
    if not isinstance(cache, Cache):
        return
    # The rows change places, and one of them comes with another batch's, in which nobody has an adapter.
    order, other = [2, 0], _pass(candidate, ROWS[:2, :9], [None, None], use_cache=True).past_key_values
    if cache.joins:
        parts = [CachedRows(cache, order, np.arange(20)), CachedRows(other, [1], np.arange(9))]
        cache, rows, before = type(cache).assembled(parts, 20, 40), [2, 0, 1], [20, 20, 9]
    else:
        cache, rows, before = cache.select_rows(order), [2, 0], [20, 20]
    names = [names[row] for row in rows]
    for new in (3, 1):
        ids = np.stack([ROWS[row, n : n + new] for row, n in zip(rows, before, strict=True)])
        output = _pass(candidate, ids, names, past_key_values=cache)
        cache, found = output.past_key_values, candidate.read(by_row(), output)["logits"]
        before = [n + new for n in before]
        for place, (row, n) in enumerate(zip(rows, before, strict=True)):
            wanted = _wanted(candidate, names[place], ROWS[row, :n])[-new:]
            yield compare(found[place], wanted, f"{names[place]}: after {n} tokens, logits[{place}]")


@check("engine.adapters.schedule", "jobs of different adapters that share a prompt and a batch: each as alone")
def schedule(candidate: Candidate) -> Iterator[Measurement]:
    model = _model(candidate)
    first = _pass(candidate, ROWS[:2, :4], [None, None], use_cache=True).past_key_values
    if not isinstance(first, Cache) or not first.joins:
        raise Skipped("rows of its caches do not join others")
    memory = 150 * bytes_per_token(model)  # of two or three of the rows: others wait, or come back
    scheduler = recorded_scheduler(
        candidate, model, cache_memory=memory, prefill_tokens=8, first_capacity=4, prefix_cache=True
    )
    common = ROWS[0, :24].tolist()
    asked: list[tuple[list[int], str | None]] = [
        (common, "first"),
        (common, "second"),
        (common, None),
        ([*common, 5, 6], "first"),
        (ROWS[1, :7].tolist(), "second"),
        ([*common, 5, 6], None),
    ]
    jobs = []
    for number, (prompt, name) in enumerate(asked):
        guess = 4 if number % 2 else None
        options = GenerationOptions(max_new_tokens=30 if number else 10, adapter=name, prompt_lookup_num_tokens=guess)
        jobs.append(scheduler.submit(prompt, options))
        # The first ends before the others come, which begin like it; the next two, of one prompt, begin together.
        for _ in range((20, 0, 2, 2, 2, 2)[number]):
            scheduler.step()
    while scheduler.step():
        pass
    yield equal(jobs[3].stats.cached_tokens, len(common), "tokens of job 3 that were run before, with its adapter")
    for number, (job, (prompt, name)) in enumerate(zip(jobs, asked, strict=True)):
        if job.error is not None:
            yield failure(f"job {number} ended with {job.error}")
            return
        wanted = _wanted(candidate, name, [*prompt, *job.rows[0].token_ids])[len(prompt) - 1 :]
        for place, (_, logits) in enumerate(scheduler.logits_of(job)):
            yield compare(logits, wanted[place], f"job {number} ({name}), logits of token {place}")
