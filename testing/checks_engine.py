"""What the generation loop asks of caches: rows that join, slots left out, guesses cut off, rows that come back.

Logits of a row in any company are held to the bound that they are held to alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.backend.batch_invariance import batch_invariant
from ..core.generation.cache_memory import bytes_per_token
from ..core.generation.options import GenerationOptions
from ..core.generation.scheduler import Scheduler
from ..core.generation.stepping import Steps
from ..core.graph.cache import Cache, CachedRows
from .candidate import Candidate
from .checks import Skipped, check
from .measure import Measurement, compare, equal, failure
from .probes import VOCABULARY, probe

if TYPE_CHECKING:
    from ..core.backend.protocol import Model
    from ..core.generation.batch import Batch
    from ..core.generation.job import Job
    from ..core.generation.outputs import StreamEvent
    from ..core.generation.sequence import GeneratedSequence

ROWS = np.random.default_rng(31).integers(1, VOCABULARY, (4, 48))
LENGTHS = (21, 9, 33)


def _filled(candidate: Candidate, rows: Sequence[int], length: int) -> Any:
    """A cache of the first tokens of some rows.

    Raises:
        Skipped: rows of such caches stay where they are.
    """
    cache: Any = candidate.forward(probe("plain"), ROWS[list(rows), :length], use_cache=True).past_key_values
    if not isinstance(cache, Cache) or not cache.joins:
        raise Skipped("rows of its caches do not join others")
    return cache


def _joined(candidate: Candidate) -> Any:
    """One cache of a row of each of three; of the last its second row."""
    caches = [_filled(candidate, [number, 3], length) for number, length in enumerate(LENGTHS)]
    parts = [CachedRows(cache, [0], np.arange(length)) for cache, length in zip(caches, LENGTHS, strict=True)]
    parts[-1] = CachedRows(caches[-1], [1], np.arange(LENGTHS[-1]))
    return type(caches[0]).assembled(parts, max(LENGTHS), 64)


def _alone(candidate: Candidate, row: Any) -> Any:
    return candidate.oracle.logits(probe("plain"), np.asarray(row))


@check("engine.join", "rows of several caches go on in one, each after its own tokens")
def join(candidate: Candidate) -> Iterator[Measurement]:
    p, cache, rows, before = probe("plain"), _joined(candidate), (0, 1, 3), list(LENGTHS)
    yield equal(cache.length, max(LENGTHS), "slots")
    for new in (2, 1, 3):
        ids = np.stack([ROWS[row, n : n + new] for row, n in zip(rows, before, strict=True)])
        output = candidate.forward(p, ids, past_key_values=cache)
        cache, found = output.past_key_values, candidate.read(p, output)["logits"]
        before = [n + new for n in before]
        for index, (row, n) in enumerate(zip(rows, before, strict=True)):
            yield compare(found[index], _alone(candidate, ROWS[row, :n])[-new:], f"after {n} tokens, logits[{index}]")


@check("engine.holes", "slots that are left out are no part of a row, and neither is what lies before a shorter one")
def holes(candidate: Candidate) -> Iterator[Measurement]:
    p, mask = probe("plain"), np.ones((2, 30), np.int64)
    mask[0, [4, 5, 17]] = 0
    ids = ROWS[:2, :30]
    cache = candidate.forward(p, ids, attention_mask=mask, use_cache=True).past_key_values
    if not isinstance(cache, Cache) or not cache.joins:
        raise Skipped("rows of its caches do not join others")
    parts = [CachedRows(cache, [row], np.flatnonzero(mask[row])) for row in (0, 1)]
    whole = type(cache).assembled(parts, 30)
    found = candidate.read(p, candidate.forward(p, ROWS[:2, 30:32], past_key_values=whole))["logits"]
    for row in (0, 1):
        text = np.concatenate([ids[row][mask[row] == 1], ROWS[row, 30:32]])
        yield compare(found[row], _alone(candidate, text)[-2:], f"logits[{row}]")


@check("engine.truncate", "guesses that do not hold leave no trace, cut off or masked")
def truncate(candidate: Candidate) -> Iterator[Measurement]:
    p, cache = probe("plain"), _filled(candidate, [0, 1], 20)
    texts = [list(ROWS[row, :20]) for row in (0, 1)]
    mask = np.ones((2, 20), np.int64)
    for held in ((0, 2), (1, 1), (3, 0)):  # of three guesses behind a token, those that hold in each row
        right = np.stack([ROWS[row, len(text) : len(text) + 4] for row, text in zip((0, 1), texts, strict=True)])
        fed = right.copy()
        for row, count in enumerate(held):
            fed[row, count + 1 :] = (fed[row, count + 1 :] + 1) % VOCABULARY
        mask = np.concatenate([mask, np.ones((2, 4), np.int64)], axis=1)
        output = candidate.forward(p, fed, attention_mask=mask, past_key_values=cache)
        found = candidate.read(p, output)["logits"]
        for row, (text, count) in enumerate(zip(texts, held, strict=True)):
            text += list(right[row, : count + 1])
            wanted = _alone(candidate, text)[-count - 1 :]
            yield compare(found[row, : count + 1], wanted, f"after {len(text)} tokens, logits[{row}]")
        cut = 3 - max(held)
        for row, count in enumerate(held):
            mask[row, mask.shape[1] - 3 + count :] = 0
        mask = mask[:, : mask.shape[1] - cut]
        cache = output.past_key_values
        cache.crop(mask.shape[1])


class _Wide:
    """A model whose logits come out in all of their digits; :meth:`Model.to_numpy` gives float32."""

    def __init__(self, candidate: Candidate, model: Model) -> None:
        self._model = model
        self.to_numpy = functools.partial(candidate.to_float64, model)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _RecordedSteps(Steps):
    """Keeps the logits that each token was chosen by."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.logits: dict[int, list[tuple[int, Any]]] = {}

    def take(self, batch: Batch, logits: Any, events: list[tuple[GeneratedSequence, StreamEvent]]) -> None:
        firsts, places = batch.first_read(), {id(row): place for place, row in enumerate(batch.rows)}
        super().take(batch, logits, events)
        taken: dict[int, int] = {}
        for row, event in events:
            number = taken[id(row)] = taken.get(id(row), -1) + 1
            read = logits[places[id(row)], firsts[places[id(row)]] + number]
            self.logits.setdefault(id(row), []).append((event.token_id, read))


class _Recorded(Scheduler):
    _steps = _RecordedSteps
    _loop: _RecordedSteps

    def logits_of(self, job: Job) -> list[tuple[int, Any]]:
        """Each token of a job's first row, and the logits that it was chosen by."""
        return self._loop.logits.get(id(job.rows[0]), [])


def recorded_scheduler(candidate: Candidate, model: Model, **sizes: Any) -> _Recorded:
    """A scheduler that keeps the logits which each token was chosen by, in all of their digits."""
    return _Recorded(_Wide(candidate, model), **sizes)


@check("engine.schedule", "jobs that come and go, guess, share a beginning and wait for memory: each as alone")
def schedule(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("plain")
    model = candidate.model(p)
    _filled(candidate, [0, 1], 4)
    memory = 130 * bytes_per_token(model)  # of two or three of the rows
    scheduler = recorded_scheduler(
        candidate, model, cache_memory=memory, prefill_tokens=8, first_capacity=4, prefix_cache=True
    )
    common = ROWS[0, :20].tolist()
    prompts = [common, [*common, 5, 6], ROWS[1, :3].tolist(), [*common[:18], 9], ROWS[2, :30].tolist(), [7, 8, 7, 8, 7]]
    jobs = []
    for number, prompt in enumerate(prompts):
        guess = 4 if number % 2 else None
        options = GenerationOptions(
            max_new_tokens=33 if number else 14, prompt_lookup_num_tokens=guess, seed=number, do_sample=number > 3
        )
        jobs.append(scheduler.submit(prompt, options))
        for _ in range(2 if number else 20):  # the first ends before the others come, which begin like it
            scheduler.step()
        if number == 3:
            jobs[2].cancel()
    while scheduler.step():
        pass
    yield equal(jobs[1].stats.cached_tokens, len(common), "tokens of job 1 that were run before")
    for number, job in enumerate(jobs):
        if job.error is not None:
            yield failure(f"job {number} ended with {job.error}")
            return
        text = [*prompts[number], *job.rows[0].token_ids]
        wanted = _alone(candidate, text)[len(prompts[number]) - 1 :]
        for place, (token, logits) in enumerate(scheduler.logits_of(job)):
            yield equal(token, text[len(prompts[number]) + place], f"job {number}, token {place}")
            yield compare(logits, wanted[place], f"job {number}, logits of token {place}")


_COMPANY = ((2, 2), (5, 3), (17, 2), (33, 8), (48, 4))
"""Tokens and rows of passes, on both sides of where kernels take blocks of rows or tokens."""


def _ids(rows: int, length: int) -> Any:
    return np.random.default_rng(rows * length).integers(1, VOCABULARY, (rows, length + 2))


@check("engine.bitwise", "where it is claimed, a row has the same bits in any company as alone")
def bitwise(candidate: Candidate) -> Iterator[Measurement]:
    claimed = batch_invariant(candidate.model(probe("plain")))
    if not claimed:
        raise Skipped("it claims nothing bit by bit")
    for name in ("plain", "attention.gqa", "attention.head_dim", "odd", "quantized.int8"):
        for length, rows in _COMPANY:
            yield from _in_company(candidate, name, claimed, rows, length)


def _in_company(
    candidate: Candidate, name: str, claimed: frozenset[str], rows: int, length: int
) -> Iterator[Measurement]:
    """Passes of several rows beside those of the last of them alone: a prompt, then two tokens."""
    p, ids = probe(name), _ids(rows, length)
    together: Any = None
    alone: Any = None
    for start, stop in ((0, length), (length, length + 1), (length + 1, length + 2)):
        found = []
        for which, past in ((slice(None), together), (slice(rows - 1, None), alone)):
            given = {"use_cache": True} if past is None else {"past_key_values": past}
            output = candidate.forward(p, ids[which, start:stop], **given)
            found.append((candidate.read(p, output)["logits"][-1], output.past_key_values))
        (logits, together), (wanted, alone) = found
        if ("prefill" if stop - start > 1 else "decode") in claimed:
            yield equal(logits, wanted, f"{name}, {rows} rows, tokens {start} to {stop}, logits")
        if "decode" not in claimed:
            return
