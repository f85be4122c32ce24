"""Rows that join and leave at any step, with what they have in common run once: each gets what it gets alone."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama import Llama
from polyllama.core.errors import GenerationError, InputError, PolyllamaWarning
from polyllama.core.generation import arguments
from polyllama.core.generation.cache_memory import bytes_per_token
from polyllama.core.generation.options import GenerationOptions
from polyllama.core.generation.scheduler import Scheduler
from tiny_models import ALL_BACKENDS

RANDOM = np.random.default_rng(7)
COMMON = RANDOM.integers(3, 97, 80).tolist()
PROMPTS = [
    *([*COMMON, *RANDOM.integers(3, 97, n).tolist()] for n in (1, 9, 30)),  # long ones that begin alike
    [*COMMON[:20], 5, 5, 5],
    *(RANDOM.integers(3, 97, n).tolist() for n in (1, 2, 16, 33)),
    [*range(10, 20), *range(10, 20), 10, 11],  # repeats itself
]
OPTIONS: list[dict[str, Any]] = [
    {"max_new_tokens": 1},
    {"max_new_tokens": 6},
    {"max_new_tokens": 25, "prompt_lookup_num_tokens": 5},
    {"max_new_tokens": 12, "do_sample": True, "temperature": 1.3, "seed": 5},
    {"max_new_tokens": 20, "do_sample": True, "seed": 3, "top_k": 20, "prompt_lookup_num_tokens": 3},
    {"max_new_tokens": 18, "repetition_penalty": 1.3, "prefill_chunk_size": 7},
    {"max_new_tokens": 30, "prompt_lookup_num_tokens": 8, "no_repeat_ngram_size": 6},
]

EMPTY = pytest.mark.filterwarnings("ignore:generated texts stay empty")
"""The models are random, and have no tokenizer."""

submissions = st.tuples(
    st.just("submit"), st.integers(0, len(PROMPTS) - 1), st.integers(0, len(OPTIONS) - 1), st.integers(1, 2)
)
actions = st.lists(
    st.one_of(
        submissions,
        submissions,
        st.tuples(st.just("step"), st.integers(1, 9)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
    ),
    min_size=3,
    max_size=14,
)


class Model:
    """A model, and what every prompt gets alone by every options, which is asked for once."""

    def __init__(self, folder: Any, backend: str, **fields: Any) -> None:
        self.llm = Llama.load(folder, backend=backend, dtype="float32", **fields)
        self._alone: dict[Any, list[list[int]]] = {}

    def alone(self, prompt: int, options: int, count: int) -> list[list[int]]:
        key = prompt, options, count
        if key not in self._alone:
            asked = {name: value for name, value in OPTIONS[options].items() if "lookup" not in name}
            job = Scheduler(self.llm.model).submit(PROMPTS[prompt], self.asked(asked, count))
            self._alone[key] = [result.token_ids for result in job.results()]
        return self._alone[key]

    @staticmethod
    def asked(options: dict[str, Any], count: int) -> GenerationOptions:
        return GenerationOptions(**options, num_return_sequences=count if options.get("do_sample") else 1)


@pytest.fixture(scope="module", params=ALL_BACKENDS)
def model(request: pytest.FixtureRequest, tiny_models: Any) -> Model:
    return Model(tiny_models(max_position_embeddings=512)[1], request.param)


def run(model: Model, scheduler: Scheduler, script: list[Any]) -> None:
    """Do what a script says, run to the end, and compare every job that was not cancelled with itself alone."""
    jobs: list[tuple[Any, tuple[int, int, int]]] = []
    for what, *given_ in script:
        if what == "submit":
            prompt, options, count = given_
            jobs.append((scheduler.submit(PROMPTS[prompt], model.asked(OPTIONS[options], count)), tuple(given_)))
        elif what == "step":
            for _ in range(given_[0]):
                scheduler.step()
        elif jobs:
            jobs[given_[0] % len(jobs)][0].cancel()
    for job, which in jobs:
        if not job.cancelled:
            assert [result.token_ids for result in job.results()] == model.alone(*which), which
    assert (scheduler.running, scheduler.waiting) == (0, 0)


def examples(model: Model) -> settings:
    """Fewer where each new shape is compiled."""
    return settings(max_examples=4 if model.llm.backend == "jax" else 15, deadline=None)


def test_any_schedule_gives_what_each_gets_alone(model: Model) -> None:
    @examples(model)
    @given(script=actions, rows=st.sampled_from([1, 3, 256]), tokens=st.sampled_from([1, 10, 512]))
    def check(script: list[Any], rows: int, tokens: int) -> None:
        run(model, Scheduler(model.llm.model, prefill_tokens=tokens, max_rows=rows), script)

    check()


def test_rows_that_outgrow_the_memory_come_back(model: Model) -> None:
    """With storage for few tokens at first, rows outgrow it, wait and run again; nothing is lost."""

    @examples(model)
    @given(script=actions)
    def check(script: list[Any]) -> None:
        memory = 170 * bytes_per_token(model.llm.model)
        run(model, Scheduler(model.llm.model, cache_memory=memory, first_capacity=3), script)

    check()


def test_memory_stays_within_the_budget(model: Model) -> None:
    limit = 150 * bytes_per_token(model.llm.model)
    scheduler = Scheduler(model.llm.model, cache_memory=limit, first_capacity=3)
    jobs = [scheduler.submit(PROMPTS[4 + n % 3], max_new_tokens=20) for n in range(12)]
    waited = 0
    while scheduler.step():
        waited = max(waited, scheduler.waiting)
        if scheduler.running > 1:
            assert scheduler._loop.running_bytes() + scheduler._texts._prefixes.nbytes <= limit
    assert waited and all(job.done for job in jobs)
    assert [job.result().token_ids for job in jobs[:3]] == [job.result().token_ids for job in jobs[3:6]]


def test_what_can_never_fit_is_said_at_once(model: Model) -> None:
    scheduler = Scheduler(model.llm.model, cache_memory=40 * bytes_per_token(model.llm.model))
    with pytest.raises(GenerationError, match=r"33 tokens and 30 new ones take .* cache_memory is"):
        scheduler.submit(PROMPTS[7], max_new_tokens=30)
    assert len(scheduler.submit(PROMPTS[7], max_new_tokens=7).result().token_ids) == 7


def test_a_beginning_that_was_run_is_not_run_again(model: Model) -> None:
    scheduler = Scheduler(model.llm.model)
    first = scheduler.submit(PROMPTS[2], max_new_tokens=5)
    others = [
        scheduler.submit(PROMPTS[n], max_new_tokens=5) for n in (0, 1)
    ]  # wait for the first, though there is room
    assert [len(job.result().token_ids) for job in (first, *others)] == [5, 5, 5]
    assert (first.stats.prompt_tokens, first.stats.cached_tokens) == (110, 0)
    assert [(job.stats.prompt_tokens, job.stats.cached_tokens) for job in others] == [(1, 80), (9, 80)]
    answer = scheduler.submit(PROMPTS[0], max_new_tokens=5).result()
    said = [*PROMPTS[0], *answer.token_ids, 7, 8, 9]  # a conversation goes on
    after = scheduler.submit(said, max_new_tokens=2)
    assert after.result().token_ids == Scheduler(model.llm.model).submit(said, max_new_tokens=2).result().token_ids
    assert after.stats.cached_tokens == len(said) - 4  # of the last answer the newest token was not run
    scheduler.forget()
    assert scheduler.submit(said, max_new_tokens=1).result().stats.cached_tokens == 0


@EMPTY
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_in_half_precision_a_call_gives_the_same_twice(
    tiny_models: Any, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """So a text is gone on from only by a prompt that holds its answer, or where that is asked for."""
    if backend == "reference":
        pytest.skip("it has no half precision")
    folder = tiny_models(max_position_embeddings=512)[1]
    llm = Llama.load(folder, backend=backend, dtype="bfloat16")
    first, again = (llm.generate(PROMPTS[2], max_new_tokens=6) for _ in range(2))
    assert first.token_ids == again.token_ids and again.stats.cached_tokens == 0
    after = llm.generate([*PROMPTS[2], *again.token_ids, 7, 8], max_new_tokens=2)
    assert after.stats.cached_tokens == len(PROMPTS[2]) + 5
    for value, known in (("always", len(PROMPTS[2]) - 1), ("never", 0)):
        monkeypatch.setenv("POLYLLAMA_PREFIX_CACHE", value)
        llm = Llama.load(folder, backend=backend, dtype="bfloat16")
        found = [llm.generate(PROMPTS[2], max_new_tokens=6).stats.cached_tokens for _ in range(2)]
        assert found == [0, known]


def test_guesses_that_hold_save_passes(model: Model) -> None:
    scheduler, text = Scheduler(model.llm.model), list(range(10, 40))
    bias = {"logit_bias": {5: 1e4}, "max_new_tokens": 24}  # it says the same token again and again
    plain = scheduler.submit(text, **bias).result()
    job = scheduler.submit(text, **bias, prompt_lookup_num_tokens=8)
    assert job.result().token_ids == plain.token_ids
    assert job.stats.accepted_tokens >= 15 and job.stats.proposed_tokens >= job.stats.accepted_tokens


@EMPTY
def test_a_draft_guesses_and_changes_no_token(model: Model, tiny_models: Any) -> None:
    """The same weights guess right always, others seldom; drawn tokens and rows of one batch too."""
    other = tiny_models(num_hidden_layers=1, max_position_embeddings=512)[1]
    for draft, right in ((model.llm, True), (Llama.load(other, backend=model.llm.backend, dtype="float32"), False)):
        for asked in ({}, {"do_sample": True, "seed": 4, "temperature": 0.2}):
            options = {"max_new_tokens": 20, **asked}
            plain = model.llm.generate(PROMPTS[4:7], **options)
            found = model.llm.generate(PROMPTS[4:7], **options, assistant_model=draft, num_assistant_tokens=4)
            assert [row.token_ids for row in found] == [row.token_ids for row in plain]
            stats = found[0].stats
            assert stats.proposed_tokens > 0
            if right and not asked:
                assert stats.accepted_tokens == stats.proposed_tokens
    assert model.llm.draft is None


@EMPTY
def test_a_draft_is_a_model_of_the_same_vocabulary(tiny_models: Any) -> None:
    llm = Llama.load("tiny", backend="reference", draft="tiny")
    assert llm.draft.config.num_hidden_layers == 5 and llm.draft is not llm
    with pytest.raises(InputError, match="the draft model has 97 ids, the model 1792"):
        llm.draft = tiny_models()[1]
    with pytest.raises(InputError, match="draft is a int, wanted a loaded model"):
        llm.draft = 5
    with pytest.raises(InputError, match="draft is a list"):
        llm.generate("Once", assistant_model=[])
    llm.draft = None
    assert llm.generate("Once", max_new_tokens=3).stats.proposed_tokens == 0


def test_one_that_fails_leaves_the_others_alone(model: Model) -> None:
    scheduler = Scheduler(model.llm.model)
    good = scheduler.submit(PROMPTS[5], max_new_tokens=8)
    nothing = {token: -float("inf") for token in range(97)}
    bad = scheduler.submit(PROMPTS[6], max_new_tokens=8, logit_bias=nothing)
    assert good.result().token_ids == model.alone(5, 1, 1)[0][:6] + good.result().token_ids[6:]
    with pytest.raises(GenerationError, match="no token is possible"):
        bad.result()
    with pytest.raises(GenerationError, match="no token is possible"):
        list(bad)


@EMPTY
def test_threads_share_what_runs(model: Model) -> None:
    wanted = [model.alone(n % len(PROMPTS), 1, 1)[0] for n in range(16)]
    with ThreadPoolExecutor(8) as pool:
        jobs = pool.map(lambda n: model.llm.generate(PROMPTS[n % len(PROMPTS)], max_new_tokens=6), range(16))
        assert [result.token_ids for result in jobs] == wanted


def test_an_iterator_that_is_left_ends_its_job(model: Model) -> None:
    scheduler = Scheduler(model.llm.model)
    job = scheduler.submit(PROMPTS[5], max_new_tokens=50)
    events = iter(job)
    next(events)
    cache = weakref.ref(scheduler._loop.batches[0].past.cache)
    events.close()
    gc.collect()
    assert job.cancelled and scheduler.running == 0 and len(job.rows[0].token_ids) < 50
    scheduler.forget()
    gc.collect()
    assert cache() is None
    with pytest.raises(GenerationError, match="was cancelled"):
        job.result()


def test_a_result_that_takes_too_long(model: Model) -> None:
    job = Scheduler(model.llm.model).submit(PROMPTS[5], max_new_tokens=40)
    with pytest.raises(TimeoutError, match="not ended within 0"):
        job.result(timeout=0)
    assert len(job.result().token_ids) == 40


def test_somebody_else_may_drive(model: Model) -> None:
    scheduler = Scheduler(model.llm.model)
    jobs = [scheduler.submit(PROMPTS[n], max_new_tokens=6) for n in (4, 5)]
    thread = threading.Thread(target=jobs[0].result)
    thread.start()
    assert jobs[1].result().token_ids == model.alone(5, 1, 1)[0]
    thread.join(60)
    assert jobs[0].done and not scheduler.step()


@EMPTY
def test_asyncio_runs_requests_together(model: Model) -> None:
    async def both() -> Any:
        return await asyncio.gather(*(model.llm.agenerate(PROMPTS[n], max_new_tokens=6) for n in (4, 5, 6)))

    assert [result.token_ids for result in asyncio.run(both())] == [model.alone(n, 1, 1)[0] for n in (4, 5, 6)]


def test_a_task_that_is_cancelled_cancels_its_job() -> None:
    llm = Llama.load("tiny", backend="reference")

    async def left() -> list[int]:
        task = asyncio.create_task(llm.agenerate(PROMPTS[5], max_new_tokens=400))
        stream = llm.astream(PROMPTS[4], max_new_tokens=400)
        first = asyncio.create_task(anext(stream, None))
        while not llm.scheduler.running:
            await asyncio.sleep(0.01)
        task.cancel()
        first.cancel()
        await asyncio.gather(task, first, return_exceptions=True)
        await stream.aclose()
        while llm.scheduler.step():
            pass
        return [llm.scheduler.running, llm.scheduler.waiting]

    assert asyncio.run(left()) == [0, 0]


def test_what_is_submitted_while_a_stream_is_read_is_not_the_streams() -> None:
    llm = Llama.load("tiny", backend="reference")
    alone = llm.generate(PROMPTS[5], max_new_tokens=6).token_ids

    async def read() -> Any:
        jobs = []
        async for _ in llm.astream(PROMPTS[4], max_new_tokens=3):
            jobs.append(llm.scheduler.submit(PROMPTS[5], max_new_tokens=6))
        jobs.append(llm.scheduler.submit(PROMPTS[5], max_new_tokens=6))
        return jobs

    assert all(job.result().token_ids == alone for job in asyncio.run(read()))


@EMPTY
def test_more_tasks_than_threads_of_a_pool_run_together(model: Model) -> None:
    most = 0

    async def many() -> None:
        nonlocal most
        tasks = [asyncio.create_task(model.llm.agenerate(PROMPTS[5], max_new_tokens=30)) for _ in range(20)]
        while not all(task.done() for task in tasks):
            most = max(most, model.llm.scheduler.running + model.llm.scheduler.waiting)
            await asyncio.sleep(0.001)

    asyncio.run(many())
    assert most > 8


class Interrupting:
    """A model whose pass is interrupted once."""

    def __init__(self, model: Any, after: int) -> None:
        self._model, self._left = model, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def to_numpy(self, array: Any) -> Any:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt
        return self._model.to_numpy(array)


@pytest.mark.parametrize("after", [1, 2, 5])
def test_an_interrupt_ends_the_job_of_who_was_interrupted(model: Model, after: int) -> None:
    """The others lose nothing, wherever in a step it comes; guesses included."""
    scheduler = Scheduler(Interrupting(model.llm.model, after))  # type: ignore[arg-type]
    jobs = [scheduler.submit(PROMPTS[n], max_new_tokens=6) for n in (4, 5, 8)]
    jobs.append(scheduler.submit(PROMPTS[8], max_new_tokens=25, prompt_lookup_num_tokens=5))
    with pytest.raises(KeyboardInterrupt):
        list(jobs[0])
    assert jobs[0].cancelled and not any(job.done for job in jobs[1:])
    assert [job.result().token_ids for job in jobs[1:3]] == [model.alone(n, 1, 1)[0] for n in (5, 8)]
    assert jobs[3].result().token_ids == model.alone(8, 2, 1)[0]
    assert scheduler.submit(PROMPTS[6], max_new_tokens=6).result().token_ids == model.alone(6, 1, 1)[0]


class Failing:
    """A model whose caches find no memory once."""

    def __init__(self, model: Any) -> None:
        self._model, self._failed = model, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def new_cache(self, *given: Any) -> Any:
        if not self._failed:
            self._failed = True
            raise MemoryError
        return self._model.new_cache(*given)


def test_what_finds_no_memory_ends_alone(model: Model) -> None:
    scheduler = Scheduler(Failing(model.llm.model), max_rows=1)  # type: ignore[arg-type]
    options = GenerationOptions(do_sample=True, seed=1, num_return_sequences=3, max_new_tokens=6)
    bad, good = scheduler.submit(PROMPTS[5], options), scheduler.submit(PROMPTS[6], max_new_tokens=6)
    with pytest.raises(GenerationError, match="out of memory while generating"):
        bad.result()
    assert good.result().token_ids == model.alone(6, 1, 1)[0]
    assert (scheduler.running, scheduler.waiting, len(scheduler._loop._known)) == (0, 0, 0)


class BrokenGuesses:
    def propose(self, most: int) -> list[int]:
        raise KeyError("a guess")

    def learn(self, proposed: int, accepted: int, token_ids: Any) -> None: ...


def test_guesses_that_fail_are_given_up(model: Model) -> None:
    scheduler = Scheduler(model.llm.model)
    jobs = [scheduler.submit(PROMPTS[n], max_new_tokens=6) for n in (5, 6)]
    jobs[0].rows[0].proposer = BrokenGuesses()
    with pytest.warns(PolyllamaWarning, match="what guesses tokens failed, and guesses no more: 'a guess'"):
        assert [job.result().token_ids for job in jobs] == [model.alone(n, 1, 1)[0] for n in (5, 6)]


def test_a_job_that_leaves_while_its_token_is_chosen(model: Model) -> None:
    scheduler = Scheduler(model.llm.model)
    job = scheduler.submit(PROMPTS[5], max_new_tokens=40)
    scheduler.step()
    row = job.rows[0]
    chosen = row._choose

    def leaves(logits: Any) -> int:
        row.leave()
        return chosen(logits)

    row._choose = leaves  # type: ignore[method-assign]
    scheduler.step()
    assert job.cancelled and job.done and not scheduler.step()


def test_a_time_limit_that_is_short(model: Model) -> None:
    job = Scheduler(model.llm.model).submit(PROMPTS[5], max_new_tokens=4000)
    with pytest.raises(TimeoutError):
        job.result(timeout=0.02)
    assert 0 < len(job.rows[0].token_ids) < 4000
    job.cancel()


def test_a_turn_that_an_interrupt_left_is_taken_again(model: Model) -> None:
    scheduler = Scheduler(model.llm.model)
    scheduler._turns.taken(lambda: False)  # and never passed on
    assert len(scheduler.submit(PROMPTS[5], max_new_tokens=3).result().token_ids) == 3
    thread = threading.Thread(target=lambda: scheduler._turns.taken(lambda: False))
    thread.start()
    thread.join(60)
    assert len(scheduler.submit(PROMPTS[5], max_new_tokens=3).result().token_ids) == 3


def test_a_joined_batch_stays_within_the_memory(model: Model) -> None:
    limit = 130 * bytes_per_token(model.llm.model)
    scheduler = Scheduler(model.llm.model, cache_memory=limit)
    jobs = [scheduler.submit(PROMPTS[1], max_new_tokens=12)]
    scheduler.step()
    jobs.append(scheduler.submit(PROMPTS[4], max_new_tokens=100))
    while scheduler.step():
        assert scheduler.running < 2 or scheduler._loop.running_bytes() <= limit
    assert all(job.done and job.error is None for job in jobs)


def test_all_threads_share_one_scheduler() -> None:
    llm = Llama.load("tiny", backend="reference")
    barrier = threading.Barrier(6)

    def first(_: int) -> int:
        barrier.wait(60)
        return id(llm.scheduler)

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(first, range(6)))) == 1


def test_a_rope_that_depends_on_the_length_shares_nothing(
    tiny_models: Any, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = Llama.load(tiny_models("dynamic")[1], backend=model.llm.backend, dtype="float32")
    scheduler = Scheduler(llm.model)
    prompts = [COMMON[:n] for n in (70, 75, 12)]
    monkeypatch.setattr(arguments, "_said", set())  # it is said once
    with pytest.warns(PolyllamaWarning, match="prompt_lookup_num_tokens without effect: this model's RoPE"):
        jobs = [scheduler.submit(ids, max_new_tokens=8, prompt_lookup_num_tokens=4) for ids in prompts]
    scheduler.step()
    jobs.append(scheduler.submit(COMMON[:5], max_new_tokens=20))  # grows into other frequencies beside the others
    found = [job.result().token_ids for job in jobs]
    alone = [Scheduler(llm.model).submit(ids, max_new_tokens=8).result().token_ids for ids in prompts]
    assert found == [*alone, Scheduler(llm.model).submit(COMMON[:5], max_new_tokens=20).result().token_ids]
    assert all(job.stats.cached_tokens == 0 for job in jobs)


@EMPTY
@pytest.mark.parametrize("backend", [name for name in ALL_BACKENDS if name in ("torch", "mlx")])
def test_weights_that_somebody_holds_may_change(tiny_models: Any, backend: str) -> None:
    """Who has the module may train it between two requests: nothing is kept from one to the next then."""
    llm = Llama.load(tiny_models()[1], backend=backend, dtype="float32")
    assert llm.generate(PROMPTS[3], max_new_tokens=2).stats.cached_tokens == 0
    assert llm.generate(PROMPTS[3], max_new_tokens=2).stats.cached_tokens == len(PROMPTS[3]) - 1
    _ = llm.module
    assert llm.generate(PROMPTS[3], max_new_tokens=2).stats.cached_tokens == 0
    assert llm.generate(PROMPTS[3], max_new_tokens=2).stats.cached_tokens == 0


@EMPTY
def test_other_weights_on_jax_are_other_texts(tiny_models: Any) -> None:
    if "jax" not in ALL_BACKENDS:
        pytest.skip("jax is not installed")
    llm = Llama.load(tiny_models()[1], backend="jax", dtype="float32")
    before = llm.generate(PROMPTS[3], max_new_tokens=2)
    assert llm.generate(PROMPTS[3], max_new_tokens=2).stats.cached_tokens == len(PROMPTS[3]) - 1
    name = "model.layers.0.self_attn.q_proj.weight"
    llm.model.params[name] = -llm.model.params[name]
    after = llm.generate(PROMPTS[3], max_new_tokens=2)
    assert after.stats.cached_tokens == 0 and before.stats.prompt_tokens == after.stats.prompt_tokens


def test_what_is_wrong_is_said_when_it_is_submitted(model: Model) -> None:
    scheduler = Scheduler(model.llm.model)
    with pytest.raises(InputError, match="token 1: id 97 is outside the vocabulary of 97"):
        scheduler.submit([1, 97])
    with pytest.raises(GenerationError, match="one way"):
        scheduler.submit([1], GenerationOptions(), max_new_tokens=3)
    assert not scheduler.step()


def test_a_job_is_not_over_before_its_last_event_is_there(model: Model) -> None:
    """A thread that looks on while another runs the last step waits for what that step gives."""
    chosen, go_on = threading.Event(), threading.Event()

    class Held(Scheduler):
        class _steps(Scheduler._steps):  # type: ignore[misc]
            def take(self, batch: Any, logits: Any, events: Any) -> None:
                super().take(batch, logits, events)
                chosen.set()
                go_on.wait(10)

    scheduler = Held(model.llm.model)
    job = scheduler.submit(PROMPTS[5], max_new_tokens=1)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(scheduler.step)
        assert chosen.wait(60)
        reading = pool.submit(list, job)
        with pytest.raises(TimeoutError):
            reading.result(0.3)
        go_on.set()
        assert running.result(60)
        assert len(reading.result(60)) == 1
