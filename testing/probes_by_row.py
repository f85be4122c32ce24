"""The tiny model with two adapters among which each row chooses, and with each of them alone."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.graph.adapted import LoraEmbedding, LoraLinear
from ..core.graph.nodes import Embedding, Linear
from ..core.transforms.adapters.graph_changes import map_nodes
from .probes import Probe, make, values_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.graph.graph import Graph

NAMES = ("first", "second")

RANKS: Mapping[str, tuple[int, int]] = {
    "model.embed_tokens": (2, 3),
    "model.layers.0.self_attn.q_proj": (4, 0),
    "model.layers.0.mlp.gate_proj": (0, 5),
    "model.layers.1.self_attn.v_proj": (3, 2),
    "model.layers.1.mlp.down_proj": (1, 4),
    "lm_head": (2, 2),
}
"""Ranks of the two in each layer: neither has all layers, and they share some."""


@functools.cache
def by_row() -> Probe:
    """The probe whose rows choose."""
    plain = make("by_row")
    graph = dataclasses.replace(_adapted(plain.graph, RANKS, by_row=True), adapters=NAMES)
    rng = np.random.default_rng(zlib.crc32(b"by_row"))
    weights = dict(plain.weights)
    for parameter in graph.parameters():
        if parameter.name not in weights:
            weights[parameter.name] = values_of(parameter, rng)
    return Probe("by_row", plain.config, graph, plain.task, weights)


@functools.cache
def alone(name: str | None) -> Probe:
    """The probe with one of the two beside it, as one that all rows have; ``None`` for neither."""
    whole, plain = by_row(), make("by_row")
    if name is None:
        return plain
    place = NAMES.index(name)
    ranks = {path: (found[place],) for path, found in RANKS.items() if found[place]}
    graph, weights = _adapted(plain.graph, ranks, by_row=False), dict(plain.weights)
    for path in ranks:
        own = slice(sum(RANKS[path][:place]), sum(RANKS[path][: place + 1]))
        first, second = f"{path}_adapter.lora_A.weight", f"{path}_adapter.lora_B.weight"
        table = path == "model.embed_tokens"  # a row for each token
        weights[first] = whole.weights[first][:, own] if table else whole.weights[first][own]
        weights[second] = whole.weights[second][:, own]
    return Probe(f"by_row.{name}", plain.config, graph, plain.task, weights)


def _adapted(graph: Graph, ranks: Mapping[str, tuple[int, ...]], *, by_row: bool) -> Graph:
    def beside(node: Any) -> Any:
        found = ranks.get(node.path)
        if found is None:
            return node
        path, rank, ranks_here = f"{node.path}_adapter", sum(found), found if by_row else ()
        if isinstance(node, Embedding):
            table = Embedding(f"{path}.lora_A", node.num_embeddings, rank)
            up = Linear(f"{path}.lora_B", rank, node.dim, role="adapter")
            return LoraEmbedding(path, node, table, up, 1.0, ranks=ranks_here)
        down = Linear(f"{path}.lora_A", node.in_features, rank, role="adapter")
        up = Linear(f"{path}.lora_B", rank, node.out_features, role="adapter")
        return LoraLinear(path, node, down, up, 1.0, ranks=ranks_here)

    return map_nodes(graph, beside)
