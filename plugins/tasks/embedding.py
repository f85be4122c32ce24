"""Texts as vectors: the trunk's hidden states, pooled and brought to length 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ...core.graph.node import Node
from ...core.graph.nodes import Decoder, Pool
from ...core.tasks.outputs import EmbeddingOutput
from ...core.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np

    from ...core.config.schema import LlamaConfig
    from ...core.graph.node import Context
    from ...core.tasks.windows import Example

SMALLEST = 1e-12
"""A shorter vector is divided by this instead of by its length."""


class Embedding(Task):
    """The mean over each row's tokens (``pooling="mean"``) or its last token's state (``"last"``), of length 1.

    It has no weights of its own: the trunk of a base model, of a language model or of any other head will do.
    """

    name = "embedding"
    architecture = "LlamaForEmbedding"
    trunk_prefix = ""
    output_type = EmbeddingOutput
    labels = ()
    load_options: ClassVar[Mapping[str, tuple[str, ...]]] = {"pooling": ("mean", "last")}
    outputs_per = "row"
    accepts_cache = False

    def head(self, config: LlamaConfig, decoder: Decoder) -> Node:
        return Pool(self.load_option(config, "pooling"), config.pad_token_id)

    def outputs(self, ctx: Context, raw: Any, hidden: Any) -> dict[str, Any]:
        xp, pooled = ctx.xp, ctx.widen(raw)
        squared = xp.sum(pooled * pooled, axis=-1, keepdims=True)
        # The choice before the root, whose slope at 0 would make gradients NaN.
        squared = xp.where(squared > SMALLEST**2, squared, xp.full_like(squared, SMALLEST**2))
        return {"embeddings": pooled / xp.sqrt(squared)}

    def result(self, example: Example) -> np.ndarray:
        """``[hidden_size]`` float32, of length 1: the cosine of two texts is the product of their vectors."""
        return example.output["embeddings"]

    def combine_results(self, results: list[np.ndarray]) -> np.ndarray:
        """``[N, hidden_size]``."""
        import numpy as np

        return np.stack(results)
