"""The bare trunk: hidden states without a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...core.tasks.outputs import BaseModelOutput
from ...core.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np

    from ...core.graph.node import Context
    from ...core.tasks.windows import Example


class Base(Task):
    """``last_hidden_state`` after the final norm; checkpoints name the trunk's weights without a prefix."""

    name = "base"
    architecture = "LlamaModel"
    trunk_prefix = ""
    output_type = BaseModelOutput
    labels = ()
    outputs_per = "token"

    def outputs(self, ctx: Context, raw: Any, hidden: Any) -> dict[str, Any]:
        return {"last_hidden_state": hidden}

    def result(self, example: Example) -> np.ndarray:
        """``[S, hidden_size]`` float32: a row for each token of the text, special ones included."""
        return example.output["last_hidden_state"]
