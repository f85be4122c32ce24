"""The nodes of a Llama; each defines what it computes in array terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..dtypes import Array
from ..errors import ConfigError
from ..public import for_plugins
from .node import Node, Parameter, is_of_head
from .text_tokens import text_tokens

if TYPE_CHECKING:
    from .node import Context
    from .rope import Rope


@for_plugins
@dataclass(frozen=True)
class Embedding(Node):
    """Rows of a table, one per token id. ``[B, S] int -> [B, S, dim]``."""

    name: str
    num_embeddings: int
    dim: int

    @property
    def float_name(self) -> str:
        """A tensor of its own that has the dtype its rows come out in."""
        return f"{self.name}.weight"

    def own_parameters(self) -> Iterator[Parameter]:
        yield Parameter(f"{self.name}.weight", (self.num_embeddings, self.dim), "embedding")

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        rows = xp.take(weights[f"{self.name}.weight"], xp.reshape(x, (-1,)), axis=0)
        return xp.reshape(rows, (*x.shape, self.dim))


@for_plugins
@dataclass(frozen=True)
class RMSNorm(Node):
    """``weight * x / sqrt(mean(x^2) + eps)``: computed in float32, cast back, then scaled. ``[..., dim]`` both ways.

    Source: Zhang and Sennrich 2019 (arXiv:1910.07467).
    """

    name: str
    dim: int
    eps: float

    def own_parameters(self) -> Iterator[Parameter]:
        yield Parameter(f"{self.name}.weight", (self.dim,), "norm")

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        wide = ctx.widen(x)
        scaled = wide / xp.sqrt(xp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return weights[f"{self.name}.weight"] * xp.astype(scaled, x.dtype)


@for_plugins
@dataclass(frozen=True)
class Linear(Node):
    """``x @ weight.T + bias``. ``[..., in_features] -> [..., out_features]``.

    ``partition`` says how tensor parallelism may split it: ``"column"`` (outputs), ``"row"`` (inputs) or ``None``.
    ``tied_to`` names the node whose weight it shares, for a head tied to the embedding.
    """

    name: str
    in_features: int
    out_features: int
    bias: bool = False
    partition: str | None = None
    tied_to: str | None = None
    role: str = "linear"

    @property
    def of_head(self) -> bool:
        """Whether it belongs to a task's head."""
        return is_of_head(self.role)

    @property
    def weight_name(self) -> str:
        """Checkpoint name of the weight, the tied one's where it is tied."""
        return f"{self.tied_to or self.name}.weight"

    def own_parameters(self) -> Iterator[Parameter]:
        if self.tied_to is None:
            yield Parameter(self.weight_name, (self.out_features, self.in_features), self.role)
        if self.bias:
            role = "bias" if self.role == "linear" else f"{self.role}.bias"
            yield Parameter(f"{self.name}.bias", (self.out_features,), role)

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        y = xp.matmul(x, xp.permute_dims(weights[self.weight_name], (1, 0)))
        return y + weights[f"{self.name}.bias"] if self.bias else y


@for_plugins
@dataclass(frozen=True)
class Attention(Node):
    """Causal attention with grouped key/value heads and rotary positions. ``[B, S, E] -> [B, S, E]``.

    Head ``h`` of the queries reads key/value head ``h // (num_heads / num_kv_heads)``. Softmax is in float32. The cache
    goes in and comes out through ``ctx.cache``; attention never looks inside it.
    """

    name: str
    q: Node
    k: Node
    v: Node
    o: Node
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: Rope
    dropout: float = 0.0

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        batch, length, _ = x.shape
        q = self._heads(xp, ctx.run(self.q, x), self.num_heads)  # [B, H, S, D]
        k = self._heads(xp, ctx.run(self.k, x), self.num_kv_heads)  # [B, G, S, D]
        v = self._heads(xp, ctx.run(self.v, x), self.num_kv_heads)
        q, k = ctx.run(self.rope, q), ctx.run(self.rope, k)
        if ctx.cache is not None:
            k, v = ctx.cache.update(self.name, k, v)  # [B, G, K, D]
        keys, group = k.shape[2], self.num_heads // self.num_kv_heads
        # The heads of a group fold into the query axis, so keys and values are never repeated.
        q = xp.reshape(q, (batch, self.num_kv_heads, group * length, self.head_dim))
        scores = xp.matmul(q, xp.permute_dims(k, (0, 1, 3, 2))) * self.head_dim**-0.5
        scores = xp.reshape(ctx.widen(scores), (batch, self.num_heads, length, keys))
        probabilities = xp.astype(softmax(xp, ctx.masked(scores)), v.dtype)  # [B, H, S, K]
        ctx.keep_attention(probabilities)
        probabilities = ctx.dropout(probabilities, self.dropout)
        probabilities = xp.reshape(probabilities, (batch, self.num_kv_heads, group * length, keys))
        y = xp.reshape(xp.matmul(probabilities, v), (batch, self.num_heads, length, self.head_dim))
        y = xp.reshape(xp.permute_dims(y, (0, 2, 1, 3)), (batch, length, self.num_heads * self.head_dim))
        return ctx.run(self.o, y)

    def _heads(self, xp: Any, x: Array, heads: int) -> Array:
        batch, length, _ = x.shape
        return xp.permute_dims(xp.reshape(x, (batch, length, heads, self.head_dim)), (0, 2, 1, 3))


def softmax(xp: Any, x: Array) -> Array:
    """Softmax over the last axis, shifted by the maximum so that it cannot overflow."""
    e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


@for_plugins
@dataclass(frozen=True)
class GatedMLP(Node):
    """``down(activation(gate(x)) * up(x))``, SwiGLU when the activation is silu (Shazeer 2020, arXiv:2002.05202)."""

    name: str
    gate: Node
    up: Node
    down: Node
    activation: str

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        gate = ctx.activate(self.activation, ctx.run(self.gate, x))
        return ctx.run(self.down, gate * ctx.run(self.up, x))


@for_plugins
@dataclass(frozen=True)
class DecoderLayer(Node):
    """Attention, then the gated MLP, each on a normed input and added back. ``[B, S, E] -> [B, S, E]``."""

    name: str
    attention_norm: Node
    attention: Node
    mlp_norm: Node
    mlp: Node

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        x = x + ctx.run(self.attention, ctx.run(self.attention_norm, x))
        return x + ctx.run(self.mlp, ctx.run(self.mlp_norm, x))


@for_plugins
@dataclass(frozen=True)
class Decoder(Node):
    """The trunk: embedded tokens through every layer and the final norm. ``[B, S, E] -> [B, S, E]``.

    ``embed`` is run by the caller, because a user may give embeddings instead of ids; where it is adapted, a
    ``LoraEmbedding`` stands in its place.
    """

    name: str
    embed: Embedding
    layers: tuple[Node, ...]
    norm: Node

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        for layer in self.layers:
            ctx.keep_hidden(x)
            x = ctx.run(layer, x)
        x = ctx.run(self.norm, x)
        ctx.keep_hidden(x)
        return x


@for_plugins
@dataclass(frozen=True)
class Chain(Node):
    """Nodes one after the other, each on what the one before gave."""

    steps: tuple[Node, ...]

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        for step in self.steps:
            x = ctx.run(step, x)
        return x


@for_plugins
@dataclass(frozen=True)
class Dropout(Node):
    """While training, 0 with probability `p`, and the rest scaled by ``1 / (1 - p)``; otherwise the input as it is.

    Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting" (JMLR 15).
    """

    p: float

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        return ctx.dropout(x, self.p)


POOLINGS = ("last", "mean")


@for_plugins
@dataclass(frozen=True)
class Pool(Node):
    """One vector per row: its last token of text, or the mean over all of them. ``[B, S, E] -> [B, E]``.

    The mean is in float32 and cast back. Which tokens are text and which are padding is
    :func:`~polyllama.core.graph.text_tokens.text_tokens`'s to say.
    """

    pooling: str = "last"
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ConfigError(f"graph: pooling {self.pooling!r} is not known", hint=f"one of {', '.join(POOLINGS)}")

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        batch, length, size = x.shape
        text = text_tokens(ctx.input_ids, ctx.attended, self.pad_token_id, batch)
        if text is None:  # a single row, all of it text
            return x[:, -1, :] if self.pooling == "last" else xp.astype(xp.mean(ctx.widen(x), axis=1), x.dtype)
        if self.pooling == "mean":
            wide = ctx.widen(x)
            total = xp.sum(xp.where(text[:, :, None], wide, xp.zeros_like(wide)), axis=1)
            return xp.astype(total / xp.sum(xp.astype(text, wide.dtype), axis=1)[:, None], x.dtype)
        # Running sums of ones number the places, on whichever device the row is.
        ones = xp.ones_like(xp.astype(text, xp.int32))
        places = xp.cumulative_sum(ones, axis=1) - 1
        last = xp.max(xp.where(text, places, xp.zeros_like(places)), axis=1)
        rows = xp.cumulative_sum(ones[:, 0], axis=0) - 1
        return xp.take(xp.reshape(x, (batch * length, size)), rows * length + last, axis=0)
