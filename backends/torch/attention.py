"""Scaled dot product attention by torch's fused kernels, as each device runs them fastest."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.graph.node import Context


def attend(ctx: Context, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Fused attention of ``[B, H, S, D]`` queries over ``[B, G, K, D]`` keys, by the road fastest on the device."""
    length, on_cpu = q.shape[2], q.device.type == "cpu"
    mask, causal = _sdpa_mask(ctx, length, k)
    fused = functools.partial(
        F.scaled_dot_product_attention,
        dropout_p=dropout,
        scale=q.shape[-1] ** -0.5,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    if on_cpu and length == 1 and q.dtype in (torch.bfloat16, torch.float16):
        # torch's CPU kernel for half precision is several times slower than converting, for a single query.
        return fused(q.float(), k.float(), v.float(), attn_mask=mask).to(q.dtype)
    half = length // 2
    if on_cpu and causal and CPU_KEY_BLOCK // 2 < length <= CPU_KEY_BLOCK and not torch.is_grad_enabled():
        # torch's CPU kernel multiplies whole blocks of keys, masked ones too: the first half need not see the second.
        first = fused(q[:, :, :half], k[:, :, :half], v[:, :, :half], is_causal=True)
        return torch.cat([first, fused(q[:, :, half:], k, v, attn_mask=_causal(length - half, k))], dim=2)
    return fused(q, k, v, attn_mask=mask, is_causal=causal)


CPU_KEY_BLOCK = 512
"""Keys that torch's CPU attention takes at a time."""


def _sdpa_mask(ctx: Context, length: int, keys: Tensor) -> tuple[Tensor | None, bool]:
    """The mask to hand to torch's kernel, and whether plain causal masking says it all."""
    if ctx.mask is not None:
        return ctx.mask, False
    if length == 1:
        return None, False
    if keys.shape[2] == length:
        return None, True
    # torch aligns its causal mask at the top left; new tokens after cached ones need it at the bottom right.
    ctx.mask = _causal(length, keys)
    return ctx.mask, False


def _causal(length: int, keys: Tensor) -> Tensor:
    """``[1, 1, S, K]``: the last `length` tokens may look at what is before them."""
    allowed = torch.ones(length, keys.shape[2], dtype=torch.bool, device=keys.device)
    return allowed.tril(keys.shape[2] - length)[None, None]
