"""Causal attention where MLX multiplies matrices by plain loops: on CPUs outside macOS."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

BLOCK = 32
"""Queries that are run together; smaller blocks leave out more, and larger ones have fewer operations to start."""


def causal_attention(
    q: mx.array, k: mx.array, v: mx.array, scale: float, causal_mask: Callable[[int, int], mx.array]
) -> mx.array:
    """What `q` ``[B, H, S, D]``, the last S of K positions, finds in `k` and `v` ``[B, G, K, D]``: ``[B, H, S, D]``.

    Keys that lie behind every query of a block are left out, which is up to half of the work; keys are laid out for the
    faster of the two loops, and half precision is widened and rounded once, as in
    :func:`~polyllama.backends.mlx.products.product`.

    Args:
        causal_mask: ``(queries, keys) -> [1, 1, queries, keys]`` booleans for the last of the keys.
    """
    length, past = q.shape[2], k.shape[2] - q.shape[2]
    blocks = [
        _block(q[:, :, start : start + BLOCK], k[:, :, :stop], v[:, :, :stop], scale, causal_mask)
        for start in range(0, length, BLOCK)
        for stop in (past + min(start + BLOCK, length),)
    ]
    return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=2)


def _block(
    q: mx.array, k: mx.array, v: mx.array, scale: float, causal_mask: Callable[[int, int], mx.array]
) -> mx.array:
    batch, heads, rows, head_dim = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    # The heads of a group fold into the query axis, so keys and values are never repeated.
    folded = (q.astype(mx.float32) * scale).reshape(batch, kv_heads, heads // kv_heads * rows, head_dim)
    columns = mx.contiguous(k.astype(mx.float32).swapaxes(-1, -2))  # [B, G, D, K]
    scores = (folded @ columns).reshape(batch, heads, rows, keys)
    scores = mx.where(causal_mask(rows, keys), scores, mx.array(-float("inf")))
    probabilities = mx.softmax(scores, axis=-1).reshape(batch, kv_heads, heads // kv_heads * rows, keys)
    y = probabilities @ v.astype(mx.float32)  # [B, G, H / G * S, D]
    return y.reshape(batch, heads, rows, head_dim).astype(q.dtype)
