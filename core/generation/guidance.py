"""Classifier-free guidance: each row has a companion that runs a second prompt and gets the same tokens.

What a token is chosen from is ``scale * (log p - log q) + log q``, of the row's probabilities p and its companion's q.
Source: Sanchez et al. 2023, "Stay on topic with classifier-free guidance", section 2.2; as transformers has it, a
scale below 0 draws towards the second prompt, and a row without one has the last token of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GenerationError, InputError
from ..messages import counted, mention
from .arguments import warn_once
from .batch import FIRST_CAPACITY, Batch
from .log_softmax import log_softmax
from .request_plan import Prompt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..backend.protocol import Model
    from .options import GenerationOptions
    from .outputs import StreamEvent
    from .sequence import GeneratedSequence

    Floats = NDArray[np.floating[Any]]


def guided_logits(logits: Floats, beside: Floats, scale: float) -> NDArray[np.float64]:
    """What tokens are chosen from ``[rows, vocab]``, of the rows' logits and their companions'.

    >>> guided_logits(np.zeros((1, 2)), np.array([[0.0, 800.0]]), 2.0).argmax(axis=1).tolist()
    [0]
    """
    with np.errstate(invalid="ignore", over="ignore"):
        own, other = log_softmax(logits), log_softmax(beside)
        return scale * (own - other) + other


class Companion:
    """A row of no request beside one of a request: the second prompt, and the other's tokens behind it.

    Args:
        pad_token_id: what it goes on with when the other has ended; without, it ends too.
    """

    def __init__(self, row: GeneratedSequence, pad_token_id: int | None = None) -> None:
        assert row.negative is not None
        self._row, self._pad, self._steps = row, pad_token_id, 0
        self.prompt = Prompt(list(row.negative), counted=len(row.negative), adapter=row.prompt.adapter)

    @property
    def ended(self) -> bool:
        return self._pad is None and self._row.ended

    @property
    def remaining(self) -> int:
        return self._row.remaining

    @property
    def to_run(self) -> Prompt:
        return self.prompt

    def next_inputs(self, most: int) -> list[int]:
        """The token that the other has got."""
        self._steps += 1
        newest = self._row.token_ids
        return newest[-1:] if self._pad is None or len(newest) >= self._steps else [self._pad]

    def prepare(self) -> None:
        """What may follow is found out by the other row."""

    def fail(self, error: Exception) -> None:
        """The other fails by itself."""


class GuidedBatch(Batch):
    """Rows of one request and behind them their companions, in the same order: they go through the model together."""

    def __init__(
        self,
        model: Model,
        sequences: Sequence[GeneratedSequence],
        options: GenerationOptions,
        first_capacity: int = FIRST_CAPACITY,
    ) -> None:
        companions: list[Any] = [Companion(row) for row in sequences]
        super().__init__(model, [*sequences, *companions], cached=options.use_cache, first_capacity=first_capacity)
        self.alone = True
        self._scale = options.guidance_scale

    def take(self, logits: Floats, events: list[tuple[GeneratedSequence, StreamEvent]]) -> None:
        half = len(self.rows) // 2
        guided = guided_logits(logits[:half, -1], logits[half:, -1], self._scale)
        for place, row in enumerate(self.rows[:half]):
            if row.ended:
                continue
            try:
                events.append((row, row.take(logits[place, -1], guided[place])))
            except Exception as error:
                row.fail(error)
        self._fed = []


class Beside:
    """The companions of rows that are recorded: in a batch of their own, so that nothing of them is in the record."""

    def __init__(
        self, model: Model, rows: Sequence[GeneratedSequence], options: GenerationOptions, pad_token_id: int
    ) -> None:
        companions: list[Any] = [Companion(row, pad_token_id) for row in rows]
        self._batch = Batch(model, companions, cached=options.use_cache)
        self._scale = options.guidance_scale
        self._first: Floats | None = None

    @property
    def filling(self) -> bool:
        """Whether there is something of the second prompts still to run."""
        return self._batch.filling

    def prefill(self, most: int | None) -> None:
        """Run the next chunk of the second prompts."""
        self._first = self._batch.prefill(most)

    def guided(self, logits: Floats) -> NDArray[np.float64]:
        """What the next tokens are chosen from, by the rows' own logits ``[rows, vocab]``."""
        found = self._batch.decode() if self._first is None else self._first
        self._first = None
        return guided_logits(logits, found[:, -1], self._scale)


def second_prompts(options: GenerationOptions, prompts: Sequence[Prompt], vocab_size: int) -> list[list[int]] | None:
    """The ids that each prompt's companion begins with; ``None`` where nothing guides.

    Raises:
        GenerationError: they do not fit the prompts, each other or the vocabulary.
    """
    given, mask = options.negative_prompt_ids, options.negative_prompt_attention_mask
    if options.guidance_scale == 1.0:
        if given is not None or mask is not None:
            name = "negative_prompt_ids" if given is not None else "negative_prompt_attention_mask"
            warn_once(mention(name) + " without effect: guidance_scale is 1; set guidance_scale above 1", "guidance")
        return None
    if any(prompt.embeds is not None for prompt in prompts):
        text = options.named("guidance_scale") + " and inputs_embeds do not go together"
        raise GenerationError(text, hint="give input_ids")
    if given is None:
        if mask is not None:
            text = mention("negative_prompt_attention_mask") + " is given without negative_prompt_ids"
            raise GenerationError(text, hint="give both")
        return [prompt.ids[-1:] for prompt in prompts]
    if len(given) not in (1, len(prompts)):
        raise InputError(
            f"negative_prompt_ids has {counted(len(given), 'row')} for {counted(len(prompts), 'prompt')}",
            hint="give one for all, or one for each",
        )
    if mask is not None and [len(row) for row in mask] != [len(row) for row in given]:
        raise InputError("negative_prompt_attention_mask has not the shape of negative_prompt_ids")
    rows = [
        [token_id for token_id, real in zip(ids, [1] * len(ids) if mask is None else mask[place], strict=True) if real]
        for place, ids in enumerate(given)
    ]
    for place, ids in enumerate(rows):
        if not ids:
            raise InputError(f"row {place} of negative_prompt_ids is padding alone", hint="give at least one token")
        if max(ids) >= vocab_size:
            text = f"negative_prompt_ids, row {place}: id {max(ids)} is outside the vocabulary of {vocab_size}"
            raise InputError(text, hint="is it the tokenizer of this model?")
    return rows * len(prompts) if len(rows) == 1 else rows
