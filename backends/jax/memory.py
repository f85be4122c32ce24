"""What the JAX backend takes: what XLA keeps beside parameters and caches. Importing this does not import JAX.

A compiled pass has one block of memory, planned by XLA, which fuses elementwise operations away. What is left in it was
read from XLA's own plans (``--xla_dump_to``): attention's scores, the MLP's inner arrays, and, on a CPU, every matrix
that is packed or in half precision once more in float32, all of them at once.
"""

from __future__ import annotations

import math
from typing import Any

from ...core.dtypes import itemsize
from ...core.errors import BackendError
from ...core.graph.nodes import Attention, GatedMLP, Linear
from ...core.graph.quantized import QuantizedLinear
from ...core.memory.estimate import MemoryEstimate, Workload, load_peak
from .lengths import SMALLEST_CACHE, SMALLEST_PREFILL, padded_length

DTYPES = ("float32", "bfloat16", "float16")
FEW_ROWS = 4
SCORES = 3
"""Copies of attention's scores: two in XLA's plan, and one that its fused kernels make for themselves."""

HOISTED = 1 << 25
"""From so many bytes on XLA makes the constants of the activation as whole arrays, two of them."""


def estimate(workload: Workload) -> MemoryEstimate:
    """See :func:`polyllama.core.memory.estimate.estimate`."""
    dtype = workload.native_dtype()
    if dtype not in DTYPES:
        raise BackendError(f"the jax backend computes in {', '.join(DTYPES)}, not in {dtype!r}")
    held = workload.held_bytes(dtype)
    slots = padded_length(max(workload.context, SMALLEST_CACHE), SMALLEST_CACHE)
    attentions = [n for n in workload.graph.walk() if isinstance(n, Attention)]
    cache = sum(2 * workload.batch * n.num_kv_heads * slots * n.head_dim * itemsize(dtype) for n in attentions)
    chunk = min(workload.chunk or workload.prompt, workload.prompt)
    length = padded_length(chunk, SMALLEST_PREFILL)
    return MemoryEstimate(
        dtype,
        sum(held.values()),
        cache,
        max(_pass(workload, dtype, count, slots) for count in (length, 1)),
        load_peak(workload, held, lambda name, read: 0),
    )


def _pass(workload: Workload, dtype: str, length: int, slots: int) -> int:
    """The block that a pass over so many tokens is compiled with."""
    graph, rows = workload.graph, workload.batch * length
    hidden = rows * graph.decoder.embed.dim * itemsize(dtype)
    most = 0
    for node in graph.walk():
        if isinstance(node, Attention):
            keys = workload.batch * node.num_kv_heads * length * node.head_dim * 4
            scores = workload.batch * node.num_heads * length * slots * 4
            most = max(most, SCORES * scores + 2 * hidden + keys)
        elif isinstance(node, GatedMLP):
            inner = rows * _width(node.gate) * 4
            most = max(most, 3 * inner + 2 * hidden)
    hoisted = max((rows * _width(n.gate) * 4 for n in graph.walk() if isinstance(n, GatedMLP)), default=0)
    most += 2 * hoisted if hoisted >= HOISTED else 0
    kept = 1 if workload.task.generates else length
    logits = workload.batch * kept * (_width(graph.head) if graph.head is not None else 0) * 4
    return max(most, logits) + logits + (_in_float32(workload, dtype, length, kept) if workload.on_cpu else 0)


def _width(node: Any) -> int:
    return int(getattr(node, "out_features", 0))


def _in_float32(workload: Workload, dtype: str, length: int, kept: int) -> int:
    """Matrices that XLA's CPU compiler writes out in float32 to multiply by."""
    total = 0
    in_head = set() if workload.graph.head is None else {id(n) for n in workload.graph.head.walk()}
    node: Any
    for node in workload.graph.walk():
        rows = workload.batch * (kept if id(node) in in_head else length)
        if isinstance(node, QuantizedLinear):
            plane_by_plane = rows <= FEW_ROWS and 32 % node.bits == 0
            total += 0 if plane_by_plane else math.prod((node.in_features, node.out_features)) * 4
        elif isinstance(node, Linear) and dtype != "float32":
            total += math.prod((node.in_features, node.out_features)) * 4 if rows > FEW_ROWS else 0
    return total
