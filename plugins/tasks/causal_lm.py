"""Causal language modelling: a linear head over the vocabulary, trained on the next token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...core.errors import InputError
from ...core.graph.node import Node
from ...core.graph.nodes import Decoder, Linear
from ...core.tasks.labels import check_shape, warn_of_padding
from ...core.tasks.losses import causal_lm_loss
from ...core.tasks.outputs import CausalLMOutput
from ...core.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np

    from ...core.config.schema import LlamaConfig
    from ...core.graph.node import Context
    from ...core.tasks.loaded_model import LoadedModel


class CausalLM(Task):
    """``lm_head`` over the trunk; tied to the embedding where the config says so. Logits are float32."""

    name = "causal-lm"
    architecture = "LlamaForCausalLM"
    output_type = CausalLMOutput
    outputs_per = "token"
    generates = True

    def head(self, config: LlamaConfig, decoder: Decoder) -> Node:
        tied = decoder.embed.name if config.tie_word_embeddings else None
        return Linear("lm_head", config.hidden_size, config.vocab_size, False, "column", tied, role="head")

    def outputs(self, ctx: Context, raw: Any, hidden: Any) -> dict[str, Any]:
        return {"logits": ctx.widen(raw)}

    def check_labels(self, config: LlamaConfig, labels: Mapping[str, np.ndarray], attended: np.ndarray) -> None:
        super().check_labels(config, labels, attended)
        check_shape(labels["labels"].shape, attended.shape, hint="give one label per input token")
        warn_of_padding(labels["labels"], attended)

    def loss(self, xp: Any, outputs: Mapping[str, Any], labels: Any, **options: Any) -> Any:
        logits = outputs["logits"]
        if tuple(labels.shape) != tuple(logits.shape[:2]):
            raise InputError(
                f"labels have shape {list(labels.shape)}, the logits cover {list(logits.shape[:2])}",
                hint="give one label per input token and leave logits_to_keep at 0",
            )
        return causal_lm_loss(xp, logits, labels, options.get("num_items_in_batch"), options.get("attended"))

    def predict(self, model: LoadedModel, given: Any, options: Mapping[str, Any]) -> Any:
        """The text that goes on from each given one; options are those of ``Llama.generate``."""
        return model.generate(given, **options)
