"""Rows that run in a batch of their own (guided, recorded, beams): their memory, chunks, errors and company."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from polyllama import Llama
from polyllama.core.errors import GenerationError
from polyllama.core.generation.batch import Batch
from polyllama.core.generation.cache_memory import bytes_per_token
from polyllama.core.generation.options import GenerationOptions
from polyllama.core.generation.past import CachedPast
from polyllama.core.generation.scheduler import Scheduler
from tiny_models import ALL_BACKENDS

pytestmark = pytest.mark.filterwarnings("ignore:generated texts stay empty")
NUMBERS = np.random.default_rng(3)
LONG, SHORT = NUMBERS.integers(3, 97, 60).tolist(), [5, 9]


@pytest.fixture(scope="module")
def llm(tiny_models: Any) -> Llama:
    return Llama.load(tiny_models(max_position_embeddings=512)[1], backend="reference", dtype="float32")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what every pass is given."""
    found: list[tuple[int, ...]] = []
    run = CachedPast.run

    def noted(past: Any, inputs: Any, *more: Any) -> Any:
        found.append(inputs.shape)
        return run(past, inputs, *more)

    monkeypatch.setattr(CachedPast, "run", noted)
    return found


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_a_short_prompt_beside_a_long_one_is_no_reason_for_a_long_pass(
    tiny_models: Any, backend: str, passes: list[tuple[int, ...]]
) -> None:
    llm = Llama.load(tiny_models(max_position_embeddings=512)[1], backend=backend, dtype="float32")
    whole = llm.generate([LONG, SHORT, LONG[:25]], max_new_tokens=6)
    passes.clear()
    llm.scheduler.forget()
    chunked = llm.generate([LONG, SHORT, LONG[:25]], max_new_tokens=6, prefill_chunk_size=10)
    assert max(width for _, width, *_ in passes) == 10
    assert [row.token_ids for row in chunked] == [row.token_ids for row in whole]
    assert [row.token_ids for row in whole] == [
        llm.generate(ids, max_new_tokens=6).token_ids for ids in (LONG, SHORT, LONG[:25])
    ]


@pytest.mark.parametrize(
    "more", [{"guidance_scale": 1.5}, {"num_beams": 2}, {"num_beams": 3, "num_return_sequences": 2}]
)
def test_so_it_is_of_companions_and_beams(llm: Llama, passes: list[tuple[int, ...]], more: dict[str, Any]) -> None:
    whole = llm.generate([LONG, SHORT], max_new_tokens=6, **more)
    passes.clear()
    chunked = llm.generate([LONG, SHORT], max_new_tokens=6, prefill_chunk_size=10, **more)
    assert max(width for _, width, *_ in passes) == 10
    assert [str(row) for row in np.ravel(chunked)] == [str(row) for row in np.ravel(whole)]


def test_what_is_recorded_of_a_guided_row_runs_in_chunks_too(llm: Llama, passes: list[tuple[int, ...]]) -> None:
    ids = np.array([LONG])
    asked: dict[str, Any] = {"guidance_scale": 1.5, "return_dict_in_generate": True, "output_scores": True}
    asked |= {"max_new_tokens": 5, "negative_prompt_ids": [LONG[::-1]]}
    whole = llm.generate(ids, **asked)
    passes.clear()
    chunked = llm.generate(ids, prefill_chunk_size=16, **asked)
    assert max(width for _, width in passes) == 16
    assert whole.sequences.tolist() == chunked.sequences.tolist()


def test_hidden_states_are_of_the_whole_prompt_in_any_company(llm: Llama) -> None:
    scheduler = Scheduler(llm.model, prefill_tokens=8)
    other = scheduler.submit(SHORT, max_new_tokens=30)
    scheduler.step()
    kept = llm.__dict__.get("_scheduler")
    llm._scheduler = scheduler  # type: ignore[assignment]
    try:
        found = llm.generate(
            np.array([LONG]), max_new_tokens=3, return_dict_in_generate=True, output_hidden_states=True
        )
    finally:
        llm._scheduler = kept  # type: ignore[assignment]
    assert [step[0].shape[1] for step in found.hidden_states] == [len(LONG), 1, 1]
    other.cancel()


@pytest.mark.parametrize(
    ("options", "slots"),
    [
        ({"guidance_scale": 1.5}, 2 * (60 + 40)),
        ({"num_beams": 3}, 3 * (60 + 40)),
        ({"num_beams": 3, "num_return_sequences": 2}, 3 * (60 + 40)),
        ({"guidance_scale": 1.5, "do_sample": True, "num_return_sequences": 2}, 4 * (60 + 40)),
    ],
)
def test_memory_is_what_the_rows_of_the_model_may_take(llm: Llama, options: dict[str, Any], slots: int) -> None:
    asked = GenerationOptions(max_new_tokens=40, **options)
    each = bytes_per_token(llm.model)
    with pytest.raises(GenerationError, match="cache_memory is"):
        Scheduler(llm.model, cache_memory=(slots - 1) * each).submit(LONG, asked)
    for first_capacity in (8, 1024):
        scheduler = Scheduler(llm.model, cache_memory=slots * each, first_capacity=first_capacity)
        job, most = scheduler.submit(LONG, asked), 0
        while scheduler.step():
            most = max(most, sum(len(b.mask) * b.capacity for b in scheduler._loop.batches))
        assert len(job.results()) == asked.num_return_sequences
        assert 0 < most <= slots


def test_rows_of_batches_of_their_own_are_counted(llm: Llama) -> None:
    scheduler = Scheduler(llm.model, max_rows=4)
    jobs = [scheduler.submit(SHORT, max_new_tokens=6, num_beams=2) for _ in range(3)]
    jobs += [scheduler.submit(SHORT, max_new_tokens=6, use_cache=False) for _ in range(3)]
    jobs.append(scheduler.submit(SHORT, max_new_tokens=6, guidance_scale=2.0))
    while scheduler.step():
        assert sum(batch.model_rows for batch in scheduler._loop.batches) <= 4
        assert scheduler.running <= 4
    assert all(job.done and job.error is None for job in jobs)
    guided = scheduler.submit(SHORT, max_new_tokens=6, guidance_scale=2.0)
    scheduler.step()
    assert scheduler.running == 1
    guided.cancel()


def test_an_error_holds_no_keys_and_values(llm: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(batch: Any) -> Any:
        raise MemoryError("Unable to allocate 8 GiB")

    monkeypatch.setattr(Batch, "decode", fails)
    scheduler = Scheduler(llm.model)
    job = scheduler.submit(LONG, max_new_tokens=8)
    scheduler.step()
    held = weakref.ref(scheduler._loop.batches[0])
    scheduler.step()
    gc.collect()
    assert held() is None
    with pytest.raises(GenerationError, match="out of memory while generating"):
        job.result()


def test_what_fails_where_beams_change_places_names_what_takes_memory(
    llm: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise MemoryError("Unable to allocate 8 GiB")

    monkeypatch.setattr(CachedPast, "follow", fails)
    with pytest.raises(GenerationError, match=r"out of memory while generating.*num_beams=2"):
        llm.generate(LONG, max_new_tokens=8, num_beams=2)


def test_a_rows_own_error_is_what_is_said_where_scores_are_kept(llm: Llama) -> None:
    def of_the_second(input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if input_ids[0, -1] == 9:
            raise KeyError("the second row's")
        return scores

    with pytest.raises(GenerationError, match="the second row's"):
        llm.generate(
            np.array([[5, 8], [5, 9]]),
            max_new_tokens=3,
            logits_processor=[of_the_second],
            return_dict_in_generate=True,
            output_scores=True,
        )


def test_no_step_within_a_step(llm: Llama) -> None:
    scheduler = Scheduler(llm.model)

    def again(input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        scheduler.step()
        return scores

    with pytest.raises(GenerationError, match="again failed with"):
        scheduler.submit(SHORT, max_new_tokens=3, logits_processor=[again]).result()
    assert len(scheduler.submit(SHORT, max_new_tokens=3).result().token_ids) == 3


def test_beams_hear_that_invalid_values_are_removed(llm: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Batch._logits

    def spoilt(batch: Any, output: Any) -> Any:
        logits = np.array(take(batch, output))
        logits[..., 7] = np.nan
        return logits

    monkeypatch.setattr(Batch, "_logits", spoilt)
    with pytest.raises(GenerationError, match="NaN"):
        llm.generate(SHORT, max_new_tokens=3, num_beams=2)
    assert len(llm.generate(SHORT, max_new_tokens=3, num_beams=2, remove_invalid_values=True).token_ids) == 3
