"""A tree of ``mlx.nn`` modules: what is at a path, and how a module is put there."""

from __future__ import annotations

from typing import Any

from mlx.nn.layers.base import Module

from ...core.errors import BackendError
from ...core.graph.node import Node


class TypedModule(Module):
    """``mlx.nn.Module``, whose constructor has no annotations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]


def find(container: Any, path: str) -> Any:
    """What lies at a dotted `path` below a module: a module, a list of them or an array."""
    if path:
        for part in path.split("."):
            container = container[int(part) if isinstance(container, list) else part]
    return container


def put(container: Any, path: str, value: Any) -> None:
    """Hang a module or an array below `container`, with a list wherever the next part is a number."""
    *parents, last = path.split(".")
    for position, part in enumerate(parents):
        following = [*parents, last][position + 1]
        if isinstance(container, list):
            container = container[int(part)]
            continue
        if part not in container:
            container[part] = [] if following.isdigit() else TypedModule()
        container = container[part]
    if not isinstance(container, list):
        container[last] = value
    elif int(last) == len(container):
        container.append(value)
    else:
        raise BackendError(f"graph: {path} is out of order", hint="layers must be listed by number")


def relative(parent: Node, child: Node) -> str:
    """The path of `child` below `parent`."""
    base, name = parent.name, child.name  # type: ignore[attr-defined]
    return str(name.removeprefix(f"{base}.")) if base else str(name)
