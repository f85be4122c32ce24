"""What one forward pass carries beside the activations: positions, mask, cache, and how children are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from .activations import ACTIVATIONS

if TYPE_CHECKING:
    from .cache import Cache
    from .graph import Array, Node

Override = Callable[["Node", Any, "Context"], Any]
"""A backend's own way to run a node: ``override(node, x, ctx) -> y``."""


class RotaryTables(Protocol):
    """What a rotary embedding gives a pass; see :class:`~polyllama.core.rope.Rope`."""

    def tables(self, xp: Any, positions: Array, frequencies: Array) -> tuple[Array, Array]:
        """Cosines and sines of `positions`."""
        ...


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
        self.keep = 0
        self._tables: dict[int, tuple[Array, Array]] = {}

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
