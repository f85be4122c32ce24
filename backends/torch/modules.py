"""The graph's nodes as ``nn.Module``s, named and nested by checkpoint path.

Leaves take ``(x)``, so that adapters and hooks written for plain torch layers fit; composites take ``(x, ctx)``. A node
that has no module here runs by its own definition in :class:`SpecModule`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any
from weakref import ReferenceType, ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import BackendError, UnsupportedError
from ...core.graph import nodes
from ...core.graph.node import Context, Node
from ...core.graph.quantized import QuantizedEmbedding, QuantizedLinear
from ...core.graph.rope import Rope
from .attention import attend
from .checkpointing import Checkpointing, run_layer
from .rotary import RotaryEmbedding, rotate
from .trunk import TrunkAlone, WholeModule

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}
"""Fused forms of common activations; the others run by the spec's definition."""


class TorchContext(Context):
    """Runs children as the modules of `root`, and knows torch's fused forms."""

    def __init__(self, *args: Any, root: Checkpointing, attn_implementation: str = "sdpa", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.root = root
        self.checkpointing = root.checkpointing_now() if self.observe is None else None
        self.eager = attn_implementation == "eager" or self.attentions is not None
        self._rotations: dict[int, tuple[Tensor, Tensor]] = {}

    def run(self, node: Node, x: Tensor) -> Tensor:
        y: Tensor
        if isinstance(node, Rope):
            y = rotate(x, *self.rotation(node))
        elif isinstance(node, nodes.Decoder):
            # The bare trunk has no prefix: its decoder is the root itself.
            y = self.root.get_submodule(node.name)(x, self) if node.name else run_decoder(self.root, node, x, self)
        elif not (path := node.path):
            y = node.apply(self.xp, self.weights, x, self)  # it holds nothing, so it has no module
        else:
            module = self.root.get_submodule(path)
            y = module(x, self) if isinstance(module, Composite) else module(x)
        if self.observe is not None:
            self.observe(node, y)
        return y

    def child(self, module: nn.Module, node: Node, x: Tensor) -> Tensor:
        """Run a child module whose node is `node`."""
        y: Tensor = module(x, self) if isinstance(module, Composite) else module(x)
        if self.observe is not None:
            self.observe(node, y)
        return y

    def widen(self, x: Tensor) -> Tensor:
        return x if x.dtype == torch.float64 else x.float()

    def activate(self, name: str, x: Tensor) -> Tensor:
        fused = ACTIVATIONS.get(name)
        y: Tensor = fused(x) if fused is not None else super().activate(name, x)
        return y

    def dropout(self, x: Tensor, p: float) -> Tensor:
        return F.dropout(x, p, training=self.root.training)

    def rotation(self, rope: Rope) -> tuple[Tensor, Tensor]:
        """``[cos, cos]`` and ``[-sin, sin]`` ``[B or 1, 1, S, rotary_dim]``, so that a rotation is two products."""
        known = self._rotations.get(id(rope))
        if known is None:
            cos, sin = self.rotary(rope)
            known = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
            self._rotations[id(rope)] = known
        return known


def multiply(x: Tensor, y: Tensor) -> Tensor:
    """``x * y``, into the memory of `x` where no gradient needs it.

    Only for an `x` that was made a line before: what a module returned may be held by a hook. Large activations that
    are allocated anew cost more in page faults than in arithmetic.
    """
    return x * y if torch.is_grad_enabled() or x.dtype != y.dtype else x.mul_(y)


def child(module: nn.Module, path: str) -> nn.Module:
    """The submodule at `path`; a plain name, as nearly all are, is one look into a dictionary."""
    found = module._modules.get(path)
    if found is not None:
        return found
    try:
        return module.get_submodule(path)
    except AttributeError:
        raise UnsupportedError(
            f"the model has no {path} any more, which its configuration says that it has",
            hint="load it with another configuration, such as num_hidden_layers=..., instead of taking modules out",
        ) from None


class Composite(nn.Module):
    """A module that needs the pass's context: ``forward(x, ctx)``."""


class LlamaRMSNorm(nn.Module):
    """RMSNorm by the spec's rule: float32 inside, cast back, then scaled."""

    def __init__(self, node: nodes.RMSNorm) -> None:
        super().__init__()
        self.eps = node.eps
        self.weight = nn.Parameter(torch.empty(node.dim))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., dim] -> [..., dim]``."""
        wide = x if x.dtype == torch.float64 else x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return multiply(scaled.to(x.dtype), self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


class LlamaAttention(Composite):
    """Scaled dot product attention with torch's fused kernels; eager where the probabilities are asked for."""

    def __init__(self, node: nodes.Attention) -> None:
        super().__init__()
        self.node = node
        self._children = tuple(_relative(node, child) for child in (node.q, node.k, node.v, node.o))
        self.heads = node.num_heads, node.num_kv_heads, node.head_dim

    def forward(self, x: Tensor, ctx: TorchContext) -> Tensor:
        """``[B, S, E] -> [B, S, E]``."""
        node = self.node
        if ctx.eager or ctx.observe is not None:
            y: Tensor = node.apply(ctx.xp, ctx.weights, x, ctx)
            return y
        batch, length, _ = x.shape
        num_heads, num_kv_heads, head_dim = self.heads
        q_proj, k_proj, v_proj, o_proj = (child(self, name) for name in self._children)
        q = ctx.child(q_proj, node.q, x).view(batch, length, num_heads, head_dim)
        k = ctx.child(k_proj, node.k, x).view(batch, length, num_kv_heads, head_dim)
        v = ctx.child(v_proj, node.v, x).view(batch, length, num_kv_heads, head_dim).transpose(1, 2)  # [B, G, S, D]
        rotation = ctx.rotation(node.rope)
        if length == 1:
            # Rotated together: for a single token the number of operations counts, not their size.
            qk = rotate(torch.cat([q, k], dim=2).transpose(1, 2), *rotation)
            q, k = qk.narrow(1, 0, num_heads), qk.narrow(1, num_heads, num_kv_heads)
        else:
            q, k = rotate(q.transpose(1, 2), *rotation), rotate(k.transpose(1, 2), *rotation)
        if ctx.cache is not None:
            k, v = ctx.cache.update(node.name, k, v)
        y = attend(ctx, q, k, v, node.dropout if self.training else 0.0)
        return ctx.child(o_proj, node.o, y.transpose(1, 2).reshape(batch, length, num_heads * head_dim))


class LlamaMLP(Composite):
    """``down(activation(gate(x)) * up(x))``."""

    def __init__(self, node: nodes.GatedMLP) -> None:
        super().__init__()
        self.node = node
        self._children = tuple(_relative(node, child) for child in (node.gate, node.up, node.down))

    def forward(self, x: Tensor, ctx: TorchContext) -> Tensor:
        """``[B, S, E] -> [B, S, E]``."""
        node = self.node
        gate, up, down = (child(self, name) for name in self._children)
        inner = ctx.activate(node.activation, ctx.child(gate, node.gate, x))
        other = ctx.child(up, node.up, x)
        # The activations listed here make a new tensor; another may give back what gate returned.
        product = multiply(inner, other) if node.activation in ACTIVATIONS else inner * other
        return ctx.child(down, node.down, product)


class LlamaDecoderLayer(Composite):
    """Attention and MLP, each on a normed input and added back."""

    def __init__(self, node: nodes.DecoderLayer) -> None:
        super().__init__()
        self.node = node
        parts = (node.attention_norm, node.attention, node.mlp_norm, node.mlp)
        self._children = tuple(_relative(node, child) for child in parts)

    def forward(self, x: Tensor, ctx: TorchContext) -> Tensor:
        """``[B, S, E] -> [B, S, E]``."""
        node = self.node
        attention_norm, attention, mlp_norm, mlp = (child(self, name) for name in self._children)
        x = x + ctx.child(attention, node.attention, ctx.child(attention_norm, node.attention_norm, x))
        return x + ctx.child(mlp, node.mlp, ctx.child(mlp_norm, node.mlp_norm, x))


class Decoder(Composite):
    """The trunk inside a module with a head.

    Called with ids, as users call ``model.model(ids)``, it is a model without a head: the whole module runs it, which
    knows the configuration and the weights' names. Inside a pass it is called with what the pass carries.
    """

    def __init__(self, node: nodes.Decoder) -> None:
        super().__init__()
        self.node = node
        self._alone: TrunkAlone | None = None
        self._whole: ReferenceType[WholeModule] | None = None

    def lead_to(self, whole: WholeModule, alone: TrunkAlone) -> None:
        """Have calls by itself run by `whole`, which it does not keep alive, and by what `alone` makes of it after."""
        self._whole, self._alone = ref(whole), alone

    @property
    def rotary_emb(self) -> RotaryEmbedding:
        """Cosines and sines of positions: ``model.model.rotary_emb(x, position_ids)``."""
        return RotaryEmbedding(self.node)

    def __getstate__(self) -> dict[str, Any]:
        # A copy is led by the copy of the whole module, or runs alone.
        return {**super().__getstate__(), "_whole": None}  # type: ignore[no-untyped-call]

    def _replicate_for_data_parallel(self) -> Any:
        replica: Any = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica._whole = None
        return replica

    def forward(self, *given: Any, **named: Any) -> Any:
        """``[B, S, E] -> [B, S, E]`` within a pass; by itself, arguments and output of a model without a head."""
        if len(given) == 2 and isinstance(given[1], TorchContext):
            return run_decoder(self, self.node, *given)
        whole = None if self._whole is None else self._whole()
        if whole is None:
            if self._alone is None:
                raise UnsupportedError("this trunk has never been a part of a model", hint="call the model")
            whole = self._alone(self)
        return whole.forward_trunk(*given, **named)


def run_decoder(container: nn.Module, node: nodes.Decoder, x: Tensor, ctx: TorchContext) -> Tensor:
    """The trunk whose modules are in `container`: ``[B, S, E] -> [B, S, E]``."""
    checkpoints = ctx.checkpointing
    for index, layer in enumerate(node.layers):
        ctx.keep_hidden(x)
        module = child(container, _relative(node, layer))
        if checkpoints is not None and checkpoints.covers(index):
            x = run_layer(module, layer, x, ctx, checkpoints.options)
        else:
            x = ctx.child(module, layer, x)
    x = ctx.child(child(container, _relative(node, node.norm)), node.norm, x)
    ctx.keep_hidden(x)
    return x


class SpecModule(Composite):
    """Any other node: holds its parameters and runs the node's own definition."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node
        self.prefix = f"{node.name}."  # type: ignore[attr-defined]
        for parameter in node.own_parameters():
            self.register_parameter(
                parameter.name.removeprefix(self.prefix), nn.Parameter(torch.empty(parameter.shape))
            )

    def forward(self, x: Tensor, ctx: TorchContext) -> Tensor:
        """Whatever the node says."""
        own = {self.prefix + name: p for name, p in self.named_parameters(recurse=False)}
        y: Tensor = self.node.apply(ctx.xp, {**own} or ctx.weights, x, ctx)
        return y


class Linear(nn.Linear):
    """``nn.Linear`` that reads the weights with every thread when there is a single row to multiply.

    On a CPU a matrix-vector product is bound by reading the matrix, and torch's float32 one reads with one thread. As a
    batched product over blocks of rows of the same memory, each thread reads its own blocks.
    """

    def reset_parameters(self) -> None:
        """Nothing: weights are given, or made by ``build_module``; torch's own take a second to import."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in_features] -> [..., out_features]``."""
        if x.shape[-1] != x.numel() or not self._splits(x):
            return F.linear(x, self.weight, self.bias)
        blocks = self.weight.view(ROW_BLOCKS, -1, self.in_features).transpose(1, 2)
        y = torch.bmm(x.reshape(1, 1, -1).expand(ROW_BLOCKS, 1, -1), blocks).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def _splits(self, x: Tensor) -> bool:
        weight = self.weight
        return (
            x.dtype == torch.float32
            and weight.dtype == torch.float32
            and weight.device.type == "cpu"
            and self.out_features % ROW_BLOCKS == 0
            and weight.is_contiguous()
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
        )


ROW_BLOCKS = 8
"""Blocks a matrix is read in: enough for a handful of threads, and each still long."""


def _linear(node: nodes.Linear) -> nn.Module:
    return Linear(node.in_features, node.out_features, bias=node.bias)


class Embedding(nn.Embedding):
    """``nn.Embedding`` without random weights of its own, as :class:`Linear`."""

    def reset_parameters(self) -> None:
        """Nothing."""


def _embedding(node: nodes.Embedding) -> nn.Module:
    return Embedding(node.num_embeddings, node.dim)


def _quantized_linear(node: Any) -> nn.Module:
    from .quantized import linear

    return linear(node)


def _quantized_embedding(node: Any) -> nn.Module:
    from .quantized import embedding

    return embedding(node)


MODULES: Mapping[type[Node], Callable[[Any], nn.Module]] = {
    QuantizedLinear: _quantized_linear,
    QuantizedEmbedding: _quantized_embedding,
    nodes.Embedding: _embedding,
    nodes.Linear: _linear,
    nodes.RMSNorm: LlamaRMSNorm,
    nodes.Attention: LlamaAttention,
    nodes.GatedMLP: LlamaMLP,
    nodes.DecoderLayer: LlamaDecoderLayer,
    nodes.Decoder: Decoder,
}
"""What is native here; every other node type becomes a :class:`SpecModule`."""


def attach_node(root: nn.Module, node: Node) -> None:
    """Build the modules of `node` and all below it, and hang each into `root` at its own checkpoint path.

    A node without a name (a rope) holds nothing and has no module; the bare trunk's name is empty, it is `root` itself.
    """
    name = node.path
    if name:
        hang(root, name, MODULES.get(type(node), SpecModule)(node))
    for _, below in node.children():
        attach_node(root, below)


def hang(container: nn.Module, path: str, module: nn.Module) -> None:
    """Register `module` under a dotted path, with a ``ModuleList`` wherever a part is a number."""
    parts = path.split(".")
    for part, following in pairwise(parts):
        if part not in dict(container.named_children()):
            container.add_module(part, nn.ModuleList() if following.isdigit() else nn.Module())
        container = container.get_submodule(part)
    last = parts[-1]
    if isinstance(container, nn.ModuleList):
        if int(last) != len(container):
            raise BackendError(f"graph: {path} is out of order", hint="layers must be listed by number")
        container.append(module)
    else:
        container.add_module(last, module)


def _relative(parent: Node, child: Node) -> str:
    """The path of `child` below `parent`."""
    base, name = parent.name, child.name  # type: ignore[attr-defined]
    return str(name.removeprefix(f"{base}.")) if base else str(name)
