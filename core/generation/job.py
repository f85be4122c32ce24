"""A request that a scheduler runs among others: its events as they come, and its results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from ..config.context_length import context_length
from ..errors import GenerationError, about_model, model_at_hand, warn
from .outputs import Generation, GenerationStats, StreamEvent, by_prompt

if TYPE_CHECKING:
    from ..backend.protocol import Model
    from .options import GenerationOptions
    from .recording import Recording
    from .sequence import GeneratedSequence


JOBS_OF_CALL: ContextVar[list[Job] | None] = ContextVar("jobs of a call", default=None)
"""Where somebody may want to cancel what a call submits, the jobs of that call."""


def interrupted() -> GenerationError:
    """What ends rows that shared a step which somebody's Ctrl-C ended halfway."""
    return GenerationError("a step of the generation was interrupted", hint="submit the request again")


def lost_by_fork() -> GenerationError:
    """What ends jobs in a forked child: they run on in the process that submitted them."""
    return GenerationError(
        "the job was submitted before this process was forked", hint="submit it in the child, or fork before generating"
    )


class Loop(Protocol):
    """What runs jobs, as they see it."""

    @property
    def model(self) -> Model: ...
    def advance(self, job: Job, *, ended: bool = False, before: float | None = None) -> None: ...
    def cancel(self, job: Job) -> None: ...


class Job:
    """One request of a scheduler: iterate over it for its events, or wait for its :meth:`result`.

    Whoever waits for a job runs the scheduler's steps meanwhile, for all of its jobs.

    Attributes:
        options: the request's, with the seed that is used.
        rows: the sequences, in order of prompt and then of ``num_return_sequences``.
        in_step: a step of its rows runs just now; what it gives is not handed out yet, though rows may have ended.
    """

    def __init__(
        self,
        scheduler: Loop,
        options: GenerationOptions,
        rows: Sequence[GeneratedSequence],
        *,
        recording: Recording | None = None,
    ) -> None:
        self.options = options
        self.rows = list(rows)
        self._counted: dict[str, Any] = {"new_tokens": 0}
        self.recording = recording
        self.in_step = False
        self._scheduler = scheduler
        self._events: deque[list[StreamEvent]] = deque()
        self._deadline = None if options.max_time is None else time.perf_counter() + options.max_time
        self._context = context_length(scheduler.model.config)
        self._about = model_at_hand()  # steps may be run when another model is at hand, or none
        self._warned = False

    @property
    def alone(self) -> bool:
        """Whether its rows go in a batch of their own: they are recorded, guided, beams, or keep no keys and values."""
        return self.recording is not None or not self.options.use_cache or self.options.num_beams > 1 or self.guided

    @property
    def guided(self) -> bool:
        """Whether a second prompt runs beside each row."""
        return bool(self.rows) and self.rows[0].negative is not None

    def slots(self, first_capacity: int | None = None) -> int:
        """Tokens that its rows may get, prompts included, where they go in a batch of their own.

        Args:
            first_capacity: count the storage, which begins with room for so many new tokens and then doubles.
        """
        width = max((row.prompt.length for row in self.rows), default=0)
        width = width if self.recording is None else max(width, self.recording.width)
        if self.guided:
            width += max(len(row.negative or ()) for row in self.rows)
        new = max((row.budget for row in self.rows), default=0)
        columns = width + (new if first_capacity is None else min(new, first_capacity))
        while columns < width + new:
            columns *= 2
        return columns * self.model_rows

    @property
    def model_rows(self) -> int:
        """Rows that it has in the model: all beams of its prompts, and the second prompts beside its rows."""
        rows = len(self.rows) // self.options.num_return_sequences * self.options.rows_of_prompt
        return rows * 2 if self.guided else rows

    @property
    def stats(self) -> GenerationStats:
        """Token counts and times so far."""
        guesses = sum(row.proposed for row in self.rows), sum(row.accepted for row in self.rows)
        return GenerationStats(**self._counted, proposed_tokens=guesses[0], accepted_tokens=guesses[1])

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled before its end."""
        return any(row.left for row in self.rows) and self.error is None

    @property
    def error(self) -> Exception | None:
        """Why it could not go on."""
        return next((row.error for row in self.rows if row.error is not None), None)

    @property
    def done(self) -> bool:
        """Whether nothing more comes: it has finished, failed or was cancelled."""
        return not self.in_step and (self.error is not None or all(row.ended for row in self.rows))

    @property
    def ready(self) -> bool:
        """Whether there is something to hand out, or nothing more comes."""
        return bool(self._events) or self.done

    def __iter__(self) -> Generator[StreamEvent, None, None]:
        return (event for events in self.steps() for event in events)

    def steps(self) -> Generator[list[StreamEvent], None, None]:
        """The events of each step together; of a row at most one. Closing it cancels the job.

        Raises:
            PolyllamaError: what the job failed by.
        """
        try:
            while True:
                if not self._events:
                    self._scheduler.advance(self)
                if self._events:
                    yield self._events.popleft()
                elif self.error is not None:
                    raise self.error
                else:
                    return
        finally:
            self.cancel()

    def taken(self) -> list[StreamEvent]:
        """The events that are there by now: nothing is run, nobody is waited for."""
        found: list[StreamEvent] = []
        while self._events:
            found += self._events.popleft()
        return found

    def finish(self) -> None:
        """Run to the end, whose events nobody looks at. What interrupts it cancels the job.

        Raises:
            PolyllamaError: what the job failed by.
        """
        try:
            self._scheduler.advance(self, ended=True)
        finally:
            self.cancel()
        if self.error is not None:
            raise self.error

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end: a :class:`Generation`, a list of them with ``num_return_sequences`` above 1.

        Args:
            timeout: seconds to wait at most.

        Raises:
            TimeoutError: it took longer; the job goes on.
            GenerationError: it was cancelled.
            PolyllamaError: what it failed by.
        """
        return by_prompt(self.results(timeout), self.options.num_return_sequences)[0]

    def results(self, timeout: float | None = None) -> list[Generation]:
        """:meth:`result` of each row."""
        until = None if timeout is None else time.perf_counter() + timeout
        while not self.done:
            if until is not None and time.perf_counter() > until:
                raise TimeoutError(f"the job has not ended within {timeout} seconds")
            self._scheduler.advance(self, ended=True, before=until)
        if self.error is not None:
            raise self.error
        if self.cancelled:
            raise GenerationError("the job was cancelled", hint="its events up to then are still there: iterate")
        return [row.result(self.stats) for row in self.rows]

    def cancel(self) -> None:
        """Let it end here; nothing where it has ended."""
        self._scheduler.cancel(self)

    # ---- the scheduler's side

    def take(self, events: Sequence[StreamEvent], **more: float) -> None:
        """Keep the events of a step to be handed out, and add to the counts and times."""
        for name, value in more.items():
            self._counted[name] = self._counted.get(name, 0) + value
        self._counted["new_tokens"] += len(events)
        if len(events) == 1:
            self._events.append([*events])
            return
        by_row: dict[int, deque[StreamEvent]] = {}
        for event in events:
            by_row.setdefault(event.row, deque()).append(event)
        while by_row:
            self._events.append([queue.popleft() for queue in by_row.values()])
            by_row = {row: queue for row, queue in by_row.items() if queue}

    def check_time(self) -> None:
        """Let the next token of each row be its last, once the time is over."""
        if self._deadline is not None and time.perf_counter() > self._deadline:
            for row in self.rows:
                row.out_of_time()

    def check_context(self) -> None:
        """Say once that positions run past what the model was made for."""
        if self._context is None or self._warned:
            return
        for row in self.rows:
            if not row.ended and row.length > self._context:
                self._warned = True
                with about_model(self._about):
                    warn(
                        f"row {row.row} is {row.length} tokens long now, more than the model's context of "
                        f"{self._context} (max_position_embeddings): the text will get worse"
                    )
                return
