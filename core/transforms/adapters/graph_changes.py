"""Changing every node of a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ...graph.graph import Graph


def map_nodes(graph: Graph, function: Callable[[Any], Any]) -> Graph:
    """The graph with `function` applied to every node, children first; what does not change stays the same object."""

    def mapped(node: Any) -> Any:
        return function(node.map_children(mapped))

    head = None if graph.head is None else mapped(graph.head)
    return dataclasses.replace(graph, decoder=mapped(graph.decoder), head=head)
