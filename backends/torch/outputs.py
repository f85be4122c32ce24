"""Outputs as torch's tree functions see them: what gathers, exports or synchronizes a module's tensors goes through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch.utils import _pytree

from ...core.tasks.outputs import order_of

if TYPE_CHECKING:
    from ...core.tasks.outputs import ModelOutput


def register_output(kind: type[ModelOutput]) -> None:
    """Make outputs of this class trees of the fields that are there; once for each class.

    A mapping's own class is no tree to torch, which looks at the very class. Without it, DistributedDataParallel finds
    no tensors in an output.
    """
    order_of(kind)  # known before torch.compile looks, which cannot look at a dataclass's fields
    if kind in _pytree.SUPPORTED_NODES:
        return

    def unflatten(values: Iterable[Any], names: Any) -> ModelOutput:
        return kind(**dict(zip(names, values, strict=True)))

    _pytree.register_pytree_node(kind, lambda output: (list(output.values()), list(output)), unflatten)
