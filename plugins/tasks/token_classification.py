"""Classifying every token: names of people and places, parts of speech."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...core.graph import Chain, Decoder, Dropout, Linear, Node
from ...core.labels import check_classes, check_integers, check_shape
from ...core.losses import cross_entropy
from ...core.outputs import TokenClassifierOutput
from ...core.task import Task

if TYPE_CHECKING:
    import numpy as np

    from ...core.config import LlamaConfig
    from ...core.context import Context

DROPOUT = 0.1
"""Where the config has neither ``classifier_dropout`` nor ``hidden_dropout``."""


class TokenClassification(Task):
    """``score``, with a bias, on every token, after dropout while training.

    Labels are ``[B, S]`` numbers of labels, -100 ignored; cross entropy.
    """

    name = "token-classification"
    architecture = "LlamaForTokenClassification"
    output = TokenClassifierOutput
    per_position = True

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

    def loss(self, xp: Any, outputs: Mapping[str, Any], labels: Any, **options: Any) -> Any:
        logits = outputs["logits"]
        check_shape(labels.shape, logits.shape[:2])
        flat = xp.reshape(logits, (-1, logits.shape[-1]))
        return cross_entropy(xp, flat, xp.reshape(labels, (-1,)), options.get("num_items_in_batch"))
