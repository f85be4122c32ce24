"""Keeping what every step gives beside its tokens: scores, logits, attentions, hidden states and the cache.

As transformers has it, every row goes on to the last step: one that has ended is given padding, and what that gives is
part of the result. So no row leaves the batch, and equal prompts are run apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .batch import FIRST_CAPACITY, Batch
from .guidance import Beside
from .past import Wanted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..backend.protocol import Model
    from ..graph.cache import CachedRows
    from ..tasks.outputs import ModelOutput
    from .options import GenerationOptions
    from .outputs import StreamEvent
    from .request_plan import Prompt
    from .sequence import GeneratedSequence

    Floats = NDArray[np.floating[Any]]


@dataclass
class Recording:
    """What is kept of each step, and what was; arrays are the backend's own, but for scores and logits.

    Attributes:
        width: places of a row of the prompt array.
        pad_token_id: what rows that have ended go on with.
        scores: the kept ``[rows, vocab]`` of each step, processed; `all_logits` as the model gave them.
        all_attentions, all_hidden_states: of each step, a tuple of layers.
        cache: the newest; `begun` one that holds the first places of each row already.
    """

    width: int
    pad_token_id: int
    scores: bool = False
    logits: bool = False
    attentions: bool = False
    hidden_states: bool = False
    all_scores: list[Floats] = field(default_factory=list)
    all_logits: list[Floats] = field(default_factory=list)
    all_attentions: list[tuple[Any, ...]] = field(default_factory=list)
    all_hidden_states: list[tuple[Any, ...]] = field(default_factory=list)
    cache: Any = None
    begun: Any = None

    def batch(
        self,
        model: Model,
        sequences: Sequence[GeneratedSequence],
        options: GenerationOptions,
        first_capacity: int = FIRST_CAPACITY,
    ) -> Batch:
        """The rows of a run, which this then records."""
        return _RecordedBatch(model, sequences, self, options, first_capacity)

    @property
    def wanted(self) -> Wanted:
        """What each pass is to give beside logits."""
        return Wanted(self.attentions, self.hidden_states)

    def keep(self, output: ModelOutput, cache: Any) -> None:
        """Keep what a pass gave beside logits."""
        if self.attentions:
            self.all_attentions.append(tuple(output.attentions or ()))
        if self.hidden_states:
            self.all_hidden_states.append(tuple(output.hidden_states or ()))
        self.cache = cache


class _RecordedBatch(Batch):
    """Rows that all go on to the last step."""

    def __init__(
        self,
        model: Model,
        sequences: Sequence[GeneratedSequence],
        recording: Recording,
        options: GenerationOptions,
        first_capacity: int,
    ) -> None:
        self.recording = recording
        super().__init__(model, sequences, cached=options.use_cache, first_capacity=first_capacity)
        self.alone = True
        self.wanted = recording.wanted
        guided = bool(sequences) and sequences[0].negative is not None
        self._beside = Beside(model, sequences, options, recording.pad_token_id) if guided else None
        self._taken = 0  # steps so far

    def _distinct(self) -> tuple[list[Prompt], list[int]]:
        return [row.prompt for row in self.rows], list(range(len(self.rows)))

    def _width(self, prompts: Sequence[Prompt]) -> int:
        return self.recording.width

    def _start_past(self, prompts: Sequence[Prompt], prefix: CachedRows | None) -> None:
        super()._start_past(prompts, prefix)
        if self.recording.begun is not None:
            self._kept_past.cache = self.recording.begun
            self.used = self._kept_past.cache.length
            self.cached_tokens = int(self.mask[:, : self.used].sum())

    def prefill(self, most: int | None = None) -> Floats | None:
        if self._beside is not None and self._beside.filling:
            self._beside.prefill(most)
            return None
        return super().prefill(most)

    def begin(self) -> ModelOutput:
        pad = self.recording.pad_token_id
        return self._step([row.token_ids[-1:] if len(row.token_ids) == self._taken else [pad] for row in self.rows])

    def take(self, logits: Floats, events: list[tuple[GeneratedSequence, StreamEvent]]) -> None:
        recording, live = self.recording, self.live
        self._taken += 1
        if recording.logits:
            recording.all_logits.append(np.asarray(logits[:, -1], np.float32))
        if self._beside is not None:
            self.guided = self._beside.guided(logits[:, -1])
        super().take(logits, events)
        if recording.scores and all(row.error is None for row in self.rows):
            chosen_from = logits[:, -1] if self.guided is None else self.guided
            for place in set(range(len(self.rows))).difference(live):
                self.rows[place].pad(chosen_from[place], recording.pad_token_id)
            recording.all_scores.append(np.stack([row.scores for row in self.rows]))  # type: ignore[misc]

    def _forward(self, inputs: NDArray[Any]) -> ModelOutput:
        output = super()._forward(inputs)
        self.recording.keep(output, self.past.cache)
        return output
