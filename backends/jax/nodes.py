"""The nodes that run otherwise than by their definition here, and the context that runs them.

XLA's CPU compiler multiplies a single row by a transposed matrix element by element, several times slower than memory
allows; as matrix times vector the same product reads the matrix once, with every thread. In half precision it would
first write the whole matrix out in float32; as a sum over elementwise products it widens what it reads on the way, and
does so several times faster for a few rows. On other devices every node runs by its definition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ...core.graph.activations import ACTIVATIONS
from ...core.graph.node import Context, Node, Override
from ...core.graph.nodes import Attention, Linear, softmax
from ...core.graph.quantized import QuantizedLinear, values
from ...core.graph.rope import Rope
from ...core.quantization.packing import WORD

Array = Any
Checkpoint = Callable[[Callable[..., Any]], Callable[..., Any]]

WHOLE, TILE = 1 << 22, 1 << 20
"""Most packed weights that are multiplied by at once, and how many of larger matrices: 4 MiB of unpacked ones."""

FEW_ROWS = 4
"""Up to so many rows a half-precision product is faster as a sum than through a float32 copy of the weights."""


class JaxContext(Context):
    """The spec's context with JAX's random numbers for dropout, its own error function and its ``checkpoint``.

    Args:
        dropout_rng: a random key while training.
        checkpoint: ``jax.checkpoint``, with its options, around each of the nodes `checkpointed`.
    """

    def __init__(
        self,
        *args: Any,
        dropout_rng: Array | None = None,
        checkpoint: Checkpoint | None = None,
        checkpointed: tuple[Node, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._dropout_rng = dropout_rng
        self._dropouts = 0
        self._checkpoint = checkpoint
        self._checkpointed = {id(node) for node in checkpointed} if checkpoint is not None else set()

    def run(self, node: Node, x: Array) -> Array:
        if self._checkpoint is None or id(node) not in self._checkpointed:
            return super().run(node, x)
        for below in node.walk():
            if isinstance(below, Rope):
                self.rotary(below)  # tables that the layers share are made outside of them
        attentions = self.attentions

        def layer(x: Array) -> tuple[Array, list[Array]]:
            # What is traced in here may leave only as a result.
            self.attentions = None if attentions is None else []
            try:
                y = super(JaxContext, self).run(node, x)
                return y, self.attentions or []
            finally:
                self.attentions = attentions

        y, kept = self._checkpoint(layer)(x)
        for probabilities in kept:
            self.keep_attention(probabilities)
        return y

    def activate(self, name: str, x: Array) -> Array:
        return ACTIVATIONS[name](self.xp, x, jax.lax)

    def dropout(self, x: Array, p: float) -> Array:
        """While training (a random key is given) drop with probability `p`, each place of the graph by its own key."""
        if self._dropout_rng is None or not p:
            return x
        key = jax.random.fold_in(self._dropout_rng, self._dropouts)
        self._dropouts += 1
        kept = jax.random.bernoulli(key, 1.0 - p, x.shape)
        return jnp.where(kept, x / (1.0 - p), 0.0).astype(x.dtype)


def linear(node: Node, x: Array, ctx: Context) -> Array:
    """``[..., in_features] -> [..., out_features]``; a single row as matrix times vector."""
    assert isinstance(node, Linear)
    weight = ctx.weights[node.weight_name]
    rows = x.size // node.in_features
    if rows == 1 and weight.dtype == jnp.float32:
        y = jnp.matmul(weight, x.reshape(-1))
    elif rows <= FEW_ROWS and weight.dtype != jnp.float32:
        # Without the barrier a tied embedding would be widened as a whole, once for its lookup and for this.
        weight = jax.lax.optimization_barrier(weight)  # type: ignore[no-untyped-call]
        repeated = x.reshape(rows, 1, -1) if rows > 1 else x.reshape(-1)
        y = (weight.astype(jnp.float32) * repeated.astype(jnp.float32)).sum(-1).astype(x.dtype)
    else:
        return node.apply(ctx.xp, ctx.weights, x, ctx)
    y = y + ctx.weights[f"{node.name}.bias"] if node.bias else y
    return y.reshape(*x.shape[:-1], node.out_features)


def quantized_linear(node: Node, x: Array, ctx: Context) -> Array:
    """``[..., in_features] -> [..., out_features]``; a large matrix a tile of outputs at a time."""
    assert isinstance(node, QuantizedLinear)
    flat = x.reshape(-1, node.in_features)
    # Without the barrier a tied embedding would be unpacked as a whole, once for its lookup and for this.
    tensors = jax.lax.optimization_barrier(node.tensors(ctx.weights))  # type: ignore[no-untyped-call]

    def product(parts: tuple[Array, Array, Array]) -> Array:
        """``[M, rows of the tile]``."""
        if len(flat) <= FEW_ROWS and WORD % node.bits == 0:
            return by_planes(flat, parts, node.bits, ctx)
        return ctx.widen(flat) @ values(jnp, *parts, node.bits, ctx).T

    tile = _tile(node.out_features, node.in_features)
    if tile == node.out_features:
        y = product(tensors)
    else:
        tiles = jax.lax.map(product, tuple(part.reshape(-1, tile, part.shape[-1]) for part in tensors))
        y = jnp.swapaxes(tiles, 0, 1)
    y = y.astype(x.dtype).reshape(*x.shape[:-1], node.out_features)
    return y + ctx.weights[f"{node.name}.bias"] if node.bias else y


def by_planes(x: Array, parts: tuple[Array, Array, Array], bits: int, ctx: Context) -> Array:
    """``x @ (scale * q + bias).T`` ``[M, out]``: sums over values that lie at the same place in their words.

    So a word is shifted rather than taken apart, and scale and bias are applied once to a group.
    """
    words, scales, biases = parts
    rows, groups = scales.shape
    words = words.reshape(rows, groups, -1)
    wide_scales, wide_biases = ctx.widen(scales), ctx.widen(biases)
    inputs = ctx.widen(x).reshape(len(x), 1, groups, words.shape[-1], WORD // bits)
    total: Array = 0.0
    for place in range(WORD // bits):
        q = ((words >> (bits * place)) & ((1 << bits) - 1)).astype(inputs.dtype)
        total = total + q * inputs[..., place]
    sums = inputs.sum((-1, -2))  # [M, 1, groups]
    return (total.sum(-1) * wide_scales + sums * wide_biases).sum(-1)


def _tile(rows: int, columns: int) -> int:
    """Rows that are multiplied by at once: of a large matrix, the most that divide it and hold :data:`TILE` weights."""
    if rows * columns <= WHOLE:
        return rows
    return next((n for n in range(max(1, TILE // columns), 127, -1) if rows % n == 0), rows)


def attention(node: Node, x: Array, ctx: Context) -> Array:
    """``[B, S, E] -> [B, S, E]``; a single query as keys times query, for the reason above."""
    assert isinstance(node, Attention)
    batch, length, _ = x.shape
    if length != 1:
        return node.apply(ctx.xp, ctx.weights, x, ctx)
    groups, group, dim = node.num_kv_heads, node.num_heads // node.num_kv_heads, node.head_dim
    q = ctx.run(node.q, x).reshape(batch, node.num_heads, 1, dim)
    k, v = (ctx.run(child, x).reshape(batch, groups, 1, dim) for child in (node.k, node.v))
    q, k = ctx.run(node.rope, q), ctx.run(node.rope, k)
    if ctx.cache is not None:
        k, v = ctx.cache.update(node.name, k, v)  # [B, G, K, D]
    # Rows and key/value heads as one axis, as the cache has them: any other shape would cost copies of it.
    k, v = (part.reshape(batch * groups, -1, dim) for part in (k, v))
    scores = jnp.einsum("nkd,nhd->nkh", k, q.reshape(batch * groups, group, dim)) * dim**-0.5
    scores = ctx.widen(scores).transpose(0, 2, 1).reshape(batch, node.num_heads, 1, -1)
    probabilities = softmax(jnp, ctx.masked(scores)).astype(v.dtype)  # [B, H, 1, K]
    ctx.keep_attention(probabilities)
    probabilities = ctx.dropout(probabilities, node.dropout).reshape(batch * groups, group, -1)
    y = jnp.einsum("nhk,nkd->nhd", probabilities, v)
    return ctx.run(node.o, y.reshape(batch, 1, node.num_heads * dim))


CPU_OVERRIDES: Mapping[type, Override] = {
    Linear: linear,
    Attention: attention,
    QuantizedLinear: quantized_linear,
}
"""What runs otherwise on a CPU; every other node type runs by its own definition."""
