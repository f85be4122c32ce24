"""Graph to graph: linear layers that an adapter names get it beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...errors import UnsupportedError
from ...graph.adapted import LoraLinear
from ...graph.graph import Graph
from ...graph.nodes import Linear
from ...messages import mention
from .adapter_tensors import Adapter, Pair

if TYPE_CHECKING:
    from ...config.schema import LlamaConfig

SUFFIX = "_adapter"
"""What is added to a layer's name for what is beside it: a name of its own, so the layer keeps its place."""


def adapt_graph(graph: Graph, adapter: Adapter) -> Graph:
    """The graph with an adapter beside each layer that it adapts; every tensor of the plain graph keeps its name."""

    def adapted(node: Any) -> Any:
        pair = adapter.pairs.get(node.path)
        return node if pair is None else beside(node, pair)

    return map_nodes(untied(graph, adapter), adapted)


def adapt_as(graph: Graph, other: Graph) -> Graph:
    """The graph with what lies beside the layers of another one, whose layers it has in other sizes.

    Raises:
        UnsupportedError: an adapted layer has another width here, which its adapter would have to have too.
    """
    beside = {node.base.path: node for node in other.walk() if isinstance(node, LoraLinear)}
    if not beside:
        return graph

    def adapted(node: Any) -> Any:
        lora = beside.get(node.path)
        if lora is None:
            return node
        if (node.in_features, node.out_features) != (lora.in_features, lora.out_features):
            raise UnsupportedError(
                f"{node.name} has an adapter, which would have to be resized with it",
                hint="load with " + mention("merge_adapter", True) + ", which adds it into the weights",
            )
        return dataclasses.replace(lora, base=node)

    return map_nodes(graph, adapted)


def untied(graph: Graph, adapter: Adapter) -> Graph:
    """The graph with a head of its own, where the adapter brings one."""
    if not adapter.untied or graph.head is None:
        return graph
    head: Any = graph.head
    own = Linear(head.name, head.in_features, head.out_features, head.bias, head.partition, None, head.role)
    return dataclasses.replace(graph, head=own)


def untied_config(config: LlamaConfig, adapter: Adapter) -> LlamaConfig:
    """The config that goes with :func:`untied`."""
    return config.replace(tie_word_embeddings=False) if adapter.untied else config


def beside(node: Any, pair: Pair) -> LoraLinear:
    """A layer with the two small ones beside it."""
    name = f"{node.name}{SUFFIX}"
    down = Linear(f"{name}.lora_A", node.in_features, pair.rank, role="adapter")
    up = Linear(f"{name}.lora_B", pair.rank, node.out_features, pair.b_bias is not None, role="adapter")
    return LoraLinear(name, node, down, up, pair.scale, pair.magnitude is not None)


def map_nodes(graph: Graph, function: Callable[[Any], Any]) -> Graph:
    """The graph with `function` applied to every node, children first; what does not change stays the same object."""

    def mapped(node: Any) -> Any:
        return function(node.map_children(mapped))

    head = None if graph.head is None else mapped(graph.head)
    return dataclasses.replace(graph, decoder=mapped(graph.decoder), head=head)
