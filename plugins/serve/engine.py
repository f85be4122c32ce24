"""The one thread that runs models: it steps each model's scheduler, and hands what comes to the event loop.

HTTP never waits for a model: requests are handed over and tokens come back by one wake-up of the event loop for a step,
whatever number of requests there is. What a reader has not taken yet is kept as the request's state, not in a queue: it
is never more than the request's own tokens, and comes in one piece when the reader is there again.
"""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...core.errors import PolyllamaError
from ...core.http_interface import HttpError

if TYPE_CHECKING:
    from ...core.generation.job import Job
    from ...core.generation.outputs import Generation, StreamEvent
    from ...core.generation.scheduler import Scheduler
    from .metrics import ModelMetrics

AT_ONCE = 256
"""Tokens that a reader gets at once: making JSON of many takes the event loop's time from others."""


class Ticket:
    """A job that the engine runs, as the event loop sees it: one reader at a time.

    Attributes:
        first_seconds: from its submission to its first token; ``None`` before.
    """

    def __init__(self, engine: Engine, lane: Lane, job: Job, begun: float) -> None:
        self.job = job
        self.first_seconds: float | None = None
        self._engine, self._lane, self._begun = engine, lane, begun
        self._latest = begun
        self._pending: list[StreamEvent] = []
        self._ended = False
        self._failure: str | None = None
        self._reader: asyncio.Future[None] | None = None
        self._when_ended: Callable[[], None] | None = None

    def when_ended(self, call: Callable[[], None]) -> None:
        """Have a function called on the event loop's thread once nothing of the job runs any more."""
        self._when_ended = call

    async def events(self) -> AsyncIterator[list[StreamEvent]]:
        """The tokens since the last look; leaving before the end cancels the job.

        Raises:
            HttpError: the job failed.
        """
        try:
            while True:
                if self._pending:
                    taken, self._pending = self._pending[:AT_ONCE], self._pending[AT_ONCE:]
                    yield taken
                    if self._pending:  # others have their turn between
                        await asyncio.sleep(0)
                elif self._ended:
                    self._raise_failure()
                    return
                else:
                    self._reader = asyncio.get_running_loop().create_future()
                    await self._reader
        finally:
            self.cancel()

    async def results(self) -> Sequence[Generation]:
        """Wait for the end: a result for each row."""
        async for _ in self.events():
            pass
        return [row.result(self.job.stats) for row in self.job.rows]

    def cancel(self) -> None:
        """Let the job end after the step that runs just now; nothing where it has ended."""
        if not self._ended:
            self._engine.cancel(self.job)

    def _raise_failure(self) -> None:
        error = self.job.error
        if self._failure is not None or (error is not None and not isinstance(error, PolyllamaError | MemoryError)):
            raise HttpError("the model failed at this request", status=500, kind="server_error")
        if isinstance(error, MemoryError):
            raise HttpError("out of memory", status=503, kind="server_error", hint="send less, or later")
        if error is not None:
            raise HttpError(str(error), status=500, kind="server_error")

    # ---- the engine's side

    def hand(self, events: Sequence[StreamEvent], ended: bool, metrics: ModelMetrics, failure: str | None) -> None:
        """Take what has come, on the event loop's thread."""
        now = time.perf_counter()
        if events:
            if self.first_seconds is None:
                self.first_seconds = now - self._begun
                metrics.first_token.see(self.first_seconds)
            else:
                rows = len({event.row for event in events})
                metrics.per_token.see((now - self._latest) * rows / len(events), len(events))
            self._latest = now
            metrics.generated_tokens += len(events)
            self._pending += events
        if ended and not self._ended:
            self._ended, self._failure = True, failure
            metrics.ended(self.job)
            if self._when_ended is not None:
                self._when_ended()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Lane:
    """A model's scheduler and the tickets that it runs for."""

    def __init__(self, scheduler: Scheduler, metrics: ModelMetrics) -> None:
        self.scheduler, self.metrics = scheduler, metrics
        self.tickets: list[Ticket] = []


class Engine:
    """Runs the steps of all models in one thread, in turn.

    Attributes:
        failure: why the thread ended, where it did.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self.failure: str | None = None
        self._log = log
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inbox: deque[Callable[[], object]] = deque()
        self._wake = threading.Event()
        self._lanes: list[Lane] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="polyllama engine", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; events go to this loop."""
        self._loop = loop
        self._thread.start()

    def submit(self, lane: Lane, job: Job, begun: float) -> Ticket:
        """Run a job that its scheduler has; from any thread."""
        ticket = Ticket(self, lane, job, begun)
        self._tell(lambda: lane.tickets.append(ticket))
        return ticket

    def cancel(self, job: Job) -> None:
        """End a job between two steps."""
        self._tell(job.cancel)

    def add(self, lane: Lane) -> None:
        """Step this model's scheduler from now on."""
        self._tell(lambda: self._lanes.append(lane))

    def remove(self, lane: Lane) -> None:
        """Forget a model, which runs nothing any more."""
        self._tell(lambda: self._lanes.remove(lane))

    async def ping(self, patience: float) -> float | None:
        """Ask the loop whether it turns: seconds until it answers, ``None`` where it does not in time."""
        if self.failure is not None or not self._thread.is_alive():
            return None
        loop = asyncio.get_running_loop()
        answered, begun = loop.create_future(), time.perf_counter()

        def answer() -> None:
            if not answered.done():
                answered.set_result(None)

        self._tell(lambda: loop.call_soon_threadsafe(answer))
        try:
            await asyncio.wait_for(answered, patience)
        except TimeoutError:
            return None
        return time.perf_counter() - begun

    def close(self) -> None:
        """End after the step that runs just now."""
        self._closing = True
        self._wake.set()

    def _tell(self, message: Callable[[], object]) -> None:
        self._inbox.append(message)
        self._wake.set()

    # ---- in the thread

    def _run(self) -> None:
        try:
            while not self._closing:
                while self._inbox:
                    self._take(self._inbox.popleft())
                busy = [lane for lane in self._lanes if lane.tickets]
                for lane in busy:
                    self._step(lane)
                if not busy and not self._inbox:
                    self._wake.wait()
                    self._wake.clear()
        except BaseException as error:  # a bug: /health says so, and nobody waits for what never comes
            self.failure = f"{type(error).__name__}: {error}"
            self._log(traceback.format_exc())
            for lane in self._lanes:
                self._hand_out(lane, self.failure)

    def _take(self, message: Callable[[], object]) -> None:
        try:
            message()
        except Exception:  # of one request, and nothing to the others
            self._log(traceback.format_exc())

    def _step(self, lane: Lane) -> None:
        """Run a model one step on; what goes wrong beyond its jobs is theirs alone."""
        failure = None
        try:
            lane.scheduler.step()
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
            self._log(traceback.format_exc())
            for ticket in lane.tickets:
                ticket.job.cancel()
        self._hand_out(lane, failure)

    def _hand_out(self, lane: Lane, failure: str | None) -> None:
        news: list[tuple[Ticket, list[StreamEvent], bool, str | None]] = []
        for ticket in lane.tickets:
            ended = ticket.job.done or failure is not None
            events = ticket.job.taken()
            if ended and ticket.job.error is not None and not isinstance(ticket.job.error, PolyllamaError):
                self._log("\n".join(getattr(ticket.job.error, "__notes__", [str(ticket.job.error)])))
            if events or ended:
                news.append((ticket, events, ended, failure))
        if any(ended for _, _, ended, _ in news):
            lane.tickets = [ticket for ticket in lane.tickets if not ticket.job.done and failure is None]
        lane.metrics.running, lane.metrics.waiting = lane.scheduler.running, lane.scheduler.waiting
        if news and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, lane, news)


def _deliver(lane: Lane, news: Any) -> None:
    for ticket, events, ended, failure in news:
        ticket.hand(events, ended, lane.metrics, failure)
