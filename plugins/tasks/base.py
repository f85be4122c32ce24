"""The bare trunk: hidden states without a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...core.outputs import BaseModelOutput
from ...core.task import Task

if TYPE_CHECKING:
    from ...core.context import Context


class Base(Task):
    """``last_hidden_state`` after the final norm; checkpoints name the trunk's weights without a prefix."""

    name = "base"
    architecture = "LlamaModel"
    prefix = ""
    output = BaseModelOutput
    labels = ()
    per_position = True

    def outputs(self, ctx: Context, raw: Any, hidden: Any) -> dict[str, Any]:
        return {"last_hidden_state": hidden}
