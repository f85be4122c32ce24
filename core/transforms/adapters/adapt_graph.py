"""Graph to graph: layers that an adapter names get it beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...errors import UnsupportedError
from ...graph.adapted import LoraEmbedding, LoraLinear
from ...graph.graph import Graph
from ...graph.nodes import Embedding, Linear
from ...messages import mention
from .adapter_tensors import Adapter, Pair
from .graph_changes import map_nodes

SUFFIX = "_adapter"
"""What is added to a layer's name for what is beside it: a name of its own, so the layer keeps its place."""


def adapt_graph(graph: Graph, adapter: Adapter) -> Graph:
    """The graph with an adapter beside each layer that it adapts; every tensor of the plain graph keeps its name.

    Args:
        graph: ``adapter.graph``, quantized or not.
    """

    def adapted(node: Any) -> Any:
        pair = adapter.pairs.get(node.path)
        return node if pair is None else beside(node, pair)

    return map_nodes(graph, adapted)


def adapt_by_row(graph: Graph, adapters: Mapping[str, Adapter]) -> Graph:
    """The graph with several adapters beside its layers, of which each row has one or none.

    In a layer they lie one after the other along the rank; one that leaves a layer alone takes no place in it.

    Args:
        graph: the graph of all of `adapters`, quantized or not.
    """

    def adapted(node: Any) -> Any:
        pairs = [adapter.pairs.get(node.path) for adapter in adapters.values()]
        ranks = tuple(0 if pair is None else pair.rank for pair in pairs)
        if not any(ranks):
            return node
        whole = Pair(node.path, sum(ranks), 1.0, "", "")
        return dataclasses.replace(beside(node, whole), ranks=ranks)

    return dataclasses.replace(map_nodes(graph, adapted), adapters=tuple(adapters))


def adapt_as(graph: Graph, other: Graph) -> Graph:
    """The graph with what lies beside the layers of another one, whose layers it has in other sizes.

    Raises:
        UnsupportedError: an adapted layer has another width here, which its adapter would have to have too.
    """
    beside = {node.base.path: node for node in other.walk() if isinstance(node, (LoraEmbedding, LoraLinear))}
    if not beside:
        return graph

    def adapted(node: Any) -> Any:
        lora = beside.get(node.path)
        if lora is None:
            return node
        if _size(node) != _size(lora):
            raise UnsupportedError(
                f"{node.name} has an adapter, which would have to be resized with it",
                hint="load with " + mention("merge_adapter", True) + ", which adds it into the weights",
            )
        return dataclasses.replace(lora, base=node)

    return dataclasses.replace(map_nodes(graph, adapted), adapters=other.adapters)


def _size(node: Any) -> tuple[int, int]:
    if isinstance(node, (Embedding, LoraEmbedding)):
        return node.num_embeddings, node.dim
    return node.in_features, node.out_features


def beside(node: Any, pair: Pair) -> LoraLinear | LoraEmbedding:
    """A layer with the two small ones beside it."""
    name = f"{node.name}{SUFFIX}"
    if isinstance(node, Embedding):
        table = Embedding(f"{name}.lora_A", node.num_embeddings, pair.rank)
        return LoraEmbedding(
            name, node, table, Linear(f"{name}.lora_B", pair.rank, node.dim, role="adapter"), pair.scale
        )
    down = Linear(f"{name}.lora_A", node.in_features, pair.rank, role="adapter")
    up = Linear(f"{name}.lora_B", pair.rank, node.out_features, pair.b_bias is not None, role="adapter")
    return LoraLinear(name, node, down, up, pair.scale, pair.magnitude is not None)
