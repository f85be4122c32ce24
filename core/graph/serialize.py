"""Nodes as plain data and back."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import ConfigError, PluginError
from ..messages import did_you_mean
from ..public import for_plugins
from .node import Node


def share_equal_nodes(node: Any, known: dict[Any, Any]) -> Any:
    """Make equal nodes without a checkpoint path (the ropes) one object again: passes keep tables per object."""
    node = node.map_children(lambda child: share_equal_nodes(child, known))
    return node if any(f.name == "name" for f in dataclasses.fields(node)) else known.setdefault(node, node)


@for_plugins
def node_type(kind: str) -> type[Node]:
    """The node type that serialized graphs call `kind`; whichever plugin offers it is imported for it.

    Raises:
        ConfigError: nobody offers it; says which kinds there are.
        PluginError: two plugins claim it, or the one that offers it cannot be imported.

    >>> node_type("QuantizedLinear")
    <class 'polyllama.extend.QuantizedLinear'>
    """
    known = Node.kinds.get(kind)
    if known is not None:
        return known
    from ..plugin_system.manager import plugin_manager

    offered = plugin_manager().nodes()
    if kind in offered:
        descriptor = offered[kind]
        found = descriptor.load()
        if not (isinstance(found, type) and issubclass(found, Node) and found.__name__ == kind):
            raise PluginError(
                f"node {kind!r} of plugin {descriptor.plugin!r}: {descriptor.target} is no node type of that name",
                hint="its target is a subclass of polyllama.extend.Node",
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
