"""What a model and the plan of its memory must agree on. Importing this does not load the kernels."""

from __future__ import annotations

from ...core.graph.graph import Graph
from ...core.graph.node import Node
from ...core.graph.nodes import Linear
from ...core.graph.quantized import QuantizedLinear

DTYPES = ("float32", "bfloat16", "float16")

CHUNK = 512
"""Rows that go through the program at a time: enough for the products, and bounded memory for long prompts."""


def nearest_dtype(stored: str) -> str:
    """What weights stored as `stored` are computed in where nothing else is asked for.

    >>> nearest_dtype("float16"), nearest_dtype("float64"), nearest_dtype("float8_e4m3fn")
    ('float16', 'float32', 'bfloat16')
    """
    return stored if stored in DTYPES else "float32" if stored == "float64" else "bfloat16"


def matrices(graph: Graph) -> dict[str, Node]:
    """Modules that are multiplied by, by name; a tied head's is the embedding it shares."""
    found: dict[str, Node] = {}
    for node in graph.walk():
        if type(node) in (Linear, QuantizedLinear):
            found[node.tied_to or node.name] = node  # type: ignore[attr-defined]
    return found
