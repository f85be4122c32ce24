"""What the MLX backend takes: its modules' steps recorded on arrays without contents. Nothing here imports mlx.

MLX records operations and computes them later. On a CPU it hands out the memory of an operation when it is queued, some
way ahead of what is being computed, so that arrays of neighbouring layers are there at once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from ...core.errors import BackendError
from ...core.graph import nodes
from ...core.graph.node import Context
from ...core.graph.quantized import QuantizedLinear
from ...core.graph.rope import Rope
from ...core.memory.estimate import MemoryEstimate, Workload, folded, load_peak, run_ghosts
from ...core.memory.ghost import Ghost, elementwise, matmul, new
from ...core.memory.ghost_tape import TapeMemory

AHEAD = 112
"""How far MLX's CPU queue runs ahead: ten tasks of ten dispatches, and those on their way."""

COST = (2, 1)
"""Dispatches of an operation that computes, and of one that only views."""

DTYPES = ("float32", "bfloat16", "float16")
WIDENED = range(2**16, 2**24)
"""Sizes of the half-precision matrices that are widened; the rule of ``products.WIDENED``."""

FEW_ROWS = 8

BLOCK = 32
"""Queries that are run together on a plain CPU; the rule of ``attention.BLOCK``."""

BLOCKS = 12
"""Blocks that are run here: more than MLX hands out memory ahead for."""


def estimate(workload: Workload) -> MemoryEstimate:
    """See :func:`polyllama.core.memory.estimate.estimate`."""
    dtype = workload.native_dtype()
    if dtype == "float64" and workload.dtype == "auto":
        dtype = "float32"
    if dtype not in DTYPES:
        raise BackendError(f"the mlx backend computes in {', '.join(DTYPES)}, not in {dtype!r}")
    plain = workload.device in (None, "cpu") and sys.platform != "darwin"
    held = workload.held_bytes(dtype)
    cache, activations = run_ghosts(
        workload,
        dtype,
        _overrides(plain, folded(workload.graph)[0].decoder.layers[-1].path),
        slots=workload.context,
        memory=partial(TapeMemory, AHEAD if workload.on_cpu else 0, COST),
        context=GhostContext,
    )
    matrices = {n.weight_name for n in workload.graph.walk() if isinstance(n, nodes.Linear)} if plain else set()

    def extra(name: str, read: int) -> int:
        # By columns takes one more copy: an array that was made is gone by then, but a mapped file's pages are not.
        size = held[name]
        return 0 if name not in matrices else size if workload.mapped else max(0, size - read)

    return MemoryEstimate(dtype, sum(held.values()), cache, activations, load_peak(workload, held, extra))


class GhostContext(Context):
    """Runs nodes as MLX's modules do."""

    def widen(self, x: Ghost) -> Ghost:
        return x if x.dtype == "float32" else elementwise(x, dtype="float32")

    def activate(self, name: str, x: Ghost) -> Ghost:
        return x * elementwise(x) if name in ("silu", "swish") else super().activate(name, x)

    def rotation(self, rope: Rope) -> tuple[Ghost, Ghost]:
        """Cosines and sines, twice as wide."""
        known = self._tables.get(-id(rope))
        if known is None:
            cos, sin = self.rotary(rope)
            known = self.xp.concat([cos, cos], axis=-1), self.xp.concat([-sin, sin], axis=-1)
            self._tables[-id(rope)] = known
        return known


def views(x: Ghost, count: int) -> None:
    """Note so many views of an array."""
    for _ in range(count):
        x.memory.viewed(x.storage)


def cast(x: Ghost, dtype: str) -> Ghost:
    """`x` in another dtype; as it is where it has that already."""
    return x if x.dtype == dtype else new(x.memory, x.shape, dtype, (x,))


def rotate(x: Ghost, cos: Ghost, sin: Ghost) -> Ghost:
    """RoPE on ``[B, H, S, D]``, row-major from here on."""
    rotary = cos.shape[-1]
    views(x, 2)
    swapped = new(x.memory, (*x.shape[:-1], rotary), x.dtype, (x,))
    views(cos, 1)
    views(sin, 1)
    y = elementwise(elementwise(x, cos), elementwise(swapped, sin))
    y = cast(y, x.dtype)
    return y if rotary == x.shape[-1] else new(x.memory, x.shape, x.dtype, (x, y))


def rms_norm(node: Any, x: Ghost, ctx: Context) -> Ghost:
    """As the fallback of ``mx.fast.rms_norm``."""
    wide = cast(x, "float32")
    squares = new(x.memory, x.shape, "float32", (wide,))
    root = new(x.memory, (*x.shape[:-1], 1), "float32", (squares,))
    for _ in range(3):
        root = elementwise(root)
    views(root, 1)
    y = cast(elementwise(wide, root), x.dtype)
    return elementwise(y)


def linear(node: Any, x: Ghost, ctx: Context, plain: bool) -> Ghost:
    """As ``modules.Linear``: on a plain CPU half precision is multiplied in float32."""
    widen = plain and x.dtype != "float32" and node.in_features * node.out_features in WIDENED
    shape = (*x.shape[:-1], node.out_features)
    weight = ctx.weights[node.weight_name]
    views(weight, 1)
    if not widen:
        return new(x.memory, shape, x.dtype, (x,))
    weight = new(x.memory, (node.out_features, node.in_features), "float32")
    wide = cast(x, "float32")
    return cast(new(x.memory, shape, "float32", (wide, weight)), x.dtype)


def attention(node: Any, x: Ghost, ctx: Any, plain: bool, keep: int = 0) -> Ghost:
    """As ``modules.Attention``; with `keep`, only the last so many positions ask."""
    batch, length, _ = x.shape
    asking = min(keep or length, length)
    parts = []
    for child, heads in ((node.q, node.num_heads), (node.k, node.num_kv_heads), (node.v, node.num_kv_heads)):
        rows = asking if child is node.q else length
        y = ctx.run(child, x[:, length - rows :]).reshaped((batch, rows, heads, node.head_dim))
        parts.append(y.permuted((0, 2, 1, 3)))
    cos, sin = ctx.rotation(node.rope)
    q = rotate(parts[0], cos[:, :, length - asking :], sin[:, :, length - asking :])
    k, v = rotate(parts[1], cos, sin), parts[2]
    if ctx.cache is not None:
        k, v = ctx.cache.update(node.name, k, v)
    y = _in_blocks(node, q, k, v) if plain and asking >= BLOCK else _whole(node, q, k, v, ctx)
    y = y.permuted((0, 2, 1, 3))
    projected: Ghost = ctx.run(node.o, y.reshaped((batch, asking, node.num_heads * node.head_dim)))
    return projected


def _whole(node: Any, q: Ghost, k: Ghost, v: Ghost, ctx: Any) -> Ghost:
    """The fallback of MLX's attention: scores as a whole."""
    batch, _, length, _ = q.shape
    views(q, 2)
    q = elementwise(q)  # scaled
    groups, repeats = node.num_kv_heads, node.num_heads // node.num_kv_heads
    q = new(q.memory, (batch, groups, repeats, length, node.head_dim), q.dtype, (q,), reuses=True)
    views(k, 3)
    views(v, 3)
    scores = new(q.memory, (batch, groups, repeats, length, k.shape[2]), q.dtype, (q, k))
    if length > 1:
        if ctx.mask is None:
            ctx.mask = elementwise(new(q.memory, (1, 1, length, k.shape[2]), "bool"))
        views(ctx.mask, 2)
        scores = elementwise(scores)
    y = matmul(elementwise(scores), v[:, :, None])
    return y.reshaped((batch, node.num_heads, length, node.head_dim))


def _in_blocks(node: Any, q: Ghost, k: Ghost, v: Ghost) -> Ghost:
    """As ``attention.causal_attention``: the last blocks, which have the most keys; of the others only the output."""
    batch, heads, length, dim = q.shape
    past = k.shape[2] - length
    first = max(0, (length - 1) // BLOCK - BLOCKS) * BLOCK
    done = [new(q.memory, (batch, heads, first, dim), q.dtype, (q,))] if first else []
    for start in range(first, length, BLOCK):
        stop = min(start + BLOCK, length)
        done.append(_block(node, q[:, :, start:stop], k[:, :, : past + stop], v[:, :, : past + stop]))
    return done[0] if len(done) == 1 else new(q.memory, q.shape, q.dtype, done)


def _block(node: Any, q: Ghost, k: Ghost, v: Ghost) -> Ghost:
    batch, heads, rows, dim = q.shape
    groups, keys, folded = k.shape[1], k.shape[2], (k.shape[0], k.shape[1], q.shape[1] // k.shape[1] * q.shape[2])
    wide = elementwise(cast(q, "float32"))
    views(wide, 1)
    wide = new(q.memory, (*folded, dim), "float32", (wide,), reuses=True)
    columns = new(q.memory, (batch, groups, dim, keys), "float32", (cast(k, "float32"),))
    scores = new(q.memory, (*folded, keys), "float32", (wide, columns))
    mask = new(q.memory, (1, 1, rows, keys), "bool")
    views(scores, 1)
    scores = new(q.memory, scores.shape, "float32", (scores, mask), reuses=True)
    probabilities = elementwise(scores)
    views(probabilities, 1)
    y = new(q.memory, (*folded, dim), "float32", (probabilities, cast(v, "float32")))
    return cast(y.reshaped((batch, heads, rows, dim)), q.dtype)


def decoder_layer(node: Any, x: Ghost, ctx: Any, plain: bool, last: str) -> Ghost:
    """As ``modules.DecoderLayer``: the last one computes what is read."""
    keep = ctx.keep if node.name == last else 0
    normed = ctx.run(node.attention_norm, x)
    if keep and isinstance(node.attention, nodes.Attention):
        x = x[:, -keep:] + attention(node.attention, normed, ctx, plain, keep)
    else:
        x = x + ctx.run(node.attention, normed)
    del normed
    y: Ghost = x + ctx.run(node.mlp, ctx.run(node.mlp_norm, x))
    return y


def quantized_linear(node: Any, x: Ghost, ctx: Context, plain: bool) -> Ghost:
    """As ``quantized.product``: on a plain CPU many rows are multiplied by the unpacked matrix, in float32."""
    shape = (*x.shape[:-1], node.out_features)
    if not plain:
        return new(x.memory, shape, x.dtype, (x,))
    wide = cast(x, "float32")
    inputs = [wide]
    numbers = (node.out_features, node.in_features // node.group_size)
    halves = [] if x.dtype == "float32" else [new(x.memory, numbers, "float32") for _ in "sb"]
    if x.size // node.in_features > FEW_ROWS:
        weight = new(x.memory, (node.out_features, node.in_features), "float32", halves)
        views(weight, 18)  # it is made in many small steps
        inputs.append(new(x.memory, (node.in_features, node.out_features), "float32", (weight,)))
        halves = []
    y = cast(new(x.memory, shape, "float32", [*inputs, *halves]), x.dtype)
    return elementwise(y) if node.bias else y


def _overrides(plain: bool, last: str) -> Mapping[type, Any]:
    return {
        nodes.DecoderLayer: partial(decoder_layer, plain=plain, last=last),
        nodes.Attention: partial(attention, plain=plain),
        nodes.Linear: partial(linear, plain=plain),
        nodes.RMSNorm: rms_norm,
        QuantizedLinear: partial(quantized_linear, plain=plain),
    }
