"""What a task head is: the nodes it attaches to the trunk, its outputs and its loss. It contains no framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from .errors import UnsupportedError
from .outputs import ModelOutput

if TYPE_CHECKING:
    from .config import LlamaConfig
    from .context import Context
    from .graph import Array, Decoder, Node


class Task:
    """Base of task heads; a plugin subclasses it and registers a descriptor.

    Attributes:
        name: what ``Llama.load(task=...)`` calls it.
        architecture: the HF class name written into a saved config's ``architectures``.
        prefix: where the trunk's weights sit in this task's checkpoints (``"model"`` in most).
        output: the class of what forward returns.
        generates: whether the head gives next-token logits.
        keeps_positions: whether ``logits_to_keep`` makes sense for it.
    """

    name: ClassVar[str]
    architecture: ClassVar[str]
    prefix: ClassVar[str] = "model"
    output: ClassVar[type[ModelOutput]]
    generates: ClassVar[bool] = False
    keeps_positions: ClassVar[bool] = False

    def head(self, config: LlamaConfig, decoder: Decoder) -> Node | None:
        """The node that turns the trunk's ``[B, S, E]`` into this task's raw output; ``None`` for no head."""
        return None

    def outputs(self, ctx: Context, raw: Array, hidden: Array) -> dict[str, Array]:
        """Named output fields from the head's `raw` output and the trunk's `hidden` ``[B, S, E]``."""
        raise NotImplementedError

    def loss(self, xp: Any, outputs: Mapping[str, Array], labels: Array, **options: Any) -> Array:
        """The training loss, a scalar."""
        raise UnsupportedError(f"task {self.name!r} has no loss", hint="leave labels out, or load it with another task")
