"""What ``generate`` returns with ``return_dict_in_generate``: the ids, and what every step gave beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..array_kinds import as_numpy
from ..public import public
from ..tasks.outputs import ModelOutput


@public
@dataclass
class GenerateDecoderOnlyOutput(ModelOutput):
    """Sequences of a language model, by attribute, key and index in this order; what was not asked for is ``None``.

    Attributes:
        sequences: ``[rows, width + new]`` ids: the prompt and what follows.
        scores: of each step ``[rows, vocab_size]``, float32: the logits as a token was chosen by them.
        logits: the same as the model gave them.
        attentions: of each step, of each layer ``[rows, heads, queries, keys]``.
        hidden_states: of each step, of the embeddings and each layer ``[rows, queries, hidden_size]``. The queries are
            the whole prompt in the first step and one token in the others; without a cache all tokens in every step.
        past_key_values: the backend's cache, with all but the last token; ``None`` without one.

    Rows are padded on the left inside: of a prompt that was padded on the right, attentions and hidden states stand as
    if it were padded on the left.
    """

    field_order: ClassVar[tuple[str, ...]] = (
        "sequences",
        "scores",
        "logits",
        "attentions",
        "hidden_states",
        "past_key_values",
    )

    sequences: Any = None
    scores: tuple[Any, ...] | None = None
    logits: tuple[Any, ...] | None = None

    def numpy(self) -> dict[str, Any]:
        """NumPy arrays by name, nested in tuples as they are; the cache is left out."""
        return {name: _nested(as_numpy, value) for name, value in self.items() if name != "past_key_values"}


@public
@dataclass
class GenerateBeamDecoderOnlyOutput(GenerateDecoderOnlyOutput):
    """Sequences that a beam search has found, and what every step gave of all beams, in the order of prompts.

    Attributes:
        sequences: ``[rows * num_return_sequences, width + new]`` ids, of each prompt the best first.
        sequences_scores: ``[rows * num_return_sequences]``, what they were ranked by; with ``output_scores``.
        scores: of each step ``[rows * num_beams, vocab_size]``, float32: processed log probabilities, which add up.
        logits: the same as the model gave them.
        beam_indices: ``[rows * num_return_sequences, new]``, of each token the row of that step which it was chosen in;
            -1 behind the end.
    """

    field_order = (
        "sequences", "sequences_scores", "scores", "logits", "beam_indices", "attentions", "hidden_states",
        "past_key_values",
    )  # fmt: skip

    sequences_scores: Any = None
    beam_indices: Any = None


def _nested(convert: Callable[[Any], Any], value: Any) -> Any:
    return tuple(_nested(convert, item) for item in value) if isinstance(value, tuple) else convert(value)
