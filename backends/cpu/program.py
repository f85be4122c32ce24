"""Lowering: from the graph spec to a flat program over planned buffers that the kernels run in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.config.keys import ACTIVATION_NAMES
from ...core.graph.adapted import without_adapters_by_row
from ...core.graph.graph import Graph, nodes_of_type
from ...core.graph.node import Node
from ...core.graph.nodes import Attention, DecoderLayer, Embedding, GatedMLP, Linear, RMSNorm
from ...core.graph.quantized import QuantizedEmbedding, QuantizedLinear
from ...core.graph.rope import Rope
from . import _kernels
from .cache import CacheShape
from .weights import CpuWeights, embedding_rows

ACTIVATIONS = (
    "silu", "gelu", "gelu_new", "quick_gelu", "relu", "relu2", "relu6", "leaky_relu", "sigmoid", "tanh", "mish", "elu",
    "softplus", "linear",
)  # fmt: skip
"""In the order of native/activations.h."""

SYNONYMS = {"swish": "silu", "gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new"}


def activation_number(name: str) -> int | None:
    """The kernels' number of an activation; ``None`` for one they do not have.

    >>> activation_number("swish"), activation_number("of my own")
    (0, None)
    """
    name = SYNONYMS.get(name, name)
    return ACTIVATIONS.index(name) if name in ACTIVATIONS else None


assert all(activation_number(name) is not None for name in ACTIVATION_NAMES)


@dataclass(frozen=True)
class Lowered:
    """A program, and which of its operations are which part of the graph.

    Attributes:
        layers: for each decoder layer the range of its operations; ``None`` where it runs by its own definition.
        whole: the trunk and the final norm in one range; ``None`` where some part of it is not the kernels'.
        head: the head's range; ``None`` where there is none or it runs by its own definition.
        hidden: the buffer that the final norm writes.
        ropes: the ropes in the order in which a pass takes their frequencies.
        table: the embedding whose rows the program looks up; ``None`` where a node that it does not know embeds.
        adapted: which layers have adapters of single rows beside them: there the range is of rows that have none.
    """

    program: _kernels.Program
    layers: tuple[tuple[int, int] | None, ...]
    whole: tuple[int, int] | None
    head: tuple[int, int] | None
    hidden: int
    ropes: tuple[Rope, ...]
    cache: CacheShape
    table: Embedding | None
    adapted: tuple[bool, ...]


def looked_up(graph: Graph) -> Embedding | None:
    """The embedding that the kernels look up: the trunk's own, or that which an adapter lies beside."""
    kinds = (Embedding, QuantizedEmbedding)
    nodes = graph.decoder.embed.walk()
    return next((node for node in nodes if isinstance(node, Embedding) and type(node) in kinds), None)


def lower(graph: Graph, weights: CpuWeights, *, isa: str, threads: int, dtype: str, cache: str) -> Lowered:
    """Build the program of a graph.

    Args:
        dtype: what the model computes in. In bfloat16 the inputs of packed weights are rounded to int8 in groups; in
            float32 and float16 they stay float32.
        cache: what keys and values are held in.
    """
    program = _kernels.Program(isa, threads, dtype == "bfloat16")
    return _Lowering(graph, weights, program, dtype, cache).run()


class _Lowering:
    def __init__(self, graph: Graph, weights: CpuWeights, program: _kernels.Program, dtype: str, cache: str) -> None:
        self.graph, self.weights, self.program, self.dtype, self.element = graph, weights, program, dtype, cache
        self.width = graph.decoder.embed.dim
        self.residual = program.buffer(self.width)
        self.buffers: dict[tuple[str, int], int] = {}
        self.ropes: dict[int, tuple[int, Rope]] = {}
        self.attentions: dict[str, int] = {}
        self.heads: tuple[int, int] | None = None

    def run(self) -> Lowered:
        program, decoder = self.program, self.graph.decoder
        hidden = program.buffer(self.width)
        table = looked_up(self.graph)
        if table is not None:
            self._table(table)
        ranges = []
        start = program.operations
        layers = [without_adapters_by_row(layer) for layer in decoder.layers]
        for layer in layers:
            program.capture(self.residual)
            ranges.append(self._layer(layer))
        whole = None
        if type(decoder.norm) is RMSNorm and all(found is not None for found in ranges):
            program.norm(self.residual, hidden, self._vector(decoder.norm), decoder.norm.eps, self.dtype == "bfloat16")
            program.capture(hidden)
            whole = (start, program.operations)
        head = None
        if type(self.graph.head) in (Linear, QuantizedLinear):
            first = program.head(hidden, self._matrix(self.graph.head))
            head = (first, first + 1)
        heads, head_dim = self.heads or (1, 1)
        order = tuple(node.name for node in nodes_of_type(self.graph, Attention))
        shape = CacheShape(dict(self.attentions), heads, head_dim, self.element, order)
        ropes = tuple(rope for _, rope in self.ropes.values())
        adapted = tuple(plain is not layer for plain, layer in zip(layers, decoder.layers, strict=True))
        return Lowered(program, tuple(ranges), whole, head, hidden, ropes, shape, table, adapted)

    def _table(self, embed: Embedding) -> None:
        rows = embedding_rows(embed, self.weights)
        if isinstance(rows, tuple) and len(rows) > 2:
            self.program.packed_table(*rows)
        else:
            self.program.table(rows)

    def _layer(self, layer: Node) -> tuple[int, int] | None:
        """The operations of a layer, if every node of it is one the kernels have."""
        if not self._known(layer):
            return None
        assert isinstance(layer, DecoderLayer)
        attention: Any = layer.attention
        mlp: Any = layer.mlp
        first = self.program.operations
        self._attention(attention, layer.attention_norm)
        number = activation_number(mlp.activation)
        assert number is not None
        inner = self._buffer("inner", mlp.gate.out_features)
        self.program.gated(
            self.residual,
            *self._norm(layer.mlp_norm),
            self._matrix(mlp.gate),
            self._matrix(mlp.up),
            inner,
            number,
        )
        self.program.linear(inner, None, 0.0, [self._matrix(mlp.down)], [self.residual], True)
        return first, self.program.operations

    def _known(self, layer: Node) -> bool:
        if type(layer) is not DecoderLayer:
            return False
        attention, mlp = layer.attention, layer.mlp
        if type(attention) is not Attention or type(mlp) is not GatedMLP or type(attention.rope) is not Rope:
            return False
        norms = layer.attention_norm, layer.mlp_norm
        linears = attention.q, attention.k, attention.v, attention.o, mlp.gate, mlp.up, mlp.down
        heads = attention.num_kv_heads, attention.head_dim
        if self.heads is not None and self.heads != heads:
            return False  # the cache has one shape for all
        return (
            all(type(norm) is RMSNorm for norm in norms)
            and all(type(linear) in (Linear, QuantizedLinear) for linear in linears)
            and activation_number(mlp.activation) is not None
        )

    def _attention(self, node: Attention, norm: Node) -> None:
        self.heads = node.num_kv_heads, node.head_dim
        queries, keys = node.num_heads * node.head_dim, node.num_kv_heads * node.head_dim
        outputs = [self._buffer("q", queries), self._buffer("k", keys), self._buffer("v", keys)]
        matrices = [self._matrix(linear) for linear in (node.q, node.k, node.v)]
        self.program.linear(self.residual, *self._norm(norm), matrices, outputs, False)
        mixed, place = self._buffer("mixed", queries), len(self.attentions)
        self.attentions[node.name] = place
        q, k, v = outputs
        shape = node.num_heads, node.num_kv_heads, node.head_dim
        self.program.attention(q, k, v, mixed, place, *shape, self._rope(node.rope))
        self.program.linear(mixed, None, 0.0, [self._matrix(node.o)], [self.residual], True)

    def _buffer(self, use: str, width: int) -> int:
        """One buffer for all layers' values of one kind."""
        if (use, width) not in self.buffers:
            self.buffers[use, width] = self.program.buffer(width)
        return self.buffers[use, width]

    def _rope(self, rope: Rope) -> int:
        if id(rope) not in self.ropes:
            self.ropes[id(rope)] = self.program.rope(rope.rotary_dim // 2, rope.attention_factor), rope
        return self.ropes[id(rope)][0]

    def _matrix(self, node: Any) -> _kernels.Matrix:
        """A matrix; a tied head has none of its own, but may have a bias of its own."""
        return self.weights.packed[node.tied_to or node.name].matrix

    def _norm(self, node: Any) -> tuple[np.ndarray, float]:
        return self._vector(node), node.eps

    def _vector(self, node: Any) -> np.ndarray:
        return np.ascontiguousarray(self.weights[f"{node.name}.weight"].astype(np.float32))
