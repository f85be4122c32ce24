"""Prompts that come as an array: checked, and taken apart into rows without their padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..array_kinds import as_numpy, device_of, kind_among
from ..errors import InputError
from ..forward.inputs import as_embeds, as_integers, as_mask, check_embeds_shape, check_ids
from ..messages import counted
from .request_plan import Prompt

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ArrayPrompts:
    """Rows of a request as an array, and of which kind: the result is of the same.

    Attributes:
        ids: ``[rows, width]`` as they came, padding in place; ``[rows, 0]`` where embeddings came alone.
        embeds: ``[rows, length, hidden_size]``, run in the place of `ids` where they came.
        mask: ``[rows, length]`` booleans, what is no padding.
        dtype: the element type of ids going out.
        kind, device: the framework, and where its arrays are.
    """

    ids: NDArray[np.int64]
    embeds: NDArray[Any] | None
    mask: NDArray[np.bool_]
    dtype: np.dtype[Any]
    kind: str
    device: Any

    @property
    def width(self) -> int:
        """Places of a row in the model."""
        return int(self.mask.shape[1])

    def prompts(self) -> list[Prompt]:
        """Each row without its padding. Limits on the length count the padding, as every row gets as many tokens."""
        places = self.ids.shape[1]
        counted = places if places == self.width else places + self.width
        found = []
        for row, keep in enumerate(self.mask):
            known = self.ids[row][keep] if places == self.width else self.ids[row]
            found.append(Prompt(known.tolist(), None if self.embeds is None else self.embeds[row][keep], counted))
        return found


def read_array_prompts(
    input_ids: Any,
    attention_mask: Any,
    inputs_embeds: Any,
    *,
    vocab_size: int,
    hidden_size: int,
    pad_token_id: int | None,
    eos_token_id: Sequence[int],
) -> ArrayPrompts:
    """Check arrays of prompts.

    Without a mask, and where the padding token ends no sequence, ids that are the padding token are padding, as
    transformers infers it.

    Raises:
        InputError: arrays of the wrong shape, type or range, or of several frameworks; a row of padding alone.
    """
    kind = kind_among([input_ids, attention_mask, inputs_embeds])
    main = input_ids if inputs_embeds is None else inputs_embeds
    device, dtype, embeds = device_of(main), np.dtype(np.int64), None
    if inputs_embeds is not None:
        embeds = as_embeds(as_numpy(inputs_embeds, "inputs_embeds"))
        check_embeds_shape(embeds.shape, hidden_size)
        ids = np.zeros((len(embeds), 0), np.int64)
    if input_ids is not None:
        ids, dtype = _ids(input_ids, vocab_size)
    if embeds is not None and len(embeds) != len(ids):
        raise InputError(f"inputs_embeds has {counted(len(embeds), 'row')}, input_ids {len(ids)}")
    shape = ids.shape if embeds is None else embeds.shape[:2]
    mask = _mask(attention_mask, shape, ids, pad_token_id, eos_token_id)
    empty = np.flatnonzero(~mask.any(axis=1))
    if empty.size:
        raise InputError(f"row {empty[0]} of the prompts is padding alone", hint="give at least one token per row")
    return ArrayPrompts(ids, embeds, mask, dtype, kind or "numpy", device)


def _ids(input_ids: Any, vocab_size: int) -> tuple[NDArray[np.int64], np.dtype[Any]]:
    """Ids ``[rows, width]``, and the type they go out in: their own, where every id fits into it."""
    array = as_numpy(input_ids, "input_ids")
    if array.dtype.kind not in "iu":
        raise InputError(f"input_ids holds {array.dtype}, wanted whole numbers")
    if array.ndim == 1:
        raise InputError(
            f"input_ids has shape {list(array.shape)}, wanted [rows, tokens]", hint="for one row write input_ids[None]"
        )
    ids = as_integers(array, "input_ids")
    check_ids(ids, vocab_size)
    return ids, array.dtype if np.iinfo(array.dtype).max >= vocab_size - 1 else np.dtype(np.int64)


def _mask(
    attention_mask: Any,
    shape: tuple[int, ...],
    ids: NDArray[np.int64],
    pad_token_id: int | None,
    eos_token_id: Sequence[int],
) -> NDArray[np.bool_]:
    if attention_mask is None:
        if pad_token_id is None or pad_token_id in eos_token_id or ids.shape != shape:
            return np.ones(shape, np.bool_)
        found: NDArray[np.bool_] = ids != pad_token_id
        return found
    mask = as_mask(attention_mask)
    if mask.shape != shape:
        raise InputError(f"attention_mask has shape {list(mask.shape)}, wanted {list(shape)}")
    if mask.size and (int(mask.min()) < 0 or int(mask.max()) > 1):
        raise InputError(
            "attention_mask holds something other than 0 and 1", hint="1 marks a token to attend to, 0 a padding"
        )
    return mask.astype(np.bool_)
