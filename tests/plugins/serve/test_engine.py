"""The engine by itself: a model that fails, a thread that dies, readers that come late; requests that leave early."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from polyllama import Llama
from polyllama.core.generation.request import make_rows
from polyllama.extend import HttpError
from polyllama.plugins.serve.engine import AT_ONCE, Engine, Lane, Ticket
from polyllama.plugins.serve.hub import Hub, Served
from polyllama.plugins.serve.metrics import Metrics, ModelMetrics
from polyllama.plugins.serve.names import Names, read_offers
from polyllama.plugins.serve.options import ServeOptions


class Running:
    """An engine with two models."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.engine = Engine(self.said.append)
        self.llms = [Llama.load("tiny", backend="reference", dtype="float32") for _ in range(2)]
        self.lanes = [Lane(llm.scheduler, ModelMetrics()) for llm in self.llms]

    def ask(self, model: int, tokens: int = 6, rows: int = 1) -> Ticket:
        llm, lane = self.llms[model], self.lanes[model]
        how: dict[str, Any] = {"temperature": 1.0, "num_return_sequences": rows, "seed": 1} if rows > 1 else {}
        options = llm.generation_options(max_new_tokens=tokens, eos_token_id=[], **how).seeded()
        made = make_rows(llm.model, llm.tokenizer, [llm.tokenizer.encode("Once upon a time")], options)
        return self.engine.submit(lane, lane.scheduler.add(options, made), time.perf_counter())


def running(test: Callable[[Running], Awaitable[None]]) -> Running:
    """Run a test's coroutine beside an engine."""
    found = Running()

    async def run() -> None:
        found.engine.start(asyncio.get_running_loop())
        for lane in found.lanes:
            found.engine.add(lane)
        try:
            await asyncio.wait_for(test(found), 60)
        finally:
            found.engine.close()

    asyncio.run(run())
    return found


def test_a_model_that_fails_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(r: Running) -> None:
        def fails() -> bool:
            raise RuntimeError("a bug of a backend")

        monkeypatch.setattr(r.lanes[0].scheduler, "step", fails)
        bad, good = r.ask(0), r.ask(1)
        with pytest.raises(HttpError, match="the model failed at this request") as caught:
            await bad.results()
        assert caught.value.status == 500
        [result] = await good.results()
        assert result.text == r.llms[1].generate("Once upon a time", max_new_tokens=6).text
        monkeypatch.undo()
        assert len((await r.ask(0).results())[0].token_ids) == 6  # and it can go on
        assert await r.engine.ping(5) is not None

    found = running(test)
    assert any("a bug of a backend" in text for text in found.said)


def test_a_dead_thread_is_no_healthy_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(r: Running) -> None:
        def dies() -> bool:
            raise SystemExit("no more")

        assert await r.engine.ping(5) is not None
        waiting = r.ask(1, tokens=400)
        monkeypatch.setattr(r.lanes[0].scheduler, "step", dies)
        with pytest.raises(HttpError, match="the model failed"):
            await r.ask(0).results()
        with pytest.raises(HttpError, match="the model failed"):
            await waiting.results()
        assert r.engine.failure == "SystemExit: no more"
        assert await r.engine.ping(5) is None

    running(test)


def test_a_step_that_takes_long_is_said_to_be_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(r: Running) -> None:
        step = r.lanes[0].scheduler.step

        def slow() -> bool:
            time.sleep(0.5)
            return step()

        monkeypatch.setattr(r.lanes[0].scheduler, "step", slow)
        ticket = r.ask(0, tokens=2)
        await asyncio.sleep(0.1)
        assert await r.engine.ping(0.1) is None
        await ticket.results()

    running(test)


def test_a_late_reader_gets_all_of_it_in_pieces() -> None:
    async def test(r: Running) -> None:
        ticket = r.ask(1, tokens=50, rows=8)
        while not ticket.job.done:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        sizes = [len(events) async for events in ticket.events()]
        assert sizes == [AT_ONCE, 8 * 50 - AT_ONCE]

    running(test)


def test_leaving_ends_the_job_within_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(r: Running) -> None:
        steps = 0
        step = r.lanes[0].scheduler.step

        def counted() -> bool:
            nonlocal steps
            steps += 1
            time.sleep(0.01)
            return step()

        monkeypatch.setattr(r.lanes[0].scheduler, "step", counted)
        ticket = r.ask(0, tokens=400)
        events = ticket.events()
        await anext(events)
        before = steps
        await events.aclose()
        while not ticket.job.cancelled:
            await asyncio.sleep(0.001)
        assert steps - before <= 2
        await asyncio.sleep(0.1)
        assert steps - before <= 3 and r.lanes[0].scheduler.running == 0

    running(test)


def test_who_leaves_while_the_prompt_is_read_leaves_nothing_behind() -> None:
    """The thread that makes the rows goes on; what it has made is ended."""

    async def test() -> None:
        engine = Engine(print)
        engine.start(asyncio.get_running_loop())
        options = ServeOptions(("tiny",), load={"backend": "reference", "dtype": "float32"})
        hub = Hub(Names(read_offers(options.models), any_name=False), options, engine, Metrics(), lambda text: None)
        served: Served = await hub.use("tiny")

        def prepare() -> Any:
            time.sleep(0.3)
            return [[1, 5, 9]], {"max_new_tokens": 400}

        task = asyncio.create_task(served.generate(prepare))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert served.held.rows == 0
        scheduler = served.held.scheduler
        assert scheduler is not None
        await asyncio.sleep(1.0)  # the rows were made after 0.3 seconds
        assert scheduler.waiting == 0 and scheduler.running == 0
        served.release()
        engine.close()
        hub.close()

    asyncio.run(test())
