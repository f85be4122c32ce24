"""The nodes of adapted layers: the layer as it is, and two small ones beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..dtypes import Array
from ..public import for_plugins
from .node import Node, Parameter
from .nodes import Embedding, Linear

if TYPE_CHECKING:
    from .node import Context


@for_plugins
@dataclass(frozen=True)
class LoraLinear(Node):
    """``base(x) + scale * up(down(x))``. ``[..., in_features] -> [..., out_features]``.

    With `magnitude` (DoRA) the sum without the layer's bias is multiplied by a factor for each output: its magnitude
    over the length of the adapted weight's row, worked out while loading.

    With `ranks` there are several adapters, one after the other along the rank, and each row has what its own adds:
    see :attr:`~polyllama.extend.Graph.adapters`. A row that has none gets what the base gives, bit for bit.

    Attributes:
        base: the layer, a ``Linear`` or a ``QuantizedLinear``.
        down, up: ``in_features -> rank`` and ``rank -> out_features``.
        ranks: of each of the graph's adapters, 0 where it leaves this layer alone; empty for one that all rows have.
    """

    name: str
    base: Node
    down: Linear
    up: Linear
    scale: float
    magnitude: bool = False
    ranks: tuple[int, ...] = ()

    @property
    def in_features(self) -> int:
        """Width of what comes in."""
        return self.down.in_features

    @property
    def out_features(self) -> int:
        """Width of what comes out."""
        return self.up.out_features

    def own_parameters(self) -> Iterator[Parameter]:
        if self.magnitude:
            yield Parameter(f"{self.name}.factor", (self.out_features,), "adapter")

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        y = ctx.run(self.base, x)
        if self.ranks:
            return _with_own(ctx, self, x, y)
        added = ctx.run(self.up, ctx.run(self.down, x)) * self.scale
        if not self.magnitude:
            return y + added
        factor = ctx.weights[f"{self.name}.factor"]
        if not getattr(self.base, "bias", False):
            return (y + added) * factor
        bias = ctx.weights[f"{self.base.path}.bias"]
        return (y - bias + added) * factor + bias


@for_plugins
@dataclass(frozen=True)
class LoraEmbedding(Node):
    """``base(ids) + scale * up(down(ids))``. ``[B, S] int -> [B, S, dim]``.

    A head that is tied to the embedding reads the base's table, so it is not adapted by this.

    Attributes:
        base: the embedding, an ``Embedding`` or a ``QuantizedEmbedding``.
        down: a table of ``rank`` numbers for each token; up: ``rank -> dim``.
        ranks: as of :class:`LoraLinear`.
    """

    name: str
    base: Embedding
    down: Embedding
    up: Linear
    scale: float
    ranks: tuple[int, ...] = ()

    @property
    def num_embeddings(self) -> int:
        """Rows of the table."""
        return self.base.num_embeddings

    @property
    def dim(self) -> int:
        """Width of what comes out."""
        return self.base.dim

    @property
    def float_name(self) -> str:
        """A tensor that has the dtype its rows come out in."""
        return self.base.float_name

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        rows = ctx.run(self.base, x)
        if self.ranks:
            return _with_own(ctx, self, x, rows)
        return rows + xp.astype(ctx.run(self.up, ctx.run(self.down, x)) * self.scale, rows.dtype)


def _with_own(ctx: Context, node: LoraLinear | LoraEmbedding, x: Array, y: Array) -> Array:
    """`y`, what the base gives for `x`, and what each row's own adapter adds."""
    if ctx.adapter_rows is None:
        return y
    down = ctx.of_own_adapters(ctx.run(node.down, x), node.ranks)
    return y + ctx.xp.astype(ctx.run(node.up, down) * node.scale, y.dtype)


def without_adapters_by_row(node: Any) -> Any:
    """A node as rows have it that have no adapter: what the adapters of single rows lie beside, and they not."""
    if isinstance(node, (LoraLinear, LoraEmbedding)) and node.ranks:
        return without_adapters_by_row(node.base)
    return node.map_children(without_adapters_by_row)
