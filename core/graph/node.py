"""What a node is: parameters named by checkpoint path, children, and the context in which it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from ..dtypes import Array
from ..errors import ConfigError
from ..public import defined_in, for_plugins
from .activations import ACTIVATIONS

if TYPE_CHECKING:
    from .cache import Cache


Override = Callable[["Node", Any, "Context"], Any]
"""A backend's own way to run a node: ``override(node, x, ctx) -> y``."""


class RotaryTables(Protocol):
    """What a rotary embedding gives a pass; see :class:`~polyllama.extend.Rope`."""

    def tables(self, xp: Any, positions: Array, frequencies: Array) -> tuple[Array, Array]:
        """Cosines and sines of `positions`."""
        ...


@for_plugins
class Context:
    """The state of one forward pass of a graph.

    Attributes:
        xp: the array namespace.
        positions: ``[B or 1, S]`` integers, the count of attended tokens before each.
        mask: ``[B or 1, 1, S, K]`` booleans, true where a query may look; ``None`` means plain causal attention of the
            last S of K slots, which a backend may hand to a fused kernel.
        cache: where keys and values of earlier tokens are, or ``None``.
        frequencies: per rope node, ``[B or 1, rotary_dim / 2]`` float32 inverse frequencies in native form.
        overrides: node type -> the backend's own way to run it; types not listed run by their own definition.
        keep: how many last positions of the trunk's output are read, 0 for all. A backend may compute the last layer
            for these alone; the spec's own definition computes all.
        hidden_states, attentions: lists that collect what was asked for, or ``None``.
        input_ids: for heads, ``[B, S]`` ids of the new tokens; ``None`` where embeddings were given.
        attended: for heads, ``[B, S]`` booleans, what the attention mask says of the new tokens; ``None`` without one.
        adapter_rows: ``[B]`` integers, which of the graph's adapters each row has, -1 for none; ``None`` where no row
            has any.
    """

    def __init__(
        self,
        xp: Any,
        weights: Mapping[str, Array],
        positions: Array,
        frequencies: Callable[[Any], Array],
        *,
        mask: Array | None = None,
        cache: Cache | None = None,
        overrides: Mapping[type, Override] | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        observe: Callable[[Node, Array], None] | None = None,
    ) -> None:
        self.xp = xp
        self.weights = weights
        self.positions = positions
        self.frequencies = frequencies
        self.mask = mask
        self.cache = cache
        self.overrides = overrides or {}
        self.hidden_states: list[Array] | None = [] if output_hidden_states else None
        self.attentions: list[Array] | None = [] if output_attentions else None
        self.observe = observe
        self.input_ids: Array | None = None
        self.attended: Array | None = None
        self.adapter_rows: Array | None = None
        self.keep = 0
        self._tables: dict[int, tuple[Array, Array]] = {}
        self._gates: dict[tuple[tuple[int, ...], int], Array] = {}

    def run(self, node: Node, x: Array) -> Array:
        """Run a child node: by the backend's override where it has one, else by the node's own definition."""
        override = self.overrides.get(type(node))
        y = override(node, x, self) if override is not None else node.apply(self.xp, self.weights, x, self)
        if self.observe is not None:
            self.observe(node, y)
        return y

    def widen(self, x: Array) -> Array:
        """`x` in float32, or as it is where it already is float64."""
        return x if x.dtype == self.xp.float64 else self.xp.astype(x, self.xp.float32)

    def activate(self, name: str, x: Array) -> Array:
        """The activation function called `name`."""
        return ACTIVATIONS[name](self.xp, x)

    def rotary(self, rope: RotaryTables) -> tuple[Array, Array]:
        """Cosines and sines ``[B or 1, 1, S, rotary_dim / 2]`` for this pass's positions, built once per pass."""
        tables = self._tables.get(id(rope))
        if tables is None:
            tables = rope.tables(self.xp, self.positions, self.frequencies(rope))
            self._tables[id(rope)] = tables
        return tables

    def of_own_adapters(self, x: Array, ranks: tuple[int, ...]) -> Array:
        """`x` ``[B, ..., R]`` with 0 in place of what is another adapter's than the row's own.

        Args:
            ranks: of each adapter of the graph, how many of the `R` columns are its own; 0 where it has none here.
        """
        xp, own = self.xp, self.adapter_rows
        assert own is not None  # else a node has no use for any column
        gate = self._gates.get((ranks, x.ndim))  # built once per pass
        if gate is None:
            owners = [adapter for adapter, rank in enumerate(ranks) for _ in range(rank)]
            owner = xp.asarray(owners, dtype=own.dtype, device=getattr(x, "device", None))
            rows = xp.reshape(own, (-1, *(1,) * (x.ndim - 1)))
            gate = self._gates[ranks, x.ndim] = rows == owner
        # Chosen, and not multiplied by 0: an infinity of another's adapter would be a NaN.
        return xp.where(gate, x, xp.zeros_like(x))

    def masked(self, scores: Array) -> Array:
        """`scores` ``[B, H, S, K]`` with minus infinity wherever a query may not look."""
        xp = self.xp
        mask = self.mask
        if mask is None:
            length, keys = scores.shape[2], scores.shape[3]
            if length == 1:
                return scores
            mask = causal_mask(xp, length, keys, scores)
        return xp.where(mask, scores, xp.asarray(-float("inf"), dtype=scores.dtype))

    def keep_hidden(self, x: Array) -> None:
        """Collect a hidden state if they were asked for."""
        if self.hidden_states is not None:
            self.hidden_states.append(x)

    def keep_attention(self, probabilities: Array) -> None:
        """Collect attention probabilities ``[B, H, S, K]`` if they were asked for."""
        if self.attentions is not None:
            self.attentions.append(probabilities)

    def dropout(self, x: Array, p: float) -> Array:
        """Dropout while training; the spec alone only evaluates, so here it is the identity."""
        return x


def causal_mask(xp: Any, length: int, keys: int, like: Array) -> Array:
    """``[1, 1, S, K]`` booleans for the last `length` of `keys` slots: true on and below the diagonal."""
    device = getattr(like, "device", None)
    queries = xp.reshape(xp.arange(keys - length, keys, device=device), (1, 1, length, 1))
    return xp.reshape(xp.arange(keys, device=device), (1, 1, 1, keys)) <= queries


@for_plugins
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
        return is_of_head(self.role)

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


def is_of_head(role: str) -> bool:
    return role.partition(".")[0] == "head"


@for_plugins
@dataclass(frozen=True)
class Node:
    """Base of every node. A subclass is a frozen dataclass; its fields are numbers, strings, tuples and nodes.

    A node that holds tensors has a field ``name``, its checkpoint path; the names of its tensors begin with it.
    Serialized graphs call a node by its class's name, its kind. A plugin that brings a node type offers it by a
    :class:`~polyllama.extend.NodeDescriptor`: :func:`~polyllama.core.graph.serialize.node_type` then finds it though
    nothing has imported it.

    Attributes:
        kinds: every node type that is imported, by kind.
    """

    kinds: ClassVar[dict[str, type[Node]]] = {}

    def __init_subclass__(cls) -> None:
        other = Node.kinds.get(cls.__name__)
        # A dataclass with slots is rebuilt under its own name; anything else is two node types claiming one kind.
        if other is not None and (defined_in(other), other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(
                f"two node types are called {cls.__name__!r}: {defined_in(other)} and {cls.__module__}",
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
        """Plain data that JSON can hold; :func:`~polyllama.core.graph.serialize.node_from_dict` reads it back."""
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


def _plain(value: Any) -> Any:
    if isinstance(value, Node):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
