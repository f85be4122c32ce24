"""Beam searches among other requests: nobody waits for them but for memory, and each gets what it gets alone."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, pipeline
from polyllama.core.errors import GenerationError
from polyllama.core.generation.array_prompts import read_array_prompts
from polyllama.core.generation.arrays import generate_array
from polyllama.core.generation.beam_batch import BeamBatch
from polyllama.core.generation.cache_memory import bytes_per_token
from polyllama.core.generation.options import GenerationOptions
from polyllama.core.generation.scheduler import Scheduler
from polyllama.core.graph.cache import CachedRows
from tiny_models import ALL_BACKENDS

RANDOM = np.random.default_rng(3)
PROMPTS = [RANDOM.integers(3, 97, n).tolist() for n in (6, 19, 3, 11)]
BEAMS = GenerationOptions(max_new_tokens=14, num_beams=4, num_return_sequences=2)
PLAIN = GenerationOptions(max_new_tokens=14)

pytestmark = pytest.mark.filterwarnings("ignore:generated texts stay empty")


@pytest.fixture(scope="module", params=ALL_BACKENDS)
def llm(request: pytest.FixtureRequest, tiny_models: Any) -> Llama:
    return Llama.load(tiny_models(max_position_embeddings=512)[1], backend=request.param, dtype="float32")


@pytest.fixture(scope="module")
def reference(tiny_models: Any) -> Llama:
    return Llama.load(tiny_models(max_position_embeddings=512)[1], backend="reference", dtype="float32")


def ids(job: Any) -> list[list[int]]:
    return [result.token_ids for result in job.results()]


def scheduler(llm: Llama, tokens: int | None = None, **sizes: Any) -> Scheduler:
    """One whose cache has room for so many tokens."""
    memory = None if tokens is None else tokens * bytes_per_token(llm.model)
    return Scheduler(llm.model, cache_memory=memory, **sizes)


def test_beams_run_beside_other_requests(llm: Llama) -> None:
    alone = [ids(scheduler(llm).submit(prompt, asked)) for prompt in PROMPTS for asked in (BEAMS, PLAIN)]
    loop = scheduler(llm)
    jobs = []
    for prompt in PROMPTS:
        for asked in (BEAMS, PLAIN):
            jobs.append(loop.submit(prompt, asked))
            loop.step()
    assert loop.running > 4, "they are to run at the same time"
    assert [ids(job) for job in jobs] == alone
    assert (loop.running, loop.waiting) == (0, 0)


def test_events_come_at_the_end_and_counts_are_of_what_is_returned(reference: Llama) -> None:
    job = scheduler(reference).submit(PROMPTS[1], BEAMS)
    steps = list(job.steps())
    assert len(steps) == 14 and all([event.row for event in events] == [0, 1] for events in steps)
    assert [event.finish_reason for event in steps[-1]] == ["length", "length"]
    results = job.results()
    for row in range(2):
        assert [events[row].token_id for events in steps] == results[row].token_ids
    assert (job.stats.new_tokens, job.stats.prompt_tokens) == (28, 19)
    assert results[0].score >= results[1].score


def test_a_prompt_goes_on_from_what_was_run_before(llm: Llama) -> None:
    long = RANDOM.integers(3, 97, 90).tolist()
    loop = scheduler(llm)
    want = ids(scheduler(llm).submit([*long, 5, 6], BEAMS))
    loop.submit(long, PLAIN).result()
    job = loop.submit([*long, 5, 6], BEAMS)
    assert ids(job) == want
    assert job.stats.cached_tokens >= 64 and job.stats.cached_tokens + job.stats.prompt_tokens == 92


def test_a_cancelled_search_leaves_and_time_is_a_limit(reference: Llama) -> None:
    loop = scheduler(reference)
    job, other = loop.submit(PROMPTS[0], BEAMS), loop.submit(PROMPTS[1], BEAMS)
    for _ in range(4):
        loop.step()
    job.cancel()
    assert job.cancelled and loop.running == 2
    assert ids(other) == ids(scheduler(reference).submit(PROMPTS[1], BEAMS))
    [first, _] = (
        scheduler(reference)
        .submit(PROMPTS[0], GenerationOptions(max_new_tokens=300, num_beams=4, num_return_sequences=2, max_time=1e-9))
        .results()
    )
    assert (len(first.token_ids), first.finish_reason) == (1, "length")


@pytest.mark.parametrize("recorded", [False, True])
def test_what_runs_alone_waits_for_room(reference: Llama, recorded: bool) -> None:
    """Room for 200 tokens: of beams 4 x 33, of recorded rows as many; two of them never run at once."""
    loop, most = scheduler(reference, 200), 0
    prompts = read_array_prompts(
        np.array([PROMPTS[1]] * 4), None, None, vocab_size=97, hidden_size=48, pad_token_id=None, eos_token_id=()
    )

    def submit() -> Any:
        if not recorded:
            return loop.submit(PROMPTS[1], BEAMS)
        from polyllama.core.generation.recording import Recording
        from polyllama.core.generation.request import make_rows

        rows = make_rows(reference.model, None, prompts.prompts(), PLAIN, texts=False)
        return loop.add(PLAIN, rows, Recording(19, 0))

    jobs = [submit(), submit(), loop.submit(PROMPTS[0], PLAIN), submit()]
    while any(not job.done for job in jobs):
        loop.step()
        most = max(most, loop._loop.running_bytes() // bytes_per_token(reference.model))
        assert sum(batch.alone for batch in loop._loop.batches) <= 1
    assert 0 < most <= 200
    want = ids(scheduler(reference).submit(PROMPTS[1], BEAMS if not recorded else PLAIN))
    assert ids(jobs[0])[: len(want)] == ids(jobs[3])[: len(want)] == want
    assert ids(jobs[2]) == ids(scheduler(reference).submit(PROMPTS[0], PLAIN))


def test_what_can_never_fit_is_refused_at_once(reference: Llama) -> None:
    loop = scheduler(reference, 100)
    with pytest.raises(GenerationError, match=r"19 tokens and 14 new ones in 4 rows take .* cache_memory is"):
        loop.submit(PROMPTS[1], BEAMS)
    assert len(ids(loop.submit(PROMPTS[2], GenerationOptions(max_new_tokens=14, num_beams=4)))) == 1
    given = read_array_prompts(
        np.array([PROMPTS[1]] * 4), None, None, vocab_size=97, hidden_size=48, pad_token_id=None, eos_token_id=()
    )
    asked = GenerationOptions(max_new_tokens=14, return_dict_in_generate=True)
    with pytest.raises(GenerationError, match="in 4 rows take"):
        generate_array(reference.model, None, given, asked, scheduler=loop)


def test_storage_grows_with_a_search(reference: Llama) -> None:
    asked = GenerationOptions(max_new_tokens=60, num_beams=3)
    want = ids(scheduler(reference).submit(PROMPTS[0], asked))
    assert ids(scheduler(reference, first_capacity=4).submit(PROMPTS[0], asked)) == want


def test_memory_is_given_back_and_stays_flat(reference: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    init = BeamBatch.__init__

    def remembered(self: Any, *given: Any, **named: Any) -> None:
        made.append(weakref.ref(self))
        init(self, *given, **named)

    monkeypatch.setattr(BeamBatch, "__init__", remembered)
    loop = scheduler(reference)

    def some() -> int:
        for prompt in PROMPTS:
            ids(loop.submit(prompt, BEAMS))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    some()
    tracemalloc.start()
    try:
        first = some()
        last = [some() for _ in range(5)][-1]
    finally:
        tracemalloc.stop()
    assert last - first < 100_000
    assert len(made) == 28 and not any(batch() for batch in made)
    assert loop._loop.running_bytes() == 0


def test_a_row_goes_on_from_another_in_the_cache(llm: Llama) -> None:
    """Any rows in each other's place: what is read is what ``select_rows`` gives, and no row moves without a reason."""
    from polyllama.core.generation.past import CachedPast

    for rows in ([2, 0, 0, 1], [1, 2, 3, 0], [0, 0, 0, 0], [0, 1, 3, 3]):
        past = CachedPast(llm.model)
        past.start(1, 64)
        past.run(np.array([PROMPTS[1]]), np.ones((1, 19), np.int64))
        past.select([0] * 4)
        for step in range(20):
            past.run(np.array([[5 + step], [9], [11 + step], [12]]), np.ones((4, 20 + step), np.int64))
        want = [tuple(np.array(llm.model.to_numpy(part)) for part in pair) for pair in past.cache.select_rows(rows)]
        same = past.cache.follow([0, 1, 2, 3], [0] * 4)
        assert same is past.cache
        past.follow(rows, [19] * 4)
        assert past.cache.batch == 4 and past.cache.length == 39
        for found, other in zip(past.cache, want, strict=True):
            for part, wanted in zip(found, other, strict=True):
                np.testing.assert_array_equal(llm.model.to_numpy(part), wanted)
        part = CachedRows(past.cache, [1], np.arange(39))
        assert part.copied().cache.batch == 1


def test_asyncio_pipelines_and_the_command_line() -> None:
    from click.testing import CliRunner
    from polyllama.cli.group import cli

    tiny = Llama.load("tiny", backend="reference")
    asked = {"num_beams": 3, "max_new_tokens": 6, "length_penalty": 0.5, "early_stopping": True}
    want = tiny.generate("Once", **asked)
    assert asyncio.run(tiny.agenerate("Once", **asked)).token_ids == want.token_ids
    made = pipeline("text-generation", model="tiny", backend="reference")
    assert made("Once", return_full_text=False, **asked)[0]["generated_text"] == want.text
    assert len(made("Once", num_return_sequences=2, **asked)) == 2
    options = ["--num-beams", "3", "--max-new-tokens", "6", "--length-penalty", "0.5", "--early-stopping", "true"]
    shown = CliRunner().invoke(cli, ["run", "tiny", "Once", "--backend", "reference", *options])
    assert shown.exit_code == 0 and want.text.strip() in shown.output, shown.output
    as_json = CliRunner().invoke(cli, ["run", "tiny", "Once", "--backend", "reference", "--json", *options])
    assert json.loads(as_json.stdout)["score"] == pytest.approx(want.score)
    refused = CliRunner().invoke(cli, ["run", "tiny", "Once", "--backend", "reference", "--stream", *options])
    assert refused.exit_code == 2 and "--stream and --num-beams: a beam has no text" in refused.output
