"""The beams of a request's prompts as one batch: each step their best continuations, the cache in their order.

A beam has no text before the search ends, so all events of a prompt come at its end. What a request records of its
steps is of all beams, those of prompts whose search is over included, as transformers has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GenerationError
from ..messages import counted, mention
from .batch import Batch
from .beams import NOWHERE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..backend.protocol import Model
    from ..graph.cache import CachedRows
    from ..tasks.outputs import ModelOutput
    from .beams import BeamSearch
    from .options import GenerationOptions
    from .outputs import StreamEvent
    from .recording import Recording
    from .request_plan import Prompt
    from .sequence import GeneratedSequence

    Floats = NDArray[np.floating[Any]]


class BeamBatch(Batch):
    """A batch whose rows in the model are beams; its `rows` are those that their best texts go to.

    Args:
        sequences: ``num_return_sequences`` for each prompt.
        recording: what is kept of each step, if anything is.
    """

    def __init__(
        self,
        model: Model,
        sequences: Sequence[GeneratedSequence],
        options: GenerationOptions,
        recording: Recording | None = None,
        prefix: CachedRows | None = None,
        first_capacity: int | None = None,
    ) -> None:
        self._beams, many = options.num_beams, options.num_return_sequences
        self._groups = [list(sequences[start : start + many]) for start in range(0, len(sequences), many)]
        self._searches = [group[0].search() for group in self._groups]
        self._reports = options.logprobs is not None
        self._recording = recording
        self._steps = 0
        storage = {} if first_capacity is None else {"first_capacity": first_capacity}
        super().__init__(model, sequences, cached=options.use_cache, prefix=prefix, **storage)
        self.alone = True
        if recording is not None:
            self.wanted = recording.wanted
        self._prompt_width = self._width([group[0].prompt for group in self._groups])

    # ---- prompts

    def _distinct(self) -> tuple[list[Prompt], list[int]]:
        prompts, places = super()._distinct()
        by_row = dict(zip(map(id, self.rows), places, strict=True))
        each = [by_row[id(group[0])] for group in self._groups for _ in range(self._beams)]
        if self._recording is None:
            return prompts, each
        return [prompts[place] for place in each], list(range(len(each)))

    def _width(self, prompts: Sequence[Prompt]) -> int:
        return super()._width(prompts) if self._recording is None else self._recording.width

    # ---- steps

    def begin(self) -> ModelOutput:
        going_on = [place for place, group in enumerate(self._groups) if self._goes_on(group)]
        # Beams of prompts that are done ride along until they are half of the batch: taking them out copies the cache.
        if 2 * len(going_on) <= len(self._groups) and self._recording is None:
            self._keep(going_on)
        return self._step([beam.token_ids[-1:] for search in self._searches for beam in search.running])

    def take(self, logits: Floats, events: list[tuple[GeneratedSequence, StreamEvent]]) -> None:
        """Choose how the beams go on; an error is of the rows of one prompt alone."""
        newest = logits[:, -1]
        scores: list[Floats] = []
        parents: list[int] = []
        shared: list[int] = []
        self._fed = []
        self._steps += 1
        for number, (group, search) in enumerate(zip(self._groups, self._searches, strict=True)):
            first = number * self._beams
            before = search.running
            of_beams: Sequence[int] = range(self._beams)
            try:
                if self._goes_on(group) or self._recording is not None:
                    own = newest[first : first + self._beams]
                    found = [group[0].beam_scores(beam, row) for beam, row in zip(before, own, strict=True)]
                    scores.extend(found)
                    of_beams = self._search_on(group, search, own, np.stack(found), events)
            except Exception as error:
                for row in group:
                    row.fail(error)
            parents.extend(first + parent for parent in of_beams)
            shared.extend(self._prompt_width + before[i].common(before[p]) for i, p in enumerate(of_beams))
        self._record(newest, scores)
        if self.live or self._recording is not None:  # what is returned of the cache is in the beams' order too
            self.past.follow(parents, shared)
        if self._recording is not None:
            self._recording.cache = self.past.cache

    def _goes_on(self, group: Sequence[GeneratedSequence]) -> bool:
        return any(not row.ended for row in group)

    def _search_on(
        self,
        group: Sequence[GeneratedSequence],
        search: BeamSearch,
        logits: Floats,
        scores: Floats,
        events: list[tuple[GeneratedSequence, StreamEvent]],
    ) -> Sequence[int]:
        """A prompt's next step; returns the beam that each was before. Its rows end with it where it is over."""
        done, first = search.done, group[0]
        if first.budget <= self._steps < search.rules.longest:
            search.out_of_time()

        def report(beam: int, token_id: int) -> Any:
            return first.beam_logprob(logits[beam], token_id)

        try:
            parents = search.step(scores, report if self._reports else None)
        except GenerationError:
            if done:  # its texts are known; what is recorded of it has nothing more to show
                return range(self._beams)
            raise
        if not done:
            for row in group:
                row.ahead = self._steps
            if search.done:
                self._finish(group, search, events)
        return parents

    def _finish(
        self,
        group: Sequence[GeneratedSequence],
        search: BeamSearch,
        events: list[tuple[GeneratedSequence, StreamEvent]],
    ) -> None:
        """Hand the best texts to a prompt's rows."""
        texts = [(end.beam, float(end.score)) for end in search.ended if end.beam is not None]
        if len(texts) < len(group):
            raise GenerationError(
                f"row {group[0].row}: no more than {counted(len(texts), 'text')} can be found, "
                f"num_return_sequences asks for {len(group)}",
                hint=f"scores below {NOWHERE:.0f} do not count: raise " + mention("length_penalty")
                if search.rules.length_penalty < 0
                else "lower " + mention("num_return_sequences") + ", or loosen what forbids tokens",
            )
        for row, (beam, score) in zip(group, texts, strict=False):
            if not row.ended:
                events.extend((row, event) for event in row.end_as(beam, score))

    def _keep(self, numbers: Sequence[int]) -> None:
        """Go on with the beams of some prompts alone."""
        self._groups = [self._groups[number] for number in numbers]
        self._searches = [self._searches[number] for number in numbers]
        self.rows = [row for group in self._groups for row in group]
        places = [number * self._beams + beam for number in numbers for beam in range(self._beams)]
        self.past.select(places)
        self.mask, self.adapters = self.mask[places], self.adapters[places]

    # ---- what is recorded

    def _forward(self, inputs: NDArray[Any]) -> ModelOutput:
        output = super()._forward(inputs)
        if self._recording is not None:
            self._recording.keep(output, self.past.cache)
        return output

    def _record(self, logits: Floats, scores: Sequence[Floats]) -> None:
        recording = self._recording
        if recording is None:
            return
        if recording.logits:
            recording.all_logits.append(np.array(logits, np.float32))
        if recording.scores and len(scores) == len(logits):
            recording.all_scores.append(np.stack(scores))
