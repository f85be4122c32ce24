"""The graph's nodes as ``mlx.nn`` modules, named and nested by checkpoint path.

Leaves are an ``nn.Linear`` or ``nn.Embedding`` and take ``(x)``; composites take ``(x, ctx)``. A node that has no
module here keeps its parameters at their paths and runs by its own definition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mlx.core as mx
from mlx.nn.layers.activations import silu
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear as NativeLinear

from ...core.graph import nodes
from ...core.graph.node import Context, Node
from ...core.graph.quantized import QuantizedEmbedding, QuantizedLinear
from ...core.graph.rope import Rope
from .attention import BLOCK, causal_attention
from .checkpointing import run_checkpointed
from .products import product
from .tree import TypedModule, find, put, relative


def _silu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)


ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "silu": _silu,
    "swish": _silu,
    "relu": lambda x: mx.maximum(x, 0),
}
"""Shorter forms of common activations; the others run by the spec's definition."""

FUSED_ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {"silu": silu, "swish": silu}
"""Compiled into one kernel on a GPU. On a CPU compiling would need a C++ compiler on the user's machine."""


class MlxContext(Context):
    """Runs children as the modules of `root`, and knows MLX's fused forms.

    Attributes:
        plain: whether MLX multiplies matrices by plain loops, so that spelling out attention is faster.
        stride: what is recorded is handed over to be computed after every so many layers.
        cut_short: whether the layer that runs now need give no more than the last `keep` positions.
        checkpointing: whether layers are computed anew for their gradients.
    """

    def __init__(
        self,
        *args: Any,
        root: Module,
        on_gpu: bool = False,
        plain: bool = False,
        stride: int = 1,
        checkpointing: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.root = root
        self.on_gpu = on_gpu
        self.plain = plain
        self.stride = stride
        self.dropouts = 0
        self._dropout_key: mx.array | None = None
        self.checkpointing = bool(checkpointing and root.training and self.observe is None)
        self.spelled_out = self.attentions is not None or self.observe is not None
        self.cut_short = False
        self._causal_masks: dict[tuple[int, int], mx.array] = {}
        self._rotations: dict[int, tuple[mx.array, mx.array]] = {}

    def run(self, node: Node, x: mx.array) -> mx.array:
        if isinstance(node, Rope):
            y = rotate(x, *self.rotation(node))
            if self.observe is not None:
                self.observe(node, y)
            return y
        if isinstance(node, nodes.Decoder):
            y = run_decoder(find(self.root, node.name), node, x, self)
            if self.observe is not None:
                self.observe(node, y)
            return y
        name = node.path
        if not name:
            plain: mx.array = super().run(node, x)  # it holds nothing, so it has no module
            return plain
        return self.child(find(self.root, name), node, x)

    def child(self, module: Any, node: Node, x: mx.array) -> mx.array:
        """Run a child module whose node is `node`."""
        y: mx.array = module(x, self) if isinstance(module, Composite) else module(x)
        if self.observe is not None:
            self.observe(node, y)
        return y

    def widen(self, x: mx.array) -> mx.array:
        return x if x.dtype == mx.float32 else x.astype(mx.float32)

    def activate(self, name: str, x: mx.array) -> mx.array:
        known = (self.on_gpu and FUSED_ACTIVATIONS.get(name)) or ACTIVATIONS.get(name)
        y: mx.array = known(x) if known else super().activate(name, x)
        return y

    def dropout(self, x: mx.array, p: float) -> mx.array:
        if not p or not self.root.training:
            return x
        key = self.dropout_key() + self.dropouts
        self.dropouts += 1
        return mx.where(mx.random.bernoulli(1.0 - p, x.shape, key=key), x / (1.0 - p), mx.zeros_like(x))

    def dropout_key(self) -> mx.array:
        """The random key of this pass, drawn from MLX's own stream; each place of the graph adds its number to it.

        A layer that gradient checkpointing runs again must draw the same numbers, so they cannot come from a stream.
        """
        if self._dropout_key is None:
            self._dropout_key = mx.random.randint(0, 2**32 - 1, (2,), dtype=mx.uint32)
        return self._dropout_key

    def causal(self, length: int, keys: int) -> mx.array | str | None:
        """What to hand to MLX's attention where plain causal masking says it all."""
        if length == 1:
            return None
        if self.on_gpu:
            return "causal"  # its kernels skip what is masked
        return self.causal_mask(length, keys)

    def causal_mask(self, length: int, keys: int) -> mx.array:
        """``[1, 1, S, K]`` booleans; on a CPU MLX would build them anew in every layer."""
        known = self._causal_masks.get((length, keys))
        if known is None:
            queries = mx.arange(keys - length, keys)[:, None]
            known = self._causal_masks[length, keys] = (mx.arange(keys)[None] <= queries)[None, None]
        return known

    def attend(self, q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
        """Attention of `q` ``[B, H, S, D]``, the last S of the keys' positions, by the fastest form there is."""
        length, keys = q.shape[2], k.shape[2]
        if self.plain and self.mask is None and length >= BLOCK:
            return causal_attention(q, k, v, scale, self.causal_mask)
        mask = self.mask[:, :, -length:] if self.mask is not None else self.causal(length, keys)
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)

    def rotation(self, rope: Rope) -> tuple[mx.array, mx.array]:
        """``[cos, cos]`` and ``[-sin, sin]`` ``[B or 1, 1, S, rotary_dim]``, so that a rotation is two products.

        ``mx.fast.rope`` would take reciprocals of the frequencies, which moves the angles by a rounding that grows with
        the position; it knows no positions but consecutive ones, and on a CPU it makes cosines anew in every layer.
        """
        known = self._rotations.get(id(rope))
        if known is None:
            cos, sin = self.rotary(rope)
            known = mx.concatenate([cos, cos], axis=-1), mx.concatenate([-sin, sin], axis=-1)
            self._rotations[id(rope)] = known
        return known


def rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """RoPE on ``[B, H, S, D]``; computed in the tables' precision, given back in `x`'s."""
    rotary = cos.shape[-1]
    half = rotary // 2
    turned = x if rotary == x.shape[-1] else x[..., :rotary]
    swapped = mx.concatenate([turned[..., half:], turned[..., :half]], axis=-1)
    y = turned * cos + swapped * sin
    y = y if y.dtype == x.dtype else y.astype(x.dtype)
    return y if rotary == x.shape[-1] else mx.concatenate([y, x[..., rotary:]], axis=-1)


class Composite(TypedModule):
    """A module that needs the pass's context: ``module(x, ctx)``.

    Attributes:
        node: the node it is.
        names: paths of its children below it, in the order of the node's fields.
    """

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node: Any = node
        # Past Module, which would take the tuple for a container of modules.
        object.__setattr__(
            self, "names", tuple(relative(node, child) for _, child in node.children() if hasattr(child, "name"))
        )

    def parts(self) -> Iterator[Any]:
        """The children, whatever they are by now (an adapter may have taken a place)."""
        for name in self.names:
            yield self[name] if name in self else find(self, name)


class RMSNorm(TypedModule):
    """RMSNorm by the spec's rule, float32 inside, cast back, then scaled: which is what ``mx.fast.rms_norm`` does."""

    def __init__(self, node: nodes.RMSNorm) -> None:
        super().__init__()
        self.eps = node.eps
        self.weight = mx.ones((node.dim,))

    def __call__(self, x: mx.array) -> mx.array:
        """``[..., dim] -> [..., dim]``."""
        return mx.fast.rms_norm(x, self["weight"], self.eps)


class Attention(Composite):
    """``mx.fast.scaled_dot_product_attention``; by the spec's own steps where the probabilities are asked for."""

    def __call__(self, x: mx.array, ctx: MlxContext, keep: int = 0) -> mx.array:
        """``[B, S, E] -> [B, S, E]``; with `keep`, only the last so many positions ask, and all are asked."""
        node = self.node
        if ctx.spelled_out or (node.dropout and self.training):
            spelled_out: mx.array = node.apply(ctx.xp, ctx.weights, x, ctx)
            return spelled_out
        batch, length, _ = x.shape
        heads, kv_heads, head_dim = node.num_heads, node.num_kv_heads, node.head_dim
        q_proj, k_proj, v_proj, o_proj = self.parts()
        asking = min(keep or length, length)
        q = ctx.child(q_proj, node.q, x if asking == length else x[:, -asking:])
        k, v = ctx.child(k_proj, node.k, x), ctx.child(v_proj, node.v, x)
        rotation = ctx.rotation(node.rope)
        if length == 1:
            # A single token: no axes to exchange, and queries and keys turn together, for operations count, not sizes.
            joined = mx.concatenate([q, k], axis=-1).reshape(batch, heads + kv_heads, 1, head_dim)
            q, k = mx.split(rotate(joined, *rotation), [heads], axis=1)
            v = v.reshape(batch, kv_heads, 1, head_dim)
        else:
            turn = rotation if asking == length else tuple(table[:, :, -asking:] for table in rotation)
            q = rotate(q.reshape(batch, asking, heads, head_dim).transpose(0, 2, 1, 3), *turn)
            k = rotate(k.reshape(batch, length, kv_heads, head_dim).transpose(0, 2, 1, 3), *rotation)
            v = v.reshape(batch, length, kv_heads, head_dim).transpose(0, 2, 1, 3)
        if ctx.cache is not None:
            k, v = ctx.cache.update(node.name, k, v)
        y = ctx.attend(q, k, v, head_dim**-0.5)
        if asking > 1:
            y = y.transpose(0, 2, 1, 3)
        return ctx.child(o_proj, node.o, y.reshape(batch, asking, heads * head_dim))


class GatedMLP(Composite):
    """``down(activation(gate(x)) * up(x))``."""

    def __call__(self, x: mx.array, ctx: MlxContext) -> mx.array:
        """``[B, S, E] -> [B, S, E]``."""
        node = self.node
        gate, up, down = self.parts()
        inner = ctx.activate(node.activation, ctx.child(gate, node.gate, x))
        return ctx.child(down, node.down, inner * ctx.child(up, node.up, x))


class DecoderLayer(Composite):
    """Attention and MLP, each on a normed input and added back."""

    def __call__(self, x: mx.array, ctx: MlxContext) -> mx.array:
        """``[B, S, E] -> [B, S, E]``."""
        node = self.node
        attention_norm, attention, mlp_norm, mlp = self.parts()
        normed = ctx.child(attention_norm, node.attention_norm, x)
        if ctx.cut_short and type(attention) is Attention:  # whatever else may be there gives all positions
            x = x[:, -ctx.keep :] + attention(normed, ctx, ctx.keep)
        else:
            x = x + ctx.child(attention, node.attention, normed)
        return x + ctx.child(mlp, node.mlp, ctx.child(mlp_norm, node.mlp_norm, x))


class SpecModule(Composite):
    """Any other node: runs its own definition, on parameters that lie at their own paths."""

    def __call__(self, x: mx.array, ctx: MlxContext) -> mx.array:
        """Whatever the node says."""
        y: mx.array = self.node.apply(ctx.xp, ctx.weights, x, ctx)
        return y


def run_decoder(container: Any, node: nodes.Decoder, x: mx.array, ctx: MlxContext) -> mx.array:
    """The trunk whose modules are in `container`: ``[B, S, E] -> [B, S, E]``."""
    training = ctx.root.training
    for number, layer in enumerate(node.layers, 1):
        ctx.keep_hidden(x)
        ctx.cut_short = number == len(node.layers) and ctx.keep > 0 and not training
        module = find(container, relative(node, layer))
        x = run_checkpointed(module, layer, x, ctx) if ctx.checkpointing else ctx.child(module, layer, x)
        if number % ctx.stride == 0 and not training:
            mx.async_eval(x)  # type: ignore[no-untyped-call]
    x = ctx.child(find(container, relative(node, node.norm)), node.norm, x)
    ctx.keep_hidden(x)
    return x


WORTH_A_START = 2**19
"""Weights whose products take longer than it takes to start them."""

MOST_STARTS = 8
"""How often a pass is handed over at most; each time costs some ten microseconds."""


def layers_between_starts(node: nodes.Decoder) -> int:
    """After how many layers what has been recorded is handed to MLX, which then computes while Python records on.

    Python takes as long to record a layer as a small one takes to compute. Layers that are smaller still are better
    handed over all together.
    """
    layers = max(1, len(node.layers))
    weights = sum(parameter.size for layer in node.layers for parameter in layer.parameters()) / layers
    return max(math.ceil(WORTH_A_START / max(weights, 1)), math.ceil(layers / MOST_STARTS))


class Linear(NativeLinear):
    """``nn.Linear``, by the fastest product there is; see :func:`product`."""

    widen = False

    def __call__(self, x: mx.array) -> mx.array:
        """``[..., in_features] -> [..., out_features]``."""
        if not self.widen:
            y: mx.array = super().__call__(x)
            return y
        y = product(x, self["weight"], True)
        return y + self["bias"] if "bias" in self else y


class TiedLinear(Composite):
    """A linear map by another node's weight: it has none of its own, for two would get two gradients."""

    widen = False

    def __call__(self, x: mx.array, ctx: MlxContext) -> mx.array:
        """``[..., in_features] -> [..., out_features]``."""
        y = product(x, ctx.weights[self.node.weight_name], self.widen)
        return y + ctx.weights[f"{self.node.name}.bias"] if self.node.bias else y


def _linear(node: nodes.Linear) -> Module:
    return TiedLinear(node) if node.tied_to is not None else Linear(node.in_features, node.out_features, node.bias)


class TiedQuantizedLinear(Composite):
    """A linear map by a packed embedding's tensors."""

    widen = False

    def __call__(self, x: mx.array, ctx: MlxContext) -> mx.array:
        """``[..., in_features] -> [..., out_features]``."""
        from .quantized import tied

        return tied(self.node, ctx.weights, x, self.widen)


def _quantized_linear(node: QuantizedLinear) -> Module:
    from .quantized import Linear as Packed

    return TiedQuantizedLinear(node) if node.tied_to is not None else Packed(node)


def _quantized_embedding(node: QuantizedEmbedding) -> Module:
    from .quantized import Embedding as Packed

    return Packed(node)


MODULES: Mapping[type[Node], Callable[[Any], Module]] = {
    QuantizedLinear: _quantized_linear,
    QuantizedEmbedding: _quantized_embedding,
    nodes.Embedding: lambda node: Embedding(node.num_embeddings, node.dim),
    nodes.Linear: _linear,
    nodes.RMSNorm: RMSNorm,
    nodes.Attention: Attention,
    nodes.GatedMLP: GatedMLP,
    nodes.DecoderLayer: DecoderLayer,
}
"""What is native here; every other node type becomes a :class:`SpecModule`."""


def attach(root: Module, node: Node, *, widen: bool = False) -> None:
    """Build the modules of `node` and all below it, and hang them into `root` by their names.

    Args:
        widen: see :func:`product`.
    """
    for each in node.walk():
        name = each.path
        if name and not isinstance(each, nodes.Decoder):  # a rope has nothing to hold, the trunk is a plain container
            module = MODULES.get(type(each), SpecModule)(each)
            if hasattr(module, "widen"):
                module.widen = widen
            put(root, name, module)
