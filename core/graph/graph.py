"""The graph of a model: a trunk and a head of frozen nodes that also say what they compute.

Every node is named by its checkpoint path, so the spec is the weight map: :meth:`Graph.parameters` lists every tensor a
checkpoint must hold. Every node carries its own definition in array-API terms, ``apply(xp, weights, x, ctx)``, so the
spec runs by itself on any array namespace; a backend overrides the nodes it can do faster and is held to this one.

Shapes: B batch, S new tokens, K keys (cached and new), H heads, G key/value heads, D head_dim, E hidden_size.

Source: Touvron et al. 2023, "LLaMA" (arXiv:2302.13971); Ainslie et al. 2023 for grouped queries (arXiv:2305.13245).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..public import for_plugins
from .node import Node, Parameter
from .nodes import Decoder
from .serialize import node_from_dict, share_equal_nodes
from .tree import draw_subtree


@for_plugins
@dataclass(frozen=True)
class Graph:
    """A decoder and the head that a task attached (``None`` for the bare trunk).

    Attributes:
        adapters: names of the LoRA adapters of which each row of a batch may have another one, in the order of the
            ``ranks`` of the nodes that they lie in.

    >>> from polyllama import LlamaConfig
    >>> from polyllama.core.graph.from_config import build_graph
    >>> graph = build_graph(LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
    ...                                 num_attention_heads=2))
    >>> Graph.from_json(graph.to_json()) == graph
    True
    """

    decoder: Decoder
    head: Node | None = None
    task: str = "base"
    adapters: tuple[str, ...] = ()

    def walk(self) -> Iterator[Node]:
        """Every node, parents first."""
        yield from self.decoder.walk()
        if self.head is not None:
            yield from self.head.walk()

    def parameters(self) -> tuple[Parameter, ...]:
        """Name, shape and role of every tensor, each once, in checkpoint order."""
        return tuple(p for node in self.walk() for p in node.own_parameters())

    def num_parameters(self) -> int:
        """Number of weights; tied ones count once, and quantized ones as what they stand for."""
        return sum(p.size for p in self.parameters() if p.purpose != "quantization")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with a version so that an old file is recognized."""
        head = None if self.head is None else self.head.to_dict()
        adapters = {"adapters": list(self.adapters)} if self.adapters else {}
        return {"version": 1, "task": self.task, "decoder": self.decoder.to_dict(), "head": head, **adapters}

    def to_json(self, indent: int | None = None) -> str:
        """The graph as JSON text; :meth:`from_json` gives an equal graph back."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_json(cls, text: str) -> Graph:
        """Read what :meth:`to_json` wrote.

        Raises:
            ConfigError: not JSON, another version, or nodes that do not fit.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"graph: not JSON ({error})") from None
        if not isinstance(data, dict) or data.get("version") != 1:
            found = data.get("version") if isinstance(data, dict) else type(data).__name__
            raise ConfigError(f"graph: version {found!r} is not known here", hint="this release reads version 1")
        decoder = node_from_dict(data.get("decoder"))
        if not isinstance(decoder, Decoder):
            raise ConfigError("graph: 'decoder' must be a Decoder node")
        head = None if data.get("head") is None else node_from_dict(data["head"])
        adapters = tuple(map(str, data.get("adapters", ())))
        return cls(share_equal_nodes(decoder, {}), head, str(data.get("task", "base")), adapters)

    def tree(self) -> str:
        """The graph as an indented tree; layers that are alike are drawn once."""
        lines = [f"Graph(task={self.task}, parameters={self.num_parameters():,})"]
        parts: list[tuple[str, Node]] = [("decoder", self.decoder)]
        if self.head is not None:
            parts.append(("head", self.head))
        for position, (field, node) in enumerate(parts):
            draw_subtree(node, field, "", position == len(parts) - 1, lines)
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.tree()


@for_plugins
def nodes_of_type(graph: Graph, kind: type[Node]) -> list[Any]:
    """Every node of `kind` in `graph`, in order."""
    return [node for node in graph.walk() if isinstance(node, kind)]
