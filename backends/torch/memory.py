"""What the torch backend takes: its modules' steps on arrays without contents. Importing this does not import torch.

Weights of a checkpoint are the mapped file itself where dtype and device allow, so there loading takes nothing beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.dtypes import itemsize
from ...core.errors import BackendError
from ...core.graph import nodes
from ...core.graph.node import Context
from ...core.graph.quantized import QuantizedLinear
from ...core.graph.rope import Rope
from ...core.memory.estimate import MemoryEstimate, Workload, load_peak, run_ghosts
from ...core.memory.ghost import Ghost, elementwise, new

DTYPES = ("float32", "bfloat16", "float16", "float64")
SMALLEST_BUFFER = 64
TILE = 1 << 19
KERNEL_ROWS = 16
FUSED = ("silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu")


def estimate(workload: Workload) -> MemoryEstimate:
    """See :func:`polyllama.core.memory.estimate.estimate`."""
    dtype = workload.native_dtype()
    if dtype not in DTYPES:
        raise BackendError(f"the torch backend computes in {', '.join(DTYPES)}, not in {dtype!r}")
    held = workload.held_bytes(dtype)
    slots = max(workload.context, SMALLEST_BUFFER)
    overrides = CPU_OVERRIDES if workload.on_cpu else OVERRIDES
    cache, activations = run_ghosts(workload, dtype, overrides, slots=slots, context=GhostContext)
    same = _taken_over(workload, held)
    kernels = _int4_kernels(workload, dtype) if workload.on_cpu else 0
    loading = load_peak(workload, held, lambda name, read: -read if name in same else 0)
    weights = sum(held.values())
    if workload.on_cpu:
        return MemoryEstimate(dtype, weights + kernels, cache, activations, loading)
    host = load_peak(workload, dict.fromkeys(held, 0), lambda name, read: 0)
    return MemoryEstimate(dtype, weights, cache, activations, weights, host)


def _taken_over(workload: Workload, held: Mapping[str, int]) -> frozenset[str]:
    """Tensors whose memory is used as it is handed over: on a CPU, those that need no other dtype."""
    if not workload.on_cpu:
        return frozenset()
    return frozenset(name for name, size in held.items() if workload.stored.get(name, size) == size)


def _int4_kernels(workload: Workload, dtype: str) -> int:
    """The second copy of 4-bit matrices, in the order of torch's kernel, from the first generated token on."""
    if dtype != "bfloat16" or workload.batch > KERNEL_ROWS:
        return 0
    total = 0
    for node in workload.graph.walk():
        if isinstance(node, QuantizedLinear) and node.bits == 4 and node.out_features % 64 == 0:
            groups = node.in_features // node.group_size
            # Packed values, scales and zeros in bfloat16, what zeros lost in float32.
            total += node.out_features * (node.in_features // 2 + groups * 4 + groups * 4)
    return total


class GhostContext(Context):
    """Runs nodes as torch's modules do."""

    def widen(self, x: Ghost) -> Ghost:
        return x if x.dtype in ("float32", "float64") else elementwise(x, dtype="float32")

    def activate(self, name: str, x: Ghost) -> Ghost:
        return elementwise(x) if name in FUSED else super().activate(name, x)

    def rotation(self, rope: Rope) -> tuple[Ghost, Ghost]:
        """Cosines and sines, twice as wide."""
        known = self._tables.get(-id(rope))
        if known is None:
            cos, sin = self.rotary(rope)
            known = self._tables[-id(rope)] = (self.xp.concat([cos, cos], axis=-1), self.xp.concat([sin, sin], axis=-1))
        return known


def rotate(x: Ghost, cos: Ghost, sin: Ghost) -> Ghost:
    """RoPE on ``[B, H, S, D]``."""
    rotary = cos.shape[-1]
    turned = x if rotary == x.shape[-1] else x[..., :rotary]
    swapped = elementwise(turned)
    y = elementwise(turned, cos)
    del swapped
    y = y if y.dtype == x.dtype else elementwise(y, dtype=x.dtype)
    return y if rotary == x.shape[-1] else elementwise(x)


def rms_norm(node: Any, x: Ghost, ctx: Context) -> Ghost:
    """As ``modules.RMSNorm``: the scaled values are written into in the end."""
    wide = ctx.widen(x)
    root = ctx.xp.mean(elementwise(wide), axis=-1, keepdims=True)
    scaled = elementwise(wide, root)
    return scaled if scaled.dtype == x.dtype else elementwise(scaled, dtype=x.dtype)


def linear(node: Any, x: Ghost, ctx: Context) -> Ghost:
    """One new array; an input that is not in one piece is copied first."""
    flat = x.reshaped((-1, node.in_features))
    y = new(x.memory, (flat.shape[0], node.out_features), x.dtype, (flat,))
    return y.reshaped((*x.shape[:-1], node.out_features))


def attention(node: Any, x: Ghost, ctx: Any) -> Ghost:
    """As ``modules.Attention``: fused, so scores exist for a block at a time only."""
    batch, length, _ = x.shape
    q = ctx.run(node.q, x).reshaped((batch, length, node.num_heads, node.head_dim)).permuted((0, 2, 1, 3))
    k = ctx.run(node.k, x).reshaped((batch, length, node.num_kv_heads, node.head_dim)).permuted((0, 2, 1, 3))
    v = ctx.run(node.v, x).reshaped((batch, length, node.num_kv_heads, node.head_dim)).permuted((0, 2, 1, 3))
    rotation = ctx.rotation(node.rope)
    q, k = rotate(q, *rotation), rotate(k, *rotation)
    if ctx.cache is not None:
        k, v = ctx.cache.update(node.name, k, v)
    y = attend(q, k, v, ctx)
    merged = y.permuted((0, 2, 1, 3)).reshaped((batch, length, node.num_heads * node.head_dim))
    projected: Ghost = ctx.run(node.o, merged)
    return projected


def attend(q: Ghost, k: Ghost, v: Ghost, ctx: Any) -> Ghost:
    """torch's fused attention; the output is laid out as the queries."""
    xp, length, keys = ctx.xp, q.shape[2], k.shape[2]
    if length > 1 and keys != length and ctx.mask is None:
        ctx.mask = xp.empty((1, 1, length, keys), dtype="bool")
    if length == 1 and q.dtype in ("bfloat16", "float16") and ctx.overrides is CPU_OVERRIDES:
        q32, k32, v32 = (elementwise(part, dtype="float32") for part in (q, k, v))
        return elementwise(attend(q32, k32, v32, ctx), dtype=q.dtype)
    wide_mask = elementwise(ctx.mask, dtype=q.dtype) if ctx.mask is not None else None
    y = elementwise(q)
    del wide_mask
    return y


def gated_mlp(node: Any, x: Ghost, ctx: Context) -> Ghost:
    """As ``modules.GatedMLP``: the product is written into the activated gate."""
    inner = ctx.activate(node.activation, ctx.run(node.gate, x))
    other = ctx.run(node.up, x)
    product = inner if node.activation in FUSED else inner * other
    y: Ghost = ctx.run(node.down, product)
    return y


def quantized_linear(node: Any, x: Ghost, ctx: Context) -> Ghost:
    """As ``quantized.product``: a tile is unpacked at a time on a CPU, the whole matrix elsewhere."""
    rows, columns = node.out_features, node.in_features
    flat = x.reshaped((-1, columns))
    on_cpu = ctx.overrides is CPU_OVERRIDES
    step = min(max(1, TILE // columns), rows) if on_cpu else rows
    planes = 8 // node.bits if node.bits in (2, 4, 8) else 1
    apart = elementwise(flat) if planes > 1 else None
    wide = 8 if x.dtype == "float64" else 4
    parts: list[Ghost] = []
    for start in range(0, min(rows, 2 * step), step):
        count = min(step, rows - start)
        # The integers of all planes, one plane's weights as they are made, and those of the plane or tile before.
        integers = count * columns * (1 if planes > 1 else 0 if node.bits == 8 else 8)
        own = itemsize(x.dtype)
        making = wide + (own if own < wide else 0) + (own if start or planes > 1 else 0)
        with x.memory.workspace(integers + count * columns // planes * making):
            z = [new(x.memory, (flat.shape[0], count), x.dtype, (flat,)) for _ in range(3 if planes > 1 else 1)]
            parts.append(z[0])
            del z
    if rows > 2 * step:  # one tile is like another
        parts.append(new(x.memory, (flat.shape[0], rows - 2 * step), x.dtype, (flat,)))
    del apart
    y = parts[0] if len(parts) == 1 else ctx.xp.concat(parts, axis=-1)
    y = y.reshaped((*x.shape[:-1], node.out_features))
    return elementwise(y) if node.bias else y


OVERRIDES: Mapping[type, Any] = {
    nodes.Attention: attention,
    nodes.GatedMLP: gated_mlp,
    nodes.Linear: linear,
    nodes.RMSNorm: rms_norm,
    QuantizedLinear: quantized_linear,
}
CPU_OVERRIDES: Mapping[type, Any] = dict(OVERRIDES)
