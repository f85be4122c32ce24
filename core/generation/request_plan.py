"""What a request's rows begin with, and what all of them share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .callables import CallerCode
    from .constrained import Constraint
    from .logit_processing import Processing
    from .options import GenerationOptions
    from .sampling import Filters

    Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a sequence begins with.

    Attributes:
        ids: the ids that are known of it, padding left out: penalties look at them, and so do results.
        embeds: ``[n, hidden_size]``, what the model is given in their place, where it is given that.
        counted: its length as limits on prompt and text together count it; in an array padding counts.
        adapter: the name of the adapter that it runs with; ``None`` for none.
    """

    ids: list[int]
    embeds: Floats | None = None
    counted: int = 0
    adapter: str | None = None

    @property
    def length(self) -> int:
        """Places that it takes in the model."""
        return len(self.ids) if self.embeds is None else len(self.embeds)

    def same(self, other: Prompt) -> bool:
        """Whether the model is given the same ids, with the same adapter."""
        return self.embeds is None is other.embeds and self.ids == other.ids and self.adapter == other.adapter

    @property
    def seen(self) -> int:
        """How long its ids are, as transformers counts them: in an array with padding, and none of embeddings."""
        return self.counted if self.embeds is None else len(self.ids)


@dataclass(frozen=True)
class RequestPlan:
    """What all rows of a request share.

    ``ending`` maps each id that ends a row to what is reported for it: itself, or the stop string that it is.
    ``masked`` are ids that stand for no token, treated as if the vocabulary did not have them; None if there are none.
    With ``open_end`` a row that reaches its budget keeps back what is not certain, for a text that goes on. ``record``
    keeps every step's scores. ``code`` is what the caller brings of its own, ``constraint`` what the texts are held to.
    ``per_beam``: see :class:`~polyllama.core.generation.beams.BeamRules`.
    """

    options: GenerationOptions
    filters: Filters | None
    processing: Processing
    ending: dict[int, int | str]
    stop_strings: tuple[str, ...]
    vocab_size: int
    masked: NDArray[np.int64] | None = None
    open_end: bool = False
    record: bool = False
    per_beam: int = 2
    code: CallerCode | None = None
    constraint: Constraint | None = None

    def processing_of(self, prompt: Prompt, budget: int) -> Processing:
        """What is done to the logits of a row with this prompt, which may get so many tokens."""
        options, changes = self.options, dict[str, Any]()
        least = least_new_tokens(options, prompt)
        if least != self.processing.min_new_tokens:
            changes["min_new_tokens"] = least
        if options.forced_bos_token_id is not None and prompt.seen <= 1:
            # As transformers has it: where the ids have become one, and what may not begin a text comes behind.
            changes["forced_at_first"] = ((options.forced_bos_token_id,), 1 - prompt.seen)
            changes["first"] = 1
        if options.forced_eos_token_id:
            changes["forced_at"] = (tuple(options.forced_eos_token_id), budget - 1)
        return replace(self.processing, **changes) if changes else self.processing


def least_new_tokens(options: GenerationOptions, prompt: Prompt) -> int:
    """How many tokens are generated before one may end the sequence."""
    return options.min_new_tokens or max(options.min_length - prompt.counted, 0)
