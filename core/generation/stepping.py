"""What a scheduler runs: rows that wait, batches of rows that go through the model together, step by step.

Rows that have run their prompts join the others in one batch; a row that ends leaves its place. What goes wrong with a
row ends its job, and what goes wrong with a batch the jobs in it; others never notice.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .batch import ALIGNED, SPARE, Batch
from .guidance import GuidedBatch
from .job import Job, interrupted
from .out_of_memory import naming_what_takes_memory
from .turns import Inside

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..backend.protocol import Model
    from .cache_memory import CacheMemory
    from .kept_texts import KeptTexts
    from .outputs import StreamEvent
    from .sequence import GeneratedSequence


class Steps:
    """Rows that wait and batches that run; whoever has the turn calls :meth:`step`.

    Args:
        lock: guards what others look at and change: `waiting`, the known rows, the kept texts.
    """

    def __init__(
        self,
        model: Model,
        memory: CacheMemory,
        texts: KeptTexts,
        lock: threading.RLock,
        *,
        prefill_tokens: int,
        max_rows: int,
        first_capacity: int,
    ) -> None:
        self.model = model
        self.prefill_tokens, self.max_rows, self.first_capacity = prefill_tokens, max_rows, first_capacity
        self.waiting: deque[GeneratedSequence] = deque()
        self.batches: list[Batch] = []
        self._known: dict[int, tuple[GeneratedSequence, Job]] = {}  # rows with their jobs, by their identity
        self._memory, self._texts, self._lock = memory, texts, lock
        self.inside = Inside()

    def add(self, job: Job) -> None:
        """Let the rows of a job wait for their turn."""
        for row in job.rows:
            if not row.ended:
                self._known[id(row)] = row, job
                self.waiting.append(row)

    @property
    def rows(self) -> list[GeneratedSequence]:
        """All rows that have not been reaped."""
        return [row for row, _ in list(self._known.values())]

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run."""
        return not self.waiting and not self.batches

    @property
    def running(self) -> int:
        """Rows that are in a batch and have not ended."""
        return sum(not row.ended and id(row) in self._known for batch in self.batches for row in batch.rows)

    def step(self) -> None:
        """Run everything one step on."""
        with self.inside:
            self._step()

    def _step(self) -> None:
        if self.waiting:
            with self._lock:
                self._admit()
        for batch in list(self.batches):
            self._advance(batch)
        with self._lock:
            self.reap()
        if len(self.batches) > 1:
            self._join()
        for batch in list(self.batches):
            self._run_ahead(batch)

    def reap(self) -> None:
        """Take out rows that have ended, and batches without any other."""
        for _, job in [known for known in self._known.values() if known[0].error is not None]:
            for row in job.rows:
                if not row.ended:
                    row.leave()
        gone = {key: row for key, (row, _) in self._known.items() if row.ended}
        if not gone:
            return
        self.waiting = deque(row for row in self.waiting if not row.ended)
        for batch in list(self.batches):
            ended = [row for row in batch.rows if id(row) in gone]
            if not batch.live:
                self.batches.remove(batch)
            if ended and not batch.alone and not (batch.live and getattr(self.model, "compiles_rows", False)):
                self._texts.keep(batch, ended, copied=bool(batch.live))
        for key in gone:
            del self._known[key]
        if self.idle:
            self._texts.rest()
        self._leave_room()

    # ---- rows that begin

    def _admit(self) -> None:
        """Begin with the prompts of rows that wait, as many as go together and fit."""
        while self.waiting and self._job(self.waiting[0]).alone:
            if not self._fits_alone(self._job(self.waiting[0])):
                return  # and so do those behind it, or it would wait for ever
            self._begin_alone(self._job(self.waiting[0]))
        shared = [batch for batch in self.batches if not batch.alone]
        if self.waiting and all(batch.joins and not batch.filling for batch in shared):
            rows, prefix = self._group()
            self._begin(rows, lambda: Batch(self.model, rows, prefix=prefix, first_capacity=self.first_capacity))

    def _begin_alone(self, job: Job) -> None:
        rows = [row for row in job.rows if not row.ended]
        self.waiting = deque(row for row in self.waiting if not any(row is other for other in job.rows))
        self._begin(rows, lambda: self._alone(job, rows))

    def _alone(self, job: Job, rows: Sequence[GeneratedSequence]) -> Batch:
        """A batch that no other rows join, nor leave for want of memory: what it may get is reserved."""
        batch = self._batch_of(job, rows)
        batch.reserved = job.slots
        return batch

    def _batch_of(self, job: Job, rows: Sequence[GeneratedSequence]) -> Batch:
        if job.options.num_beams > 1:
            from .beam_batch import BeamBatch

            first = job.rows[0].prompt
            same = all(row.prompt.same(first) for row in job.rows)
            prefix = self._texts.find(first) if same and job.options.use_cache and job.recording is None else None
            return BeamBatch(self.model, job.rows, job.options, job.recording, prefix, self.first_capacity)
        if job.recording is not None:
            return job.recording.batch(self.model, job.rows, job.options, self.first_capacity)
        if job.guided:
            return GuidedBatch(self.model, rows, job.options, self.first_capacity)
        return Batch(self.model, rows, cached=False, first_capacity=self.first_capacity)

    def _begin(self, rows: Sequence[GeneratedSequence], make: Any) -> None:
        """Add a batch, which may find no memory for its storage."""
        if not rows:
            return
        try:
            with naming_what_takes_memory(self._job(rows[0]).options):
                self.batches.append(make())
            self._leave_room()
        except Exception as error:
            for row in rows:
                row.fail(error)
        except BaseException:
            self.waiting.extendleft(reversed(rows))
            raise

    def _group(self) -> tuple[list[GeneratedSequence], Any]:
        """The next rows to begin with; those of one prompt, where its beginning was run before."""
        first = self.waiting[0].to_run
        prefix = self._texts.find(first)
        rows: list[GeneratedSequence] = []
        while self.waiting:
            row = self.waiting[0]
            prompt = row.to_run
            if self._job(row).alone or (prompt.embeds is None) != (first.embeds is None):
                break
            if rows and not prompt.same(first) and (prefix is not None or self._texts.waits(prompt, first)):
                break
            # All of a batch are as wide as the widest, and others wait while they run.
            if rows and self.batches and abs(prompt.length - first.length) > self.prefill_tokens:
                break
            if not self._fits([*rows, row]):
                break
            rows.append(self.waiting.popleft())
        return rows, prefix

    # ---- a batch's step

    def _advance(self, batch: Batch) -> None:
        """Run a batch one step on and hand out what it gives; what goes wrong is its rows' alone."""
        owners = self._owners(batch)
        jobs = list(dict.fromkeys(owners.values()))
        if not jobs:
            return
        began, filling = time.perf_counter(), batch.filling
        for job in jobs:
            job.in_step = True
        events: list[tuple[GeneratedSequence, StreamEvent]] = []
        try:
            self._check(jobs)
            with naming_what_takes_memory(jobs[0].options):
                if filling:
                    logits = batch.prefill(self._chunk(batch, jobs))
                else:
                    self._make_room(batch)
                    logits = batch.decode()
                if logits is not None:
                    for job in jobs:
                        job.check_time()
                    self.take(batch, logits, events)
        except Exception as error:
            batch.fail(error)
        except BaseException:
            self._dissolve(batch)
            raise
        finally:
            try:
                own = [(owners[id(row)], row, event) for row, event in events]
                self._hand_out(batch, jobs, own, filling=filling, seconds=time.perf_counter() - began)
            finally:
                for job in jobs:
                    job.in_step = False
        if filling and not batch.filling and self.waiting and not batch.alone:
            with self._lock:
                self._texts.keep_prompts(batch, [row.to_run for row in self.waiting])

    def take(self, batch: Batch, logits: NDArray[Any], events: list[tuple[GeneratedSequence, StreamEvent]]) -> None:
        """Choose the next tokens of a batch's rows."""
        batch.take(logits, events)

    @staticmethod
    def _check(jobs: Iterable[Job]) -> None:
        """Say what there is to say of jobs before their step; a warning that is an error is the job's own."""
        for job in jobs:
            try:
                job.check_context()
            except Exception as error:
                job.rows[0].fail(error)

    def _dissolve(self, *batches: Batch) -> None:
        """Forget batches that were interrupted halfway: their rows begin anew from what they have, and lose nothing."""
        with self._lock:
            for batch in batches:
                if batch in self.batches:
                    self.batches.remove(batch)
                for row in reversed([row for row in batch.rows if row is not SPARE and not row.ended]):
                    if batch.alone or row.prompt.embeds is not None:
                        row.fail(interrupted())
                    else:
                        row.proposals_were(0, 0)
                        self.waiting.appendleft(row)
            self.reap()

    def _hand_out(
        self,
        batch: Batch,
        jobs: Sequence[Job],
        events: Sequence[tuple[Job, GeneratedSequence, StreamEvent]],
        *,
        filling: bool,
        seconds: float,
    ) -> None:
        """Give each job its events, counts and times."""
        for job in jobs:
            own = [(row, event) for owner, row, event in events if owner is job]
            more: dict[str, float] = {"prefill_seconds" if filling else "decode_seconds": seconds}
            if filling and not batch.filling:
                more |= batch.counted_for(job.rows)
                more["first_tokens"] = sum(len(row.token_ids) == 1 for row, _ in own)
            job.take([event for _, event in own], **more)

    def _chunk(self, batch: Batch, jobs: Sequence[Job]) -> int | None:
        """Places of each prompt to run now."""
        asked = [job.options.prefill_chunk_size for job in jobs if job.options.prefill_chunk_size is not None]
        if any(other is not batch and not other.filling for other in self.batches):
            asked.append(max(1, self.prefill_tokens // len(batch.mask)))
        return min(asked, default=None)

    def _run_ahead(self, batch: Batch) -> None:
        """Start the next pass where that takes no waiting: it runs while whoever waits looks at the events."""
        jobs = list(dict.fromkeys(self._owners(batch).values()))
        if batch.filling or not batch.live or not jobs or not getattr(self.model, "asynchronous", False):
            return
        began = time.perf_counter()
        try:
            with naming_what_takes_memory(jobs[0].options):
                self._make_room(batch)
                batch.begin()
        except Exception as error:
            batch.fail(error)
        except BaseException:
            self._dissolve(batch)
            raise
        for job in jobs:
            job.take([], decode_seconds=time.perf_counter() - began)

    def _join(self) -> None:
        """Make one batch of those that have run their prompts."""
        ready = [b for b in self.batches if not b.filling and b.live and b.joins and not b.alone]
        for other in ready[1:]:
            try:
                ready[0].join(other)
                self.batches.remove(other)
            except Exception as error:  # of memory: the rows that ran are as they were
                other.fail(error)
            except BaseException:
                self._dissolve(ready[0], other)
                raise
        if ready[1:]:
            self._leave_room()

    def _job(self, row: GeneratedSequence) -> Job:
        return self._known[id(row)][1]

    def _owners(self, batch: Batch) -> dict[int, Job]:
        """The jobs of a batch's rows, by the rows' identity."""
        return {id(row): known[1] for row in batch.rows if (known := self._known.get(id(row))) is not None}

    # ---- memory

    def running_bytes(self) -> int:
        """Bytes of keys and values of all batches; of those that no rows leave before their end, all they may get."""
        slots = (max(len(b.mask) * b.capacity, b.reserved) for b in self.batches if b.past.cache is not None)
        return sum(slots) * self._memory.per_token

    def _fits_alone(self, job: Job) -> bool:
        """Whether a batch of its own may begin beside those that run: with no other it always may."""
        if not self.batches:
            return True
        if sum(batch.model_rows for batch in self.batches) + job.model_rows > self.max_rows:
            return False
        if not job.options.use_cache:
            return True
        wanted = self.running_bytes() + job.slots * self._memory.per_token
        if wanted > self._memory.limit:
            return False
        self._texts.shrink(self._memory.limit - wanted)
        return True

    def _fits(self, rows: Sequence[GeneratedSequence]) -> bool:
        """Whether rows may begin beside those that run, in one batch with them later: one with no other always may."""
        shared = [batch for batch in self.batches if not batch.alone]
        reserved = self.running_bytes() if len(shared) < len(self.batches) else 0
        if reserved:
            own = sum(len(batch.mask) * batch.capacity for batch in shared if batch.past.cache is not None)
            reserved -= own * self._memory.per_token
        others = [row for batch in shared for row in batch.rows if not row.ended]
        count = len(rows) + len(others)
        if count + sum(batch.model_rows for batch in self.batches if batch.alone) > self.max_rows:
            return len(rows) == 1 and not self.batches
        longest = max([row.to_run.length for row in rows] + [batch.used for batch in shared])
        room = min(max(row.remaining for row in (*rows, *others)), self.first_capacity)
        columns = max([longest + ALIGNED * bool(others) + room, *(batch.capacity for batch in shared)])
        wanted = count * columns * self._memory.per_token + reserved
        if wanted > self._memory.limit:
            return count == 1 and not reserved
        self._texts.shrink(self._memory.limit - wanted)
        return True

    def _make_room(self, batch: Batch) -> None:
        """Before a batch's storage grows beyond the memory there is, let its youngest rows wait and run again later."""
        if not batch.grows or batch.alone or not batch.joins:
            return

        def more() -> int:
            return len(batch.mask) * (batch.grown - batch.capacity) * self._memory.per_token

        while len(live := batch.live) > 1:
            if self.running_bytes() + more() <= self._memory.limit or batch.rows[live[-1]].prompt.embeds is not None:
                break
            with self._lock:
                self.waiting.appendleft(batch.rows[live[-1]])
            batch.leave(live[-1])
        self._leave_room(more())

    def _leave_room(self, more: int = 0) -> None:
        """Let kept texts have what running rows, and `more` bytes of theirs, do not need."""
        with self._lock:
            self._texts.shrink(self._memory.limit - self.running_bytes() - more)
