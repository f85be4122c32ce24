"""A graph drawn as a tree for people."""

from __future__ import annotations

import dataclasses
from typing import Any

from .node import Node


def draw_subtree(node: Node, field: str, indent: str, last: bool, lines: list[str]) -> None:
    name = node.path
    lines.append(f"{indent}{'└─ ' if last else '├─ '}{field}: {node.label()}" + (f"  {name}" if name else ""))
    rows = _fold(list(node.children()))
    below = indent + ("   " if last else "│  ")
    for position, (child_field, child) in enumerate(rows):
        draw_subtree(child, child_field, below, position == len(rows) - 1, lines)


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
