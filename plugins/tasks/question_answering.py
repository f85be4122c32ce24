"""Answering a question from a text by pointing: where the answer starts and where it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...core.errors import InputError
from ...core.graph.node import Node
from ...core.graph.nodes import Decoder, Linear
from ...core.tasks.labels import check_integers, check_shape
from ...core.tasks.losses import span_loss
from ...core.tasks.outputs import QuestionAnsweringOutput
from ...core.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np

    from ...core.config.schema import LlamaConfig
    from ...core.graph.node import Context
    from ...core.tasks.results import Answer
    from ...core.tasks.windows import Encoder, Example, Window

MAX_LENGTH, STRIDE = 384, 128
"""Tokens of a window, and how many two of them share, as models are usually trained."""


class QuestionAnswering(Task):
    """``qa_outputs``, with a bias: two numbers for every token, whatever ``num_labels`` says.

    Labels are ``start_positions`` and ``end_positions`` ``[B]``; those before the first token or beyond the last are
    ignored, as a cut text leaves them. The loss is the mean of two cross entropies over the tokens that are no padding.
    """

    name = "question-answering"
    architecture = "LlamaForQuestionAnswering"
    trunk_prefix = "transformer"
    output_type = QuestionAnsweringOutput
    labels = ("start_positions", "end_positions")
    outputs_per = "token"
    texts = ("question", "context")

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
        return span_loss(
            xp, start, end, places[0], places[1], options.get("num_items_in_batch"), options.get("attended")
        )

    def encode(self, encoder: Encoder, texts: Mapping[str, str], *, doc_stride: int | None = None) -> list[Window]:
        """The question and as much of the context as fits, in as many windows as the context takes.

        A window has at most ``max_length`` tokens (384, or the model's context where that is less); two of them share
        `doc_stride` tokens of the context (128, or half a window where that is less). The question comes first: a
        causal model reads the context knowing what it is asked.
        """
        from ...core.tasks.option_checks import check_whole

        limit = encoder.max_length or min(MAX_LENGTH, encoder.context or MAX_LENGTH)
        stride = min(STRIDE, limit // 2) if doc_stride is None else check_whole(doc_stride, "doc_stride", 0)
        return encoder.strided(texts["question"], texts["context"], stride=stride, limit=limit)

    def result(
        self,
        example: Example,
        *,
        top_k: int | None = None,
        max_answer_len: int = 15,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Answer | list[Answer]:
        """The likeliest answer, ``context[answer.start:answer.end] == answer.text``.

        Its score is the probability that the answer starts where it does, times that it ends where it does, over the
        context's tokens in the window that shows it best.

        Args:
            top_k: a list of the best so many answers instead, each another piece of the context.
            max_answer_len: most tokens of an answer.
            handle_impossible_answer: let "there is none" compete: an answer with an empty text. Its score is the
                probability of the row's first token, where models that were trained for it point then; the lowest of
                all windows, as an answer in one of them is enough.
            align_to_words: begin and end answers where words do.
        """
        from ...core.tasks.option_checks import check_flag, check_whole
        from ...core.tasks.results import Answer
        from ...core.tasks.spans import as_answers, best_answers, best_spans

        count = None if top_k is None else check_whole(top_k, "top_k", 1)
        longest = check_whole(max_answer_len, "max_answer_len", 1)
        may_be_none = check_flag(handle_impossible_answer, "handle_impossible_answer")
        aligned = check_flag(align_to_words, "align_to_words")
        context = example.texts["context"]
        answers: list[Answer] = []
        none = 1.0
        for window, output in zip(example.windows, example.outputs, strict=True):
            spans, unanswered = best_spans(
                output["start_logits"], output["end_logits"], window.of(1), longest, may_be_none=may_be_none
            )
            answers += as_answers(context, window.offsets, spans, count or 1, align_to_words=aligned)
            none = min(none, unanswered)
        if may_be_none:
            answers.append(Answer("", none, 0, 0))
        best = best_answers(answers, count or 1)
        return best if count is not None else best[0]


def _check_shape(shape: tuple[int, ...], batch: int, name: str) -> None:
    """``[B]``, or ``[B, 1]`` as some loaders give it."""
    if shape != (batch, 1):
        check_shape(shape, (batch,), name)
