"""The one generation loop, for any number of callers: requests in, jobs out.

A step runs the newest tokens of all rows that generate, and a chunk of the prompts of rows that are to join them: see
``stepping.py``. Whoever waits for something runs the steps: there is no thread of its own, so one caller alone loses
nothing, and several share what runs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakValueDictionary

from ..errors import GenerationError
from .batch import FIRST_CAPACITY
from .cache_memory import CacheMemory
from .guessers import let_guess
from .job import JOBS_OF_CALL, Job, lost_by_fork
from .kept_texts import KeptTexts
from .options import GenerationOptions
from .request import GenerationTokenizer, make_rows
from .stepping import Steps
from .turns import Turns

if TYPE_CHECKING:
    from ..backend.protocol import Model
    from .recording import Recording
    from .sequence import GeneratedSequence

PREFILL_TOKENS = 512
"""Tokens of prompts that run in a step while other rows wait for theirs."""

MOST_ROWS = 256
"""Rows that run together at most, where nobody says how many."""

OFTEN = 0.05
"""Seconds after which who waits for a limited time looks at the clock."""


class Scheduler:
    """Runs the requests of one model together: submit them, then iterate over the jobs or wait for their results.

    Safe to be used from any thread. A row gets what it would get alone: the same token wherever the margin is larger
    than rounding. A forked child begins with nothing to run; jobs of its parent end there, with an error.

    Args:
        tokenizer: for texts and stop strings; without, jobs give token ids alone.
        cache_memory: bytes of keys and values at most, of running rows and of texts that are kept for others which
            begin like them; half of what is free on the device, by default.
        prefill_tokens: tokens of prompts in one step while other rows wait, so that none of them stalls longer.
        max_rows: rows that run together at most.
        prefix_cache: whether prompts go on from what was run of others; by default where a call that is made twice
            still gives the same twice: see :class:`~polyllama.core.generation.kept_texts.KeptTexts`.
        first_capacity: generated tokens of a row that storage is made for at first.

    >>> from polyllama import Llama
    >>> llm = Llama.load("tiny", backend="reference")
    >>> scheduler = Scheduler(llm.model, llm.tokenizer)
    >>> jobs = [scheduler.submit(llm.tokenizer.encode(text), max_new_tokens=4) for text in ("Once", "One day")]
    >>> [len(job.result().token_ids) for job in jobs]
    [4, 4]
    """

    _steps: ClassVar[type[Steps]] = Steps

    def __init__(
        self,
        model: Model,
        tokenizer: GenerationTokenizer | None = None,
        *,
        cache_memory: int | None = None,
        prefill_tokens: int = PREFILL_TOKENS,
        max_rows: int = MOST_ROWS,
        prefix_cache: bool | None = None,
        first_capacity: int = FIRST_CAPACITY,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._memory = CacheMemory(model, cache_memory)
        self._lasting = prefix_cache
        self._sizes = {"prefill_tokens": prefill_tokens, "max_rows": max_rows, "first_capacity": first_capacity}
        self._begin()
        _SCHEDULERS[id(self)] = self

    def _begin(self) -> None:
        """Have nothing to run, and locks that nobody holds."""
        self._lock = threading.RLock()
        self._turns = Turns(self._lock)
        self._texts = KeptTexts(self.model, self._memory, self._lasting)
        self._loop = self._steps(self.model, self._memory, self._texts, self._lock, **self._sizes)

    def _forked(self) -> None:
        """Begin anew in a forked child: the thread that ran the steps, or holds the lock, is not in it."""
        left = self._loop.rows
        self._begin()
        for row in left:
            if not row.ended:
                row.fail(lost_by_fork())

    def submit(self, prompt_ids: Sequence[int], options: GenerationOptions | None = None, **named: Any) -> Job:
        """Have a prompt continued; nothing runs before somebody waits for a job.

        Args:
            prompt_ids: token ids.
            options: or one by one as `named`, as of :class:`GenerationOptions`.

        Raises:
            InputError, GenerationError: what is wrong with the prompt or the options, or it can never fit into
                `cache_memory`.
        """
        if options is None:
            options = GenerationOptions.resolve(named, config=self.model.config)
        elif named:
            raise GenerationError("options are given as an object and one by one", hint="give them one way")
        options = options.seeded()
        return self.add(options, make_rows(self.model, self.tokenizer, [prompt_ids], options))

    def add(
        self, options: GenerationOptions, rows: Sequence[GeneratedSequence], recording: Recording | None = None
    ) -> Job:
        """:meth:`submit` rows that were made already."""
        job = Job(self, options, rows, recording=recording)
        self._memory.refuse_what_never_fits(job)
        let_guess(job, by_length=self._texts.by_length)
        if (watched := JOBS_OF_CALL.get()) is not None:
            watched.append(job)
        with self._lock:
            self._texts.submitted()
            self._loop.add(job)
        return job

    def cancel(self, job: Job) -> None:
        """Let a job end here; its rows leave at once, or after the step that runs just now."""
        with self._lock:
            for row in job.rows:
                if not row.ended:
                    row.leave()
            if not self._turns.held:
                self._loop.reap()

    def advance(self, job: Job, *, ended: bool = False, before: float | None = None) -> None:
        """Run steps, or wait while somebody else does, until there is something to hand out of a job.

        Args:
            ended: until nothing more comes of it.
            before: until then at most, by ``time.perf_counter()``.
        """

        def until() -> bool:
            there = job.done if ended else job.ready
            return there or (before is not None and time.perf_counter() > before)

        self._loop.inside.refuse()
        while self._turns.taken(until, 1.0 if before is None else OFTEN):
            try:
                while not until():
                    self._loop.step()
                    self._turns.wake()
            finally:
                self._turns.pass_on()

    def step(self) -> bool:
        """Run one step for all jobs; whether there was anything to run.

        Raises:
            GenerationError: code that a step runs calls it.
        """
        self._loop.inside.refuse()
        self._turns.taken(lambda: False)
        try:
            if self._loop.idle:
                return False
            self._loop.step()
            self._turns.wake()
            return True
        finally:
            self._turns.pass_on()

    @property
    def max_rows(self) -> int:
        """Rows that run together at most; it can be set, and holds for rows that begin from then on."""
        return self._loop.max_rows

    @max_rows.setter
    def max_rows(self, value: int) -> None:
        self._loop.max_rows = value

    @property
    def running(self) -> int:
        """Rows that are in a batch and have not ended."""
        return self._loop.running

    @property
    def waiting(self) -> int:
        """Rows that are in no batch yet, or no more for want of memory."""
        return len(self._loop.waiting)

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values of all rows that run."""
        return self._loop.running_bytes()

    @property
    def cache_limit(self) -> int:
        """Bytes that keys and values may take."""
        return self._memory.limit

    def forget(self) -> None:
        """Give back the memory of texts that are kept for others which begin like them."""
        with self._lock:
            self._texts.forget()


_SCHEDULERS: WeakValueDictionary[int, Scheduler] = WeakValueDictionary()
"""All that there are, which a forked child begins anew."""


def _begin_anew() -> None:
    for reference in _SCHEDULERS.valuerefs():
        scheduler = reference()
        if scheduler is not None:
            scheduler._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
