"""The graph spec: what a Llama is, as frozen nodes that also say what they compute.

Every node is named by its checkpoint path, so the spec is the weight map: :meth:`Graph.parameters` lists every tensor a
checkpoint must hold. Every node carries its own definition in array-API terms, ``apply(xp, weights, x, ctx)``, so the
spec runs by itself on any array namespace; a backend overrides the nodes it can do faster and is held to this one.

Shapes: B batch, S new tokens, K keys (cached and new), H heads, G key/value heads, D head_dim, E hidden_size.

Source: Touvron et al. 2023, "LLaMA" (arXiv:2302.13971); Ainslie et al. 2023 for grouped queries (arXiv:2305.13245).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .errors import ConfigError, PluginError
from .messages import did_you_mean
from .text_tokens import text_tokens

if TYPE_CHECKING:
    from .context import Context
    from .rope import Rope

Array = Any
"""A native array of whichever framework runs the graph."""


@dataclass(frozen=True)
class Parameter:
    """One tensor of a graph: its checkpoint name, its shape and what it is for.

    ``role`` is ``"embedding"``, ``"linear"``, ``"bias"``, ``"norm"``, ``"adapter"`` or ``"quantization"`` (scales and
    biases of packed weights), with ``"head."`` in front for a task head's. ``bits`` is set for packed weights: 32-bit
    words of values of so many bits each.

    >>> Parameter("score.bias", (3,), "head.bias").of_head, Parameter("score.bias", (3,), "head.bias").purpose
    (True, 'bias')
    """

    name: str
    shape: tuple[int, ...]
    role: str
    bits: int | None = None

    @property
    def of_head(self) -> bool:
        """Whether it belongs to a task's head."""
        return _of_head(self.role)

    @property
    def purpose(self) -> str:
        """The last part of its role, whether it is the trunk's or a head's."""
        return self.role.rpartition(".")[2]

    @property
    def size(self) -> int:
        """Number of values."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size if self.bits is None else size * 32 // self.bits

    def held_as(self, dtype: str) -> str:
        """The dtype in which a backend that computes in `dtype` holds this tensor: packed words stay integers."""
        return dtype if self.bits is None else "uint32"


def _of_head(role: str) -> bool:
    return role.partition(".")[0] == "head"


@dataclass(frozen=True)
class Node:
    """Base of every node. A subclass is a frozen dataclass; its fields are numbers, strings, tuples and nodes.

    A node that holds tensors has a field ``name``, its checkpoint path; the names of its tensors begin with it.
    Serialized graphs call a node by its class's name, its kind. A plugin that brings a node type offers it by a
    :class:`~polyllama.core.hookspecs.NodeDescriptor`: :func:`node_type` then finds it though nothing has imported it.

    Attributes:
        kinds: every node type that is imported, by kind.
    """

    kinds: ClassVar[dict[str, type[Node]]] = {}

    def __init_subclass__(cls) -> None:
        other = Node.kinds.get(cls.__name__)
        # A dataclass with slots is rebuilt under its own name; anything else is two node types claiming one kind.
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(
                f"two node types are called {cls.__name__!r}: {other.__module__} and {cls.__module__}",
                hint="rename one: serialized graphs find a node by this name",
            )
        Node.kinds[cls.__name__] = cls

    @property
    def path(self) -> str:
        """The node's name where it has one, its path in checkpoints; ``""`` for one without, as for pooling."""
        path: str = getattr(self, "name", "")
        return path

    @property
    def shares_with(self) -> str | None:
        """The path of the node whose tensors it reads in place of its own: what its field ``tied_to`` says."""
        tied: str | None = getattr(self, "tied_to", None)
        return tied

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        """Compute this node on `x` with array namespace `xp`; children are run through ``ctx.run``."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it computes")

    def own_parameters(self) -> Iterator[Parameter]:
        """The tensors this node itself holds, without its children's."""
        return iter(())

    def children(self) -> Iterator[tuple[str, Node]]:
        """Child nodes with the field they sit in (``layers.0`` for tuples)."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Node):
                yield field.name, value
            elif isinstance(value, tuple):
                for index, item in enumerate(value):
                    if isinstance(item, Node):
                        yield f"{field.name}.{index}", item

    def map_children(self, change: Callable[[Any], Any]) -> Self:
        """This node with `change` made to each child; the same object where every child stays the same one."""
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Node):
                new: Any = change(value)
                if new is not value:
                    changes[field.name] = new
            elif isinstance(value, tuple) and any(isinstance(item, Node) for item in value):
                items = tuple(change(item) if isinstance(item, Node) else item for item in value)
                if any(a is not b for a, b in zip(items, value, strict=True)):
                    changes[field.name] = items
        return dataclasses.replace(self, **changes) if changes else self

    def walk(self) -> Iterator[Node]:
        """This node and all below it, parents first."""
        yield self
        for _, child in self.children():
            yield from child.walk()

    def parameters(self) -> tuple[Parameter, ...]:
        """Every tensor of this node and all below it, in checkpoint order, each once."""
        return tuple(p for node in self.walk() for p in node.own_parameters())

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold; :func:`node_from_dict` reads it back."""
        return {"kind": type(self).__name__} | {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def label(self) -> str:
        """One line for people, as in the tree print."""
        shown = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "name" or isinstance(value, Node | tuple | None.__class__):
                continue
            if value != field.default:
                shown.append(f"{field.name}={value}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _share(node: Any, known: dict[Any, Any]) -> Any:
    """Make equal nodes without a checkpoint path (the ropes) one object again: passes keep tables per object."""
    node = node.map_children(lambda child: _share(child, known))
    return node if any(f.name == "name" for f in dataclasses.fields(node)) else known.setdefault(node, node)


def _plain(value: Any) -> Any:
    if isinstance(value, Node):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def node_type(kind: str) -> type[Node]:
    """The node type that serialized graphs call `kind`; whichever plugin offers it is imported for it.

    Raises:
        ConfigError: nobody offers it; says which kinds there are.
        PluginError: two plugins claim it, or the one that offers it cannot be imported.

    >>> node_type("QuantizedLinear").__module__.endswith("quantization.nodes")
    True
    """
    known = Node.kinds.get(kind)
    if known is not None:
        return known
    from .plugins import plugin_manager

    offered = plugin_manager().nodes()
    if kind in offered:
        descriptor = offered[kind]
        found = descriptor.load()
        if not (isinstance(found, type) and issubclass(found, Node) and found.__name__ == kind):
            raise PluginError(
                f"node {kind!r} of plugin {descriptor.plugin!r}: {descriptor.target} is no node type of that name",
                hint="its target is a subclass of polyllama.core.graph.Node",
            )
        return found
    kinds = sorted({*Node.kinds, *offered})
    close = did_you_mean(kind, kinds)
    guess = f"{close} " if close else ""
    raise ConfigError(
        f"graph: unknown node kind {kind!r}",
        hint=f"{guess}install the plugin that brings it; known kinds: {', '.join(kinds)}",
    )


def node_from_dict(data: Any) -> Any:
    """Rebuild a node from :meth:`Node.to_dict`'s data.

    Raises:
        ConfigError: an unknown kind, or fields that do not fit it.
        PluginError: see :func:`node_type`.
    """
    if isinstance(data, list):
        return tuple(node_from_dict(item) for item in data)
    if not isinstance(data, dict):
        return data
    kind = data.get("kind")
    if not isinstance(kind, str):
        raise ConfigError(f"graph: a node's kind is {kind!r:.80}, wanted the name of a node type")
    cls = node_type(kind)
    fields = {key: node_from_dict(value) for key, value in data.items() if key != "kind"}
    try:
        return cls(**fields)
    except TypeError as error:
        raise ConfigError(f"graph: the fields of {kind} do not fit: {error}") from None


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
        return _of_head(self.role)

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


@dataclass(frozen=True)
class Decoder(Node):
    """The trunk: embedded tokens through every layer and the final norm. ``[B, S, E] -> [B, S, E]``.

    ``embed`` is run by the caller, because a user may give embeddings instead of ids.
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


@dataclass(frozen=True)
class Chain(Node):
    """Nodes one after the other, each on what the one before gave."""

    steps: tuple[Node, ...]

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        for step in self.steps:
            x = ctx.run(step, x)
        return x


@dataclass(frozen=True)
class Dropout(Node):
    """While training, 0 with probability `p`, and the rest scaled by ``1 / (1 - p)``; otherwise the input as it is.

    Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting" (JMLR 15).
    """

    p: float

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        return ctx.dropout(x, self.p)


POOLINGS = ("last", "mean")


@dataclass(frozen=True)
class Pool(Node):
    """One vector per row: its last token of text, or the mean over all of them. ``[B, S, E] -> [B, E]``.

    The mean is in float32 and cast back. Which tokens are text and which are padding is
    :func:`~polyllama.core.text_tokens.text_tokens`'s to say.
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


@dataclass(frozen=True)
class Graph:
    """A decoder and the head that a task attached (``None`` for the bare trunk).

    >>> from polyllama import LlamaConfig
    >>> from polyllama.core.llama import build_graph
    >>> graph = build_graph(LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
    ...                                 num_attention_heads=2))
    >>> Graph.from_json(graph.to_json()) == graph
    True
    """

    decoder: Decoder
    head: Node | None = None
    task: str = "base"

    def walk(self) -> Iterator[Node]:
        """Every node, parents first."""
        yield from self.decoder.walk()
        if self.head is not None:
            yield from self.head.walk()

    def parameters(self) -> tuple[Parameter, ...]:
        """Name, shape and role of every tensor, each once, in checkpoint order."""
        return tuple(p for node in self.walk() for p in node.own_parameters())

    def num_parameters(self) -> int:
        """Number of weights; tied ones count once, and quantized ones as what they stand for."""
        return sum(p.size for p in self.parameters() if p.purpose != "quantization")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with a version so that an old file is recognized."""
        head = None if self.head is None else self.head.to_dict()
        return {"version": 1, "task": self.task, "decoder": self.decoder.to_dict(), "head": head}

    def to_json(self, indent: int | None = None) -> str:
        """The graph as JSON text; :meth:`from_json` gives an equal graph back."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_json(cls, text: str) -> Graph:
        """Read what :meth:`to_json` wrote.

        Raises:
            ConfigError: not JSON, another version, or nodes that do not fit.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"graph: not JSON ({error})") from None
        if not isinstance(data, dict) or data.get("version") != 1:
            found = data.get("version") if isinstance(data, dict) else type(data).__name__
            raise ConfigError(f"graph: version {found!r} is not known here", hint="this release reads version 1")
        head = data.get("head")
        decoder = node_from_dict(data.get("decoder"))
        if not isinstance(decoder, Decoder):
            raise ConfigError("graph: 'decoder' must be a Decoder node")
        return cls(_share(decoder, {}), None if head is None else node_from_dict(head), str(data.get("task", "base")))

    def tree(self) -> str:
        """The graph as an indented tree; layers that are alike are drawn once."""
        lines = [f"Graph(task={self.task}, parameters={self.num_parameters():,})"]
        parts: list[tuple[str, Node]] = [("decoder", self.decoder)]
        if self.head is not None:
            parts.append(("head", self.head))
        for position, (field, node) in enumerate(parts):
            _draw(node, field, "", position == len(parts) - 1, lines)
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.tree()


def _draw(node: Node, field: str, indent: str, last: bool, lines: list[str]) -> None:
    name = node.path
    lines.append(f"{indent}{'└─ ' if last else '├─ '}{field}: {node.label()}" + (f"  {name}" if name else ""))
    rows = _fold(list(node.children()))
    below = indent + ("   " if last else "│  ")
    for position, (child_field, child) in enumerate(rows):
        _draw(child, child_field, below, position == len(rows) - 1, lines)


def _fold(children: list[tuple[str, Node]]) -> list[tuple[str, Node]]:
    """Join runs of siblings that differ only in their names into one row, ``layers.0-31``."""
    rows: list[tuple[str, Node]] = []
    start = 0
    while start < len(children):
        field, node = children[start]
        stop = start + 1
        shape = shape_apart_from_names(node)
        while stop < len(children) and "." in field and shape_apart_from_names(children[stop][1]) == shape:
            stop += 1
        label = field if stop == start + 1 else f"{field}-{children[stop - 1][0].rpartition('.')[2]}"
        rows.append((label, node))
        start = stop
    return rows


def shape_apart_from_names(node: Node) -> Any:
    """What a node is apart from its names."""
    fields = {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.name not in ("name", "tied_to")}
    own = tuple(value for value in fields.values() if not _holds_nodes(value))
    return type(node), own, tuple(shape_apart_from_names(child) for _, child in node.children())


def _holds_nodes(value: Any) -> bool:
    """Whether a field is a child or several, which have names of their own."""
    return isinstance(value, Node) or (isinstance(value, tuple) and any(isinstance(item, Node) for item in value))


def nodes_of_type(graph: Graph, kind: type[Node]) -> list[Any]:
    """Every node of `kind` in `graph`, in order."""
    return [node for node in graph.walk() if isinstance(node, kind)]
