"""Keys and values in storage that stays what it is, for ``torch.compile``: one pass is compiled for all tokens.

How many slots are used is a number in a tensor. So nothing that a compiler looks at changes from token to token: every
pass writes to the slots behind the used ones, attends to all slots, and a mask leaves out those that hold nothing yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ...core.errors import InputError
from ...core.forward.layout import Layout
from ...core.messages import counted
from .cache import TorchCache

if TYPE_CHECKING:
    from ...core.forward.forward import Request


class StaticTorchCache(TorchCache):
    """Per attention two buffers ``[B, G, capacity, D]``, all of which come back.

    Attributes:
        place: ``[]``, the slots in use; a tensor of the pass.
        mask: ``[B, capacity]``, ``None`` while no slot in use is padding.
    """

    joins = False
    counts_itself = True

    def __init__(self, batch: int | None, capacity: int, device: Any = None) -> None:
        self.place = _fixed(torch.zeros((), dtype=torch.int64, device=device))
        super().__init__(batch, capacity)
        self.slots = capacity

    @property
    def length(self) -> int:
        """Slots in use; a look at the device."""
        return int(self.place)

    @length.setter
    def length(self, value: int) -> None:
        self.place = _own(self.place)
        self.place.fill_(value)

    def lay_out(self, request: Request, new: int) -> Layout:
        """See :meth:`polyllama.extend.Cache.lay_out`."""
        if not torch.compiler.is_compiling():
            self._check_room(new)
        keys = torch.arange(self.slots, device=self.place.device)
        queries = self.place + torch.arange(new, device=self.place.device)
        own, position_ids = request.attention_mask, request.position_ids
        padded = None if own is not None and own.ndim == 4 else own
        key_mask = self._key_mask(padded, queries)
        causal = (keys <= queries[:, None])[None, None]
        itself = (keys == queries[:, None])[None, None]  # so that no softmax runs over nothing
        if own is not None and own.ndim == 4:
            mask = _widened(own.to(torch.bool), self.slots) | itself
        elif key_mask is not None:
            mask = (causal & key_mask[:, None, None, :]) | itself
        else:
            mask = causal
            if position_ids is not None and new > 1 and not request.masked:
                mask = causal & self._same_text(position_ids, queries)
        if position_ids is None:
            position_ids = queries[None] if key_mask is None else _counted(key_mask, queries)
        attended = None if key_mask is None else key_mask.index_select(1, queries)
        return Layout(position_ids, mask, key_mask, own is not None and own.ndim == 4, attended)

    def _check_room(self, new: int) -> None:
        if self.length + new > self.slots:
            raise InputError(
                f"past_key_values has room for {counted(self.slots, 'token')}, and this pass would make "
                f"{self.length + new}",
                hint="make it with a larger max_cache_len",
            )

    def _key_mask(self, given: Tensor | None, queries: Tensor) -> Tensor | None:
        """``[B, slots]``, which slots hold attended tokens; what lies behind the new ones, the causal mask covers."""
        known = self.mask
        if given is None:
            return known if known is None else known.index_fill(1, queries, True)
        given = given.to(torch.bool)
        if given.shape[1] != queries.shape[0]:
            return _widened(given, self.slots)
        if known is None:
            known = torch.ones((given.shape[0], self.slots), dtype=torch.bool, device=given.device)
        return known.index_copy(1, queries, given)

    def _same_text(self, position_ids: Tensor, queries: Tensor) -> Tensor:
        """``[., 1, S, slots]``: packed texts begin where positions do not rise, unless earlier tokens are held."""
        begins = (position_ids[:, 1:] <= position_ids[:, :-1]).to(torch.int64)
        number = torch.cat([torch.zeros_like(begins[:, :1]), begins.cumsum(1)], dim=1)
        of_slots = torch.zeros((number.shape[0], self.slots), dtype=torch.int64, device=number.device)
        of_slots = of_slots.index_copy(1, queries, number)
        return (number[:, None, :, None] == of_slots[:, None, None, :]) | (self.place > 0)

    def update(self, name: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        where = self.place + torch.arange(keys.shape[2], device=keys.device)
        buffers = self.buffers.get(name)
        if buffers is None:
            buffers = self._made(keys), self._made(values)
        if torch.is_grad_enabled() and (keys.requires_grad or values.requires_grad):
            # Writing in place would rewrite what autograd has saved.
            self.buffers[name] = buffers[0].index_copy(2, where, keys), buffers[1].index_copy(2, where, values)
            return self.buffers[name]
        self.buffers[name] = buffers = _own(buffers[0]), _own(buffers[1])
        buffers[0].index_copy_(2, where, keys)
        buffers[1].index_copy_(2, where, values)
        return buffers

    def _made(self, new: Tensor) -> Tensor:
        return _fixed(new.new_zeros((new.shape[0], new.shape[1], self.slots, new.shape[3])).detach())

    def advance(self, count: int, mask: Tensor | None) -> None:
        self.place = _own(self.place)
        self.place.add_(count)
        if mask is None:
            return
        if self.mask is None:
            self.mask = _fixed(mask)
        else:
            self.mask = _own(self.mask)
            self.mask.copy_(mask)

    def crop(self, max_length: int) -> None:
        kept = max_length if max_length >= 0 else max(0, self.length + max_length)
        if kept < self.length:
            self._forget(kept)

    def reset(self) -> None:
        self._forget(0)
        self.mask = None

    def _forget(self, kept: int) -> None:
        for name, buffers in self.buffers.items():
            self.buffers[name] = _own(buffers[0].detach()), _own(buffers[1].detach())
            for buffer in self.buffers[name]:
                buffer[:, :, kept:] = 0  # an infinite value would spoil the sum even with a weight of zero
        self.length = kept

    def select_rows(self, rows: Sequence[int]) -> Self:
        chosen = super().select_rows(rows)
        chosen.place = _fixed(self.place.clone())
        return chosen


def _fixed(tensor: Tensor) -> Tensor:
    """A tensor that stays where it is, for CUDA graphs: where ``torch.compile`` is in use, it is told so."""
    import sys

    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and not torch.compiler.is_compiling():
        dynamo.mark_static_address(tensor)
    return tensor


def _own(tensor: Tensor) -> Tensor:
    """A tensor that can be written to: outside of inference mode torch forbids writing into what that made."""
    if torch.compiler.is_compiling():
        return tensor
    return _fixed(tensor.clone()) if tensor.is_inference() and not torch.is_inference_mode_enabled() else tensor


def _widened(mask: Tensor, slots: int) -> Tensor:
    """A mask of keys with as many columns as there are slots."""
    more = slots - mask.shape[-1]
    return mask if more == 0 else torch.nn.functional.pad(mask, (0, more))


def _counted(key_mask: Tensor, queries: Tensor) -> Tensor:
    """``[B, S]``: each new token's count of attended tokens before it."""
    counts = key_mask.to(torch.int64).cumsum(1) - 1
    return counts.clamp(min=0).index_select(1, queries)
