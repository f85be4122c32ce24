"""Gradient checkpointing: what goes into a layer is kept, what is in it is computed anew for the gradients."""

from __future__ import annotations

from typing import Any, Protocol

import mlx.core as mx

from ...core.graph.node import Node
from ...core.graph.rope import Rope


class CheckpointedPass(Protocol):
    """What a layer that is run again needs of the pass: what all layers share, and what each adds to it."""

    mask: Any
    spelled_out: bool
    attentions: list[Any] | None
    dropouts: int

    def rotation(self, rope: Rope) -> Any: ...
    def causal(self, length: int, keys: int) -> Any: ...
    def dropout_key(self) -> mx.array: ...
    def child(self, module: Any, node: Node, x: mx.array) -> mx.array: ...
    def keep_attention(self, probabilities: Any) -> None: ...


def run_checkpointed(module: Any, node: Node, x: mx.array, ctx: CheckpointedPass) -> mx.array:
    """A layer of the trunk through ``mx.checkpoint``: ``[B, S, E] -> [B, S, E]``.

    The parameters go in as arguments, for MLX gives gradients to arguments only. What the layers share is made outside.
    """
    for below in node.walk():
        if isinstance(below, Rope):
            ctx.rotation(below)
    if ctx.mask is None and not ctx.spelled_out:
        ctx.causal(x.shape[1], x.shape[1])
    ctx.dropout_key()
    held, attentions, first = module.parameters(), ctx.attentions, ctx.dropouts

    def layer(parameters: Any, x: mx.array) -> tuple[mx.array, list[mx.array]]:
        ctx.attentions = None if attentions is None else []
        ctx.dropouts = first
        module.update(parameters)
        try:
            return ctx.child(module, node, x), ctx.attentions or []
        finally:
            module.update(held)
            ctx.attentions = attentions

    y, kept = mx.checkpoint(layer)(held, x)
    for probabilities in kept:
        ctx.keep_attention(probabilities)
    made: mx.array = y
    return made
