"""One request from its prompts to its results: rows that are handed to a scheduler, a part at a time if need be."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import GenerationError, about_model, model_at_hand
from .callables import NUMPY, ArrayKind
from .options import GenerationOptions
from .outputs import Generation, GenerationStats, StreamEvent
from .request import GenerationTokenizer, make_rows
from .request_plan import Prompt
from .scheduler import Scheduler
from .sequence import GeneratedSequence
from .streaming import TextAssembler

if TYPE_CHECKING:
    from ..backend.protocol import Model
    from .job import Job
    from .recording import Recording


class GenerationRun:
    """One request: iterate over it once for the events, then ask it for the results.

    Everything is checked when it is made. Events of rows that run together alternate, one step at a time; with
    ``batch_size`` one batch comes after the other.

    Attributes:
        options: the request's, with the seed that is used.
        sequences: one per row, in order of prompt and then of ``num_return_sequences``.

    Args:
        prompts: token ids, or what was made of an array.
        open_end: a row that reaches its budget keeps back what is not certain, for a text that goes on.
        text: what has begun so, of the one row that there is.
        texts: whether texts are wanted; without, only stop strings have them made.
        recording: keep what every step gives beside its tokens.
        scheduler: which runs other requests of the model too; one of its own without.
        arrays: the kind that came in, which a caller's own code is given.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: GenerationTokenizer | None,
        prompts: Sequence[Sequence[int] | Prompt],
        options: GenerationOptions | None = None,
        *,
        open_end: bool = False,
        text: TextAssembler | None = None,
        texts: bool = True,
        recording: Recording | None = None,
        scheduler: Scheduler | None = None,
        arrays: ArrayKind = NUMPY,
    ) -> None:
        self.options = options = (options or GenerationOptions()).seeded()
        self._scheduler = scheduler or Scheduler(model)
        self._recording = recording
        self._started = False
        self._about = model_at_hand()  # the events may be asked for when another model is at hand, or none
        self._jobs: list[Job] = []
        record = recording is not None and recording.scores
        how: dict[str, Any] = {"open_end": open_end, "text": text, "texts": texts, "record": record, "arrays": arrays}
        self.sequences: list[GeneratedSequence] = make_rows(model, tokenizer, prompts, options, **how)

    def __iter__(self) -> Generator[StreamEvent, None, None]:
        steps = self.steps()
        return (event for events in steps for event in events)

    def steps(self) -> Generator[list[StreamEvent], None, None]:
        """The events of each step together, rather than one by one.

        Raises:
            GenerationError: somebody has iterated over this run already.
        """
        self._begin()
        return self._steps()

    @property
    def finished(self) -> bool:
        """Whether every row has ended."""
        return all(sequence.finish_reason is not None for sequence in self.sequences)

    @property
    def stats(self) -> GenerationStats:
        """Token counts and times so far."""
        found = GenerationStats()
        for job in self._jobs:
            found = found.plus(**vars(job.stats))
        return found

    def results(self) -> list[Generation]:
        """Return one result per row.

        Raises:
            GenerationError: not every row has ended yet.
        """
        if not self.finished:
            raise GenerationError("generation has not finished", hint="iterate over the GenerationRun to its end first")
        return [sequence.result(self.stats) for sequence in self.sequences]

    def finish(self) -> list[Generation]:
        """Run to the end and return the results: :meth:`steps` and :meth:`results` without anybody looking on."""
        self._begin()
        for job in self._parts():
            job.finish()
        return self.results()

    def cancel(self) -> None:
        """Let it end here, whoever iterates over it."""
        for job in self._jobs:
            job.cancel()

    def _begin(self) -> None:
        if self._started:
            raise GenerationError("this GenerationRun has been iterated over already", hint="make a new one")
        self._started = True

    def _steps(self) -> Generator[list[StreamEvent], None, None]:
        for job in self._parts():
            yield from job.steps()

    def _parts(self) -> Iterator[Job]:
        """The rows as jobs, so many at a time as are to run together."""
        size = self.options.batch_size or len(self.sequences) or 1
        if self.options.num_beams > 1:
            size *= self.options.num_return_sequences  # of prompts, whose rows belong together
        for start in range(0, len(self.sequences), size):
            with about_model(self._about):
                job = self._scheduler.add(self.options, self.sequences[start : start + size], self._recording)
            self._jobs.append(job)
            yield job
