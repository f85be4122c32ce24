"""Masks and positions of a pass, from its padding, packing and cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..dtypes import Array


@dataclass(frozen=True)
class Layout:
    """Where the new tokens sit among all: what attention and RoPE need to know.

    Attributes:
        positions: ``[B or 1, S]`` integers.
        mask: ``[B or 1, 1, S, K]`` booleans, or ``None`` for plain causal attention.
        key_mask: ``[B, past + S]`` booleans, or ``None`` where every slot is attended.
        own: whether `mask` says more than "causal, without padded keys": packed sequences, or four dimensions.
        attended: ``[B, S]``, what `key_mask` says of the new tokens, where its columns are other slots than those.
    """

    positions: Array
    mask: Array | None
    key_mask: Array | None
    own: bool = False
    attended: Array | None = None


def lay_out(
    xp: Any,
    *,
    new: int,
    past: int,
    attention_mask: Array | None,
    past_mask: Array | None,
    position_ids: Array | None,
    masked: bool = False,
    device: Any = None,
) -> Layout:
    """Positions and masks for `new` tokens after `past` slots.

    Args:
        attention_mask: ``[B, past + new]`` or ``[B, new]`` (the cache remembers the rest), 1 where attended; or
            ``[B or 1, 1, new, past + new]``, used as it is.
        past_mask: the cache's own ``[B, past]``, ``None`` where all are attended.
        position_ids: ``[B or 1, new]``, overrides counting. Given without a mask or a cache, a position that does not
            rise begins another sequence packed into the row, which does not see the ones before it.
        masked: whether there was a mask where `attention_mask` is ``None``, left out for masking nothing.
    """
    total = past + new
    if attention_mask is not None and attention_mask.ndim == 4:
        # It says who looks at whom; which of the earlier slots are padding, and are no positions, the cache knows.
        known = None if past_mask is None else _with_new(xp, past_mask, new, device)
        if position_ids is None:
            position_ids = _plain_positions(xp, past, total, device) if known is None else _counted(xp, known, past)
        # A query that may see nothing at all sees itself, so that no softmax runs over nothing.
        keys, queries = _slots(xp, new, total, device)
        return Layout(position_ids, xp.astype(attention_mask, xp.bool) | (keys == queries), known, own=True)
    if attention_mask is None and not masked and past == 0 and new > 1 and position_ids is not None:
        return Layout(position_ids, _packed_mask(xp, position_ids, new, device), None, own=True)
    key_mask = None if attention_mask is None else xp.astype(attention_mask, xp.bool)
    if key_mask is None and past_mask is not None:
        key_mask = _with_new(xp, past_mask, new, device)
    if key_mask is not None and key_mask.shape[1] != total:
        before = past_mask
        if before is None:
            before = xp.ones((key_mask.shape[0], past), dtype=xp.bool, device=device)
        key_mask = xp.concat([before, key_mask], axis=1)
    if key_mask is None:
        positions = _plain_positions(xp, past, total, device) if position_ids is None else position_ids
        return Layout(positions, None, None)
    if position_ids is None:
        position_ids = _counted(xp, key_mask, past)
    return Layout(position_ids, _padded_mask(xp, key_mask, new, total, device), key_mask)


def lay_out_again(
    xp: Any, layout: Layout, seen: Array | None, positions: Array, *, new: int, past: int, device: Any = None
) -> Layout:
    """What a pass over everything so far sees, so that each token looks at what it looked at when it was new.

    Args:
        layout: of the `new` tokens after the `past` slots.
        seen: what :func:`seen_so_far` gave before them.
        positions: ``[B or 1, past + new]``; they were laid out already, so that none of them begins a packed sequence.
    """
    mask = seen_so_far(xp, layout, seen, new=new, past=past, device=device)
    if mask is None and layout.key_mask is not None:
        mask = _padded_mask(xp, layout.key_mask, past + new, past + new, device)
    return Layout(positions, mask, layout.key_mask, own=mask is not None and (layout.own or seen is not None))


def seen_so_far(
    xp: Any, layout: Layout, seen: Array | None, *, new: int, past: int, device: Any = None
) -> Array | None:
    """``[B or 1, 1, past + new, past + new]`` booleans, the attention mask of all tokens; ``None`` while it is causal.

    Args:
        seen: the same of the first `past` slots.
    """
    if seen is None and not layout.own:
        return None
    total = past + new
    keys, queries = _slots(xp, total, total, device)
    plain = keys <= queries if layout.key_mask is None else _padded_mask(xp, layout.key_mask, total, total, device)
    before = plain[:, :, :past, :past] if seen is None else seen
    last = plain[:, :, past:, :] if layout.mask is None else layout.mask
    rows = max(before.shape[0], last.shape[0])
    before, last = (xp.broadcast_to(part, (rows, *part.shape[1:])) for part in (before, last))
    later = xp.zeros((rows, 1, past, new), dtype=xp.bool, device=device)
    return xp.concat([xp.concat([before, later], axis=3), last], axis=2)


def _plain_positions(xp: Any, past: int, total: int, device: Any) -> Array:
    return xp.reshape(xp.arange(past, total, device=device), (1, total - past))


def _counted(xp: Any, key_mask: Array, past: int) -> Array:
    """``[B, S]``: each new token's count of attended tokens before it."""
    counts = xp.cumulative_sum(xp.astype(key_mask, xp.int64), axis=1) - 1
    return xp.where(counts < 0, xp.zeros_like(counts), counts)[:, past:]


def _with_new(xp: Any, past_mask: Array, new: int, device: Any) -> Array:
    """What a cache knows of its slots ``[B, past]``, and `new` slots that are all attended."""
    ones = xp.ones((past_mask.shape[0], new), dtype=xp.bool, device=device)
    return xp.concat([past_mask, ones], axis=1)


def _padded_mask(xp: Any, key_mask: Array, new: int, total: int, device: Any) -> Array:
    """Causal, without padded keys; a query may always see itself, so that no softmax runs over nothing."""
    keys, queries = _slots(xp, new, total, device)
    return ((keys <= queries) & key_mask[:, None, None, :]) | (keys == queries)


def _packed_mask(xp: Any, position_ids: Array, new: int, device: Any) -> Array:
    """Causal within each sequence of a packed row: a new one begins where positions do not rise."""
    begins = xp.astype(position_ids[:, 1:] <= position_ids[:, :-1], xp.int64)
    number = xp.concat([xp.zeros_like(begins[:, :1]), xp.cumulative_sum(begins, axis=1)], axis=1)  # [B or 1, S]
    keys, queries = _slots(xp, new, new, device)
    return (keys <= queries) & (number[:, None, :, None] == number[:, None, None, :])


def _slots(xp: Any, new: int, total: int, device: Any) -> tuple[Array, Array]:
    """Slot numbers of all keys ``[1, 1, 1, K]`` and of the new queries ``[1, 1, S, 1]``."""
    keys = xp.reshape(xp.arange(total, device=device), (1, 1, 1, total))
    return keys, xp.reshape(xp.arange(total - new, total, device=device), (1, 1, new, 1))
