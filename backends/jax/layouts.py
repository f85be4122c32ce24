"""Positions and masks of a pass, made on the host and padded to the lengths that passes are compiled for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as host
import numpy as np

from ...core.forward.forward import attended_tokens
from ...core.forward.inputs import HostInputs
from ...core.forward.layout import Layout, lay_out, seen_so_far
from .cache import JaxCache


def layout_of(given: HostInputs, cache: JaxCache | None, new: int, past: int) -> Layout:
    """Positions and masks of `new` tokens after `past`; ``own`` only where padding and order do not tell the mask."""
    layout = lay_out(
        host,
        new=new,
        past=past,
        attention_mask=given.attention_mask,
        past_mask=None if cache is None else cache.mask,
        position_ids=given.position_ids,
        masked=given.masked,
    )
    return replace(layout, own=_needs_mask(given, past))


def mask_of(layout: Layout, seen: np.ndarray | None, past: int, new: int, restart: bool) -> np.ndarray | None:
    """The mask that takes the causal one's place, if any does; over everything so far where the pass starts over."""
    if restart:
        return seen_so_far(host, layout, seen, new=new, past=past)
    return layout.mask if layout.own else None


def _needs_mask(given: HostInputs, past: int) -> bool:
    """Whether the mask says more than "causal, without padded keys", which the traced pass works out by itself."""
    if given.attention_mask is not None:
        return bool(given.attention_mask.ndim == 4)
    return not given.masked and given.position_ids is not None and past == 0 and _packed(given.position_ids) is not None


def _packed(positions: np.ndarray) -> np.ndarray | None:
    """The mask of several sequences packed into a row, told by positions that do not rise; ``None`` where all do."""
    if bool((positions[:, 1:] > positions[:, :-1]).all()):
        return None
    length = positions.shape[1]
    layout = lay_out(host, new=length, past=0, attention_mask=None, past_mask=None, position_ids=positions)
    return np.asarray(layout.mask)


def padded(array: np.ndarray, length: int, dtype: Any = None) -> np.ndarray:
    """`array` ``[B, n, ...]`` with its last entry along the second axis repeated up to `length`."""
    array = array if dtype is None else array.astype(dtype)
    more = length - array.shape[1]
    return array if more <= 0 else np.concatenate([array, np.repeat(array[:, -1:], more, axis=1)], axis=1)


def key_mask_of(layout: Layout, batch: int, used: int, slots: int) -> np.ndarray:
    """``[B, slots]``: the slots in use, without padding."""
    mask = np.zeros((batch, slots), bool)
    mask[:, :used] = True if layout.key_mask is None else layout.key_mask
    return mask


def attended_of(given: HostInputs, layout: Layout, past: int, length: int) -> np.ndarray | None:
    """``[B, length]`` booleans for heads; what a pass is padded with is no text."""
    attended = attended_tokens(given.attended, given.attention_mask, layout, past)
    if attended is None:
        return None
    return np.pad(np.asarray(attended), [(0, 0), (0, length - attended.shape[1])])


def widened(mask: np.ndarray, length: int, slots: int) -> np.ndarray:
    """A mask ``[B or 1, 1, S, K]`` for a padded pass and all slots."""
    whole = np.zeros((mask.shape[0], 1, length, slots), bool)
    whole[:, :, : mask.shape[2], : mask.shape[3]] = mask
    whole[:, :, mask.shape[2] :, :1] = True  # what only pads looks at something, so that nothing is NaN
    return whole
