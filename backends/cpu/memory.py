"""What the cpu backend takes: matrices in panels, one block of cache, and the buffers of the program for some rows.

Weights are packed one at a time, and what a matrix was packed from is given back to the system, so the checkpoint's own
pages do not stay beside the panels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...core.config.keys import ACTIVATION_NAMES
from ...core.dtypes import itemsize
from ...core.errors import BackendError
from ...core.graph.graph import Graph
from ...core.graph.nodes import Attention, Embedding, GatedMLP, Linear
from ...core.graph.quantized import QuantizedEmbedding, QuantizedLinear
from ...core.memory.estimate import MemoryEstimate, Workload, load_peak
from .sizes import CHUNK, DTYPES, matrices, nearest_dtype
from .topology import physical_cores

LINE, PANEL, STEP, TILE_ROWS = 64, 16, 64, 16
THREAD = 4 * (2 * PANEL * 128 + 2 * 128 * 2 * PANEL + 2 * TILE_ROWS * 64)
"""Bytes of scratch of a thread, beside tiles of queries: ``kMatmulScratch`` and its like in native/formats.h."""


def estimate(workload: Workload) -> MemoryEstimate:
    """See :func:`polyllama.core.memory.estimate.estimate`."""
    dtype = _own_dtype(workload)
    by_name = matrices(workload.graph)
    held = _held(workload, by_name, dtype)
    kernels = {p.name: _unpacked(workload, by_name, p.name, dtype) for p in workload.parameters}

    def extra(name: str, read: int) -> int:
        # Panels are made from the tensor as it was read; what needs no panels is taken over as it is.
        return kernels[name] if _module(name) in by_name else -min(read, held[name])

    cache = sum(_cache_bytes(node, workload, dtype) for node in workload.graph.walk() if isinstance(node, Attention))
    chunk = min(workload.chunk or workload.prompt, workload.prompt)
    activations = max(_pass(workload, dtype, chunk), _pass(workload, dtype, 1))
    return MemoryEstimate(dtype, sum(held.values()), cache, activations, load_peak(workload, held, extra))


def _own_dtype(workload: Workload) -> str:
    """The rule of ``model.own_dtype``, with what is stored known by its name alone."""
    if workload.dtype != "auto":
        if workload.dtype not in DTYPES:
            raise BackendError(f"the cpu backend computes in {', '.join(DTYPES)}, not in {workload.dtype!r}")
        return workload.dtype
    if any(p.bits for p in workload.parameters):
        return "bfloat16"
    own = workload.config.dtype or workload.stored_dtype
    return nearest_dtype(own)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _held(workload: Workload, matrices: Mapping[str, Any], dtype: str) -> dict[str, int]:
    """Name -> bytes in the backend; a packed matrix's are all counted with its weight."""
    graph = workload.graph
    embed = next((node for node in graph.decoder.embed.walk() if isinstance(node, Embedding)), graph.decoder.embed)
    held = {}
    for parameter in workload.parameters:
        module, _, kind = parameter.name.rpartition(".")
        stored = workload.stored.get(parameter.name, math.prod(parameter.shape) * 4)
        if module in matrices and kind == "bias":
            held[parameter.name] = stored + 4 * -(-parameter.shape[0] // PANEL) * PANEL
        elif module in matrices:
            held[parameter.name] = _panels(matrices[module], dtype, workload) if kind == "weight" else 0
        elif module == embed.name and not isinstance(embed, QuantizedEmbedding):
            held[parameter.name] = math.prod(parameter.shape) * itemsize(dtype)
        elif parameter.bits is not None or (isinstance(embed, QuantizedEmbedding) and module == embed.name):
            held[parameter.name] = math.prod(parameter.shape) * itemsize(parameter.held_as(workload.stored_dtype))
        else:  # a norm, once as it is stored and once in float32
            held[parameter.name] = stored + math.prod(parameter.shape) * 4
    return held


def _panels(node: Any, dtype: str, workload: Workload) -> int:
    """Bytes of a matrix in panels of 16 rows: ``panel_bytes`` in native/formats.h."""
    panels: int = -(-node.out_features // PANEL)
    if isinstance(node, QuantizedLinear):
        return panels * (node.in_features // node.group_size) * _group_bytes(node, dtype, workload) + LINE
    columns: int = node.in_features + (node.in_features % 2 if dtype != "float32" else 0)
    return panels * columns * PANEL * itemsize(dtype) + LINE


def _group_bytes(node: Any, dtype: str, workload: Workload) -> int:
    values: int = node.group_size * PANEL // (2 if node.bits <= 4 else 1)
    half = dtype != "float32" or workload.stored_dtype in ("bfloat16", "float16")
    return values + 2 * PANEL * (2 if half else 4)


def _unpacked(workload: Workload, matrices: Mapping[str, Any], name: str, dtype: str) -> int:
    """What a matrix takes while it is packed, beside itself in panels and as it is read."""
    module, _, kind = name.rpartition(".")
    node = matrices.get(module)
    if node is None or kind != "weight":
        return 0
    if isinstance(node, QuantizedLinear):
        groups = node.out_features * node.in_features // node.group_size
        return 2 * groups * (2 + 4 * 4)  # scales and biases, and their sizes while it is looked what holds them
    count = node.out_features * node.in_features
    asked = itemsize(dtype) * count
    return asked if workload.stored.get(name, asked) != asked else 0


def _cache_bytes(node: Attention, workload: Workload, dtype: str) -> int:
    """Keys and values of one attention: ``CpuCache._allocate``."""
    element = dtype if workload.kv_cache == "auto" else workload.kv_cache
    slots = -(-workload.context // STEP) * STEP
    keys = node.head_dim + (node.head_dim % 2 if element == "bfloat16" else 0)
    values = -(-node.head_dim // PANEL) * PANEL
    each = (keys + values) * itemsize(element) + (8 if element == "int8" else 0)
    return workload.batch * node.num_kv_heads * slots * each


def _pass(workload: Workload, dtype: str, count: int) -> int:
    """The buffers of the program for a chunk of rows, and the arrays of a whole pass of `count` tokens a row."""
    graph, batch = workload.graph, workload.batch
    width = graph.decoder.embed.dim
    rows = batch * min(max(1, CHUNK // batch), count)
    widths = _buffers(graph)
    program = sum(rows * _stride(w) * 4 for w in widths) + _forms(rows, max(widths), graph, dtype)
    heads = {n.head_dim for n in graph.walk() if isinstance(n, Attention)}
    program += sum(rows * head * 4 for head in heads)  # cosines and sines
    program += physical_cores() * (
        THREAD + 12 * TILE_ROWS * max(heads, default=0) + _forms(2, max(widths), graph, dtype)
    )
    arrays = 2 * batch * count * width * 4 + (2 if count * batch > rows else 1) * rows * width * 4
    kept = 1 if workload.task.generates else count
    logits = 0
    if graph.head is not None:
        head: Any = graph.head
        out = -(-int(getattr(head, "out_features", 0)) // PANEL) * PANEL
        logits = batch * kept * out * 4
    return program + arrays + logits


def _buffers(graph: Graph) -> list[int]:
    """Widths of the program's buffers: two of the trunk's width, and one for each use and width in the layers."""
    uses: dict[tuple[str, int], None] = {}
    for node in graph.walk():
        if isinstance(node, Attention):
            queries, keys = node.num_heads * node.head_dim, node.num_kv_heads * node.head_dim
            uses |= dict.fromkeys((("q", queries), ("k", keys), ("v", keys), ("mixed", queries)))
        if isinstance(node, GatedMLP) and node.activation in ACTIVATION_NAMES:
            gate: Any = node.gate
            uses["inner", int(gate.out_features)] = None
    return [graph.decoder.embed.dim] * 2 + [width for _, width in uses]


def _stride(width: int) -> int:
    return -(-width // PANEL) * PANEL + PANEL


def _forms(rows: int, widest: int, graph: Graph, dtype: str) -> int:
    """A product's inputs, in float32 and in the forms its matrices take: ``Forms::reserve``."""
    total = rows * _stride(widest) * 4
    groups = {node.group_size for node in graph.walk() if isinstance(node, QuantizedLinear)}
    if dtype == "bfloat16":
        plain = any(type(node) is Linear for node in graph.walk())
        total += rows * 2 * (-(-widest // 32) * 32 + 32) if plain else 0
        total += sum(rows * (-(-widest // 64) * 64 + 64 + 8 * (widest // group + 1)) for group in groups)
    return total
