"""Prompts as token ids: of a text, of ids, of a list of either, of a padded array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

from ..errors import InputError


def read_prompts(
    prompts: Any, input_ids: Any, attention_mask: Any, encode: Callable[[str], list[int]]
) -> tuple[bool, list[list[int]]]:
    """Return whether there is one prompt, and every prompt as ids; `encode` makes ids of a text.

    Raises:
        InputError: both or neither of `prompts` and `input_ids`, a mask without `input_ids`, or no prompt at all.
    """
    if (prompts is None) == (input_ids is None):
        raise InputError("give either prompts or input_ids")
    if input_ids is not None:
        return False, _unpadded(input_ids, attention_mask)
    if attention_mask is not None:
        raise InputError("attention_mask goes with input_ids", hint="a list of prompts needs no mask")
    if isinstance(prompts, str):
        return True, [encode(prompts)]
    if hasattr(prompts, "tolist"):
        prompts = prompts.tolist()
    if not isinstance(prompts, Sequence) or isinstance(prompts, (bytes, bytearray)):
        raise InputError(f"a prompt is text or token ids, not a {type(prompts).__name__}")
    if prompts and all(isinstance(item, Integral) for item in prompts):
        return True, [_ids(prompts, 0)]
    return False, [encode(p) if isinstance(p, str) else _ids(p, i) for i, p in enumerate(prompts)]


def _ids(prompt: Any, index: int) -> list[int]:
    if hasattr(prompt, "tolist"):
        prompt = prompt.tolist()
    listed = isinstance(prompt, Sequence) and not isinstance(prompt, (str, bytes, bytearray))
    if not listed or not all(isinstance(item, Integral) and not isinstance(item, bool) for item in prompt):
        raise InputError(f"prompt {index} is neither text nor a list of token ids")
    return [int(item) for item in prompt]


def _unpadded(input_ids: Any, attention_mask: Any) -> list[list[int]]:
    """Rows of a padded array, without what the mask masks."""
    from ..forward.inputs import as_integers, as_mask, check_mask

    ids = as_integers(input_ids, "input_ids")
    if ids.ndim != 2:
        raise InputError(f"input_ids has shape {list(ids.shape)}, wanted [batch, sequence]")
    mask = None
    if attention_mask is not None:
        mask = check_mask(as_mask(attention_mask), ids.shape[0], ids.shape[1], 0)
    if mask is None:
        return [row.tolist() for row in ids]
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask has shape {list(mask.shape)}, input_ids {list(ids.shape)}")
    return [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]
