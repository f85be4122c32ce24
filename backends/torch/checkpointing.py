"""Gradient checkpointing: what goes into a layer is kept, what is in it is computed anew for the gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...core.backend.training import read_checkpointing
from ...core.errors import InputError, UnsupportedError
from .manner import Checkpoints, Manner

if TYPE_CHECKING:
    from ...core.graph.node import Node

OPTIONS = ("preserve_rng_state", "determinism_check", "use_reentrant")
"""What ``torch.utils.checkpoint.checkpoint`` takes that makes sense here."""


class CheckpointedPass(Protocol):
    """What a layer that is run again needs of the pass."""

    attentions: list[Any] | None

    def child(self, module: nn.Module, node: Node, x: Tensor) -> Tensor: ...


class Checkpointing(nn.Module):
    """The part of the module that turns gradient checkpointing on and off."""

    def __init__(self) -> None:
        super().__init__()
        self._manner = Manner()

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradients compute each layer anew while training."""
        return self._manner.checkpoints is not None

    @property
    def is_activation_checkpointing(self) -> bool:
        """:attr:`is_gradient_checkpointing` by its newer name."""
        return self.is_gradient_checkpointing

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Keep only what goes into each layer while training; see :class:`polyllama.core.api.training.Training`.

        Args:
            gradient_checkpointing_kwargs: ``use_reentrant`` (by default false), ``preserve_rng_state`` and
                ``determinism_check`` of ``torch.utils.checkpoint``.
            every_n_layers: do so for one layer in so many.
            offload: would keep on the host what is kept, and is refused.
        """
        given = dict(gradient_checkpointing_kwargs or {})
        reentrant = {"use_reentrant": True} if given.pop("use_reentrant", False) else {}
        options = reentrant | read_checkpointing(given, OPTIONS, "torch")
        if offload:
            raise UnsupportedError("gradient checkpointing with offload=True is not offered", hint="leave it out")
        if type(every_n_layers) is not int or every_n_layers < 1:
            raise InputError(f"every_n_layers is {every_n_layers!r}, wanted a number from 1")
        if reentrant and "determinism_check" in options:
            raise InputError("determinism_check goes with use_reentrant=False", hint="leave one of them out")
        self._manner.checkpoints = Checkpoints(options, every_n_layers)

    def gradient_checkpointing_disable(self) -> None:
        """Keep what the layers compute, as at first."""
        self._manner.checkpoints = None

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """:meth:`gradient_checkpointing_enable` by its newer name."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, every_n_layers, offload)

    def activation_checkpointing_disable(self) -> None:
        """:meth:`gradient_checkpointing_disable` by its newer name."""
        self.gradient_checkpointing_disable()

    def checkpointing_now(self) -> Checkpoints | None:
        """Which layers it is on for in this pass: while training, where gradients are recorded."""
        return self._manner.checkpoints if self.training and torch.is_grad_enabled() else None


def run_layer(module: nn.Module, node: Node, x: Tensor, ctx: CheckpointedPass, options: Mapping[str, Any]) -> Tensor:
    """A layer of the trunk, checkpointed: ``[B, S, E] -> [B, S, E]``."""

    def layer(x: Tensor) -> Tensor:
        return ctx.child(module, node, x)

    given: dict[str, Any] = {"use_reentrant": False, **options}
    if given["use_reentrant"]:
        _check_reentrant(x, ctx)
    elif ctx.attentions is not None:
        given["context_fn"] = lambda: (contextlib.nullcontext(), _keeping_nothing(ctx))
    y: Tensor = checkpoint(layer, x, **given)
    return y


def _check_reentrant(x: Tensor, ctx: CheckpointedPass) -> None:
    if not x.requires_grad:
        raise InputError(
            "gradient checkpointing with use_reentrant=True gives no gradients, as the embeddings' output needs none",
            hint="leave use_reentrant out, or call model.enable_input_require_grads()",
        )
    if ctx.attentions is not None:
        raise InputError(
            "output_attentions does not go with gradient checkpointing with use_reentrant=True",
            hint="leave one of them out",
        )


@contextlib.contextmanager
def _keeping_nothing(ctx: CheckpointedPass) -> Iterator[None]:
    """The second time a layer runs, its attention probabilities are there already."""
    kept, ctx.attentions = ctx.attentions, None
    try:
        yield
    finally:
        ctx.attentions = kept
