"""Answering a question from a text by pointing: where the answer starts and where it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...core.errors import InputError
from ...core.graph import Decoder, Linear, Node
from ...core.labels import check_integers, check_shape
from ...core.losses import span_loss
from ...core.outputs import QuestionAnsweringOutput
from ...core.task import Task

if TYPE_CHECKING:
    import numpy as np

    from ...core.config import LlamaConfig
    from ...core.context import Context


class QuestionAnswering(Task):
    """``qa_outputs``, with a bias: two numbers for every token, whatever ``num_labels`` says.

    Labels are ``start_positions`` and ``end_positions`` ``[B]``; those before the first token or beyond the last are
    ignored, as a cut text leaves them. The loss is the mean of two cross entropies.
    """

    name = "question-answering"
    architecture = "LlamaForQuestionAnswering"
    prefix = "transformer"
    output = QuestionAnsweringOutput
    labels = ("start_positions", "end_positions")
    per_position = True

    def head(self, config: LlamaConfig, decoder: Decoder) -> Node:
        return Linear("qa_outputs", config.hidden_size, 2, True, role="head")

    def outputs(self, ctx: Context, raw: Any, hidden: Any) -> dict[str, Any]:
        logits = ctx.widen(raw)
        return {"start_logits": logits[:, :, 0], "end_logits": logits[:, :, 1]}

    def check_labels(self, config: LlamaConfig, labels: Mapping[str, np.ndarray], attended: np.ndarray) -> None:
        batch, length = attended.shape
        for name, given in labels.items():
            check_integers(given, name)
            _check_shape(tuple(given.shape), batch, name)
            for row, place in enumerate(given.reshape(-1).tolist()):
                if 0 <= place < length and not attended[row, place]:
                    raise InputError(
                        f"{name}[{row}] is {place}, which the attention mask says is padding",
                        hint="count tokens in the padded row, padding on the left included",
                    )
        start, end = (labels[name].reshape(-1) for name in self.labels)
        backwards = (start >= 0) & (end >= 0) & (start < length) & (end < length) & (start > end)
        if backwards.any():
            row = int(backwards.argmax())
            raise InputError(f"row {row} has an answer that ends before it starts ({start[row]} to {end[row]})")

    def loss(
        self, xp: Any, outputs: Mapping[str, Any], start_positions: Any, end_positions: Any, **options: Any
    ) -> Any:
        start, end = outputs["start_logits"], outputs["end_logits"]
        batch = start.shape[0]
        places = []
        for name, given in zip(self.labels, (start_positions, end_positions), strict=True):
            _check_shape(tuple(given.shape), batch, name)
            places.append(xp.reshape(given, (batch,)))
        return span_loss(xp, start, end, places[0], places[1], options.get("num_items_in_batch"))


def _check_shape(shape: tuple[int, ...], batch: int, name: str) -> None:
    """``[B]``, or ``[B, 1]`` as some loaders give it."""
    if shape != (batch, 1):
        check_shape(shape, (batch,), name)
