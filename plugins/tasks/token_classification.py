"""Classifying every token: names of people and places, parts of speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...core.graph.node import Node
from ...core.graph.nodes import Chain, Decoder, Dropout, Linear
from ...core.tasks.labels import check_classes, check_integers, check_shape, warn_of_padding
from ...core.tasks.losses import cross_entropy, ignore_padding
from ...core.tasks.outputs import TokenClassifierOutput
from ...core.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np

    from ...core.config.schema import LlamaConfig
    from ...core.graph.node import Context
    from ...core.tasks.results import Entity
    from ...core.tasks.windows import Encoder, Example, Window

DROPOUT = 0.1
"""Where the config has neither ``classifier_dropout`` nor ``hidden_dropout``."""


class TokenClassification(Task):
    """``score``, with a bias, on every token, after dropout while training.

    Labels are ``[B, S]`` numbers of labels, -100 and those of padding ignored; cross entropy.
    """

    name = "token-classification"
    architecture = "LlamaForTokenClassification"
    output_type = TokenClassifierOutput
    outputs_per = "token"

    def head(self, config: LlamaConfig, decoder: Decoder) -> Node:
        given = (config.classifier_dropout, config.hidden_dropout, DROPOUT)
        score = Linear("score", config.hidden_size, config.num_labels, True, role="head")
        return Chain((Dropout(next(p for p in given if p is not None)), score))

    def outputs(self, ctx: Context, raw: Any, hidden: Any) -> dict[str, Any]:
        return {"logits": ctx.widen(raw)}

    def check_labels(self, config: LlamaConfig, labels: Mapping[str, np.ndarray], attended: np.ndarray) -> None:
        given = labels["labels"]
        check_integers(given)
        check_shape(given.shape, attended.shape)
        check_classes(given, config.num_labels)
        warn_of_padding(given, attended)

    def loss(self, xp: Any, outputs: Mapping[str, Any], labels: Any, **options: Any) -> Any:
        logits = outputs["logits"]
        check_shape(labels.shape, logits.shape[:2])
        flat = xp.reshape(logits, (-1, logits.shape[-1]))
        labels = ignore_padding(xp, labels, options.get("attended"))
        return cross_entropy(xp, flat, xp.reshape(labels, (-1,)), options.get("num_items_in_batch"))

    def encode(self, encoder: Encoder, texts: Mapping[str, str], *, stride: int | None = None) -> list[Window]:
        """One row; or with a `stride` as many windows as a long text takes, which share that many tokens."""
        from ...core.tasks.option_checks import check_whole

        if stride is None:
            return [encoder.whole(texts["text"], offsets=True, hint=", stride=... reads it in windows")]
        return encoder.strided(texts["text"], stride=check_whole(stride, "stride", 0))

    def result(
        self, example: Example, *, aggregation_strategy: str = "average", ignore_labels: Sequence[str] = ("O",)
    ) -> list[Entity]:
        """The entities of the text, in order, ``text[entity.start:entity.end] == entity.word``.

        Args:
            aggregation_strategy: ``"none"`` for each token by itself; ``"simple"`` joins tokens by their tags (``B-``
                begins an entity, ``I-`` goes on with one); ``"first"``, ``"average"`` (the default) and ``"max"`` also
                make each word agree with itself: on its first token, its tokens' mean scores, or its surest token.
                Words are what spaces separate, without punctuation around them.
            ignore_labels: labels that are no entities.
        """
        from ...core.tasks.entities import check_ignored, find_entities, put_together, trimmed
        from ...core.tasks.scores import softmax

        labels = [example.config.id2label[number] for number in range(example.config.num_labels)]
        check_ignored(ignore_labels, labels, aggregation_strategy)
        tokens = put_together(example.windows, [softmax(output["logits"]) for output in example.outputs])
        found = find_entities(example.text, tokens, labels, aggregation_strategy, ignore_labels)
        return [trimmed(example.text, entity) for entity in found]
