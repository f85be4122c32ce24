"""Rotary embeddings on torch: a rotation, and what ``model.model.rotary_emb`` is."""

from __future__ import annotations

import array_api_compat.torch as xp
import torch
from torch import Tensor

from ...core.errors import InputError, UnsupportedError
from ...core.graph.graph import Graph, nodes_of_type
from ...core.graph.nodes import Attention, Decoder


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on ``[B, H, S, D]``; computed in the tables' precision, given back in `x`'s."""
    rotary = cos.shape[-1]
    turned = x if rotary == x.shape[-1] else x[..., :rotary]
    swapped = torch.cat([turned[..., rotary // 2 :], turned[..., : rotary // 2]], dim=-1)
    y = (turned * cos).addcmul_(swapped, sin) if not torch.is_grad_enabled() else turned * cos + swapped * sin
    y = y.to(x.dtype)
    return y if rotary == x.shape[-1] else torch.cat([y, x[..., rotary:]], dim=-1)


class RotaryEmbedding:
    """What transformers' documents call ``rotary_emb``: cosines and sines of positions.

    It holds no weights, and a pass does not call it, so it is no module and hooks have nothing to see here.

    Raises:
        UnsupportedError: layers whose rotary embeddings differ.
    """

    def __init__(self, node: Decoder) -> None:
        ropes = {id(attention.rope): attention.rope for attention in nodes_of_type(Graph(node, None, ""), Attention)}
        if len(ropes) != 1:
            raise UnsupportedError("rotary_emb: the layers of this model have none in common", hint="ask model.graph")
        (self._rope,) = ropes.values()

    def __call__(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[B, S, rotary_dim]`` of `position_ids` ``[B, S]``, in the dtype and on the device of `x`.

        Each half of the last axis has the same: a rotation takes ``x * cos + rotate_half(x) * sin``.
        """
        if not isinstance(position_ids, Tensor) or position_ids.ndim != 2 or position_ids.is_floating_point():
            raise InputError("rotary_emb takes x and position_ids, integers [batch, length]")
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        lengths = (position_ids.amax(-1) + 1).cpu().numpy() if self._rope.depends_on_length else None
        frequencies = torch.from_numpy(self._rope.row_frequencies(lengths)).to(x.device, wide)
        tables = self._rope.tables(xp, position_ids.to(x.device), frequencies)
        cos, sin = (torch.cat([table, table], dim=-1).squeeze(1).to(x.dtype) for table in tables)
        return cos, sin
