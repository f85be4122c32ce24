"""Gradient checkpointing: what goes into a layer is kept, what is in it is computed anew for the gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...core.backend.training import read_checkpointing

if TYPE_CHECKING:
    from ...core.graph.node import Node

OPTIONS = ("preserve_rng_state", "determinism_check")
"""What ``torch.utils.checkpoint.checkpoint`` takes that makes sense here."""


class CheckpointedPass(Protocol):
    """What a layer that is run again needs of the pass."""

    attentions: list[Any] | None

    def child(self, module: nn.Module, node: Node, x: Tensor) -> Tensor: ...


class Checkpointing(nn.Module):
    """The part of the module that turns gradient checkpointing on and off."""

    def __init__(self) -> None:
        super().__init__()
        self._checkpointing: dict[str, Any] | None = None

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradients compute each layer anew while training."""
        return self._checkpointing is not None

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """Keep only what goes into each layer while training; see :class:`polyllama.core.api.training.Training`.

        Args:
            gradient_checkpointing_kwargs: ``preserve_rng_state`` and ``determinism_check`` of
                ``torch.utils.checkpoint``, in its form without re-entrance.
        """
        self._checkpointing = read_checkpointing(gradient_checkpointing_kwargs, OPTIONS, "torch")

    def gradient_checkpointing_disable(self) -> None:
        """Keep what the layers compute, as at first."""
        self._checkpointing = None

    def checkpointing_now(self) -> dict[str, Any] | None:
        """Its options where it is on in this pass: while training, where gradients are recorded."""
        return self._checkpointing if self.training and torch.is_grad_enabled() else None


def run_layer(module: nn.Module, node: Node, x: Tensor, ctx: CheckpointedPass, options: Mapping[str, Any]) -> Tensor:
    """A layer of the trunk, checkpointed: ``[B, S, E] -> [B, S, E]``."""

    def layer(x: Tensor) -> Tensor:
        return ctx.child(module, node, x)

    given: dict[str, Any] = {"use_reentrant": False, **options}
    if ctx.attentions is not None:
        given["context_fn"] = lambda: (contextlib.nullcontext(), _keeping_nothing(ctx))
    y: Tensor = checkpoint(layer, x, **given)
    return y


@contextlib.contextmanager
def _keeping_nothing(ctx: CheckpointedPass) -> Iterator[None]:
    """The second time a layer runs, its attention probabilities are there already."""
    kept, ctx.attentions = ctx.attentions, None
    try:
        yield
    finally:
        ctx.attentions = kept
