"""Which tokens of a row are its text and which are padding: what a head that gives one result per row must know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..public import for_plugins

if TYPE_CHECKING:
    import numpy as np

    from ..dtypes import Array


@for_plugins
def text_tokens(input_ids: Array | None, attended: Array | None, pad_token_id: int | None, batch: int) -> Array | None:
    """``[B, S]`` booleans, true for text; ``None`` where nothing says and the one row is all text.

    The attention mask decides where one is given, so a final token that is also the padding one counts as text. Without
    a mask it is what is not `pad_token_id`.

    Args:
        input_ids: ``[B, S]``, ``None`` where embeddings were given.
        attended: ``[B, S]`` booleans, what the mask says of these tokens; ``None`` without a mask.

    Raises:
        InputError: several rows, and neither a mask nor a padding id to tell their text by.
    """
    if attended is not None:
        return attended
    if input_ids is not None and pad_token_id is not None:
        return input_ids != pad_token_id
    if batch == 1:
        return None
    if input_ids is None:
        raise InputError(
            f"which of these {batch} rows of embeddings are padding is not known", hint="give an attention_mask"
        )
    raise InputError(
        f"which tokens of these {batch} rows are padding is not known: there is no attention_mask, and no pad_token_id",
        hint="give an attention_mask, or load with pad_token_id=...",
    )


def text_by_padding(input_ids: Array | None, pad_token_id: int | None) -> Array | None:
    """``[B, S]`` booleans, true where a token is not padding; ``None`` where embeddings or no padding id are given."""
    return None if input_ids is None or pad_token_id is None else input_ids != pad_token_id


def check_text(input_ids: np.ndarray | None, attended: np.ndarray | None, pad_token_id: int | None, batch: int) -> None:
    """:func:`text_tokens`'s errors before anything is computed, and one more: a row without any text.

    >>> import numpy as np
    >>> check_text(np.array([[5, 6], [0, 0]]), None, 0, 2)
    Traceback (most recent call last):
    ...
    polyllama.extend.InputError: row 1 is padding alone (pad_token_id is 0); drop it, or give an attention_mask
    """
    text: Any = text_tokens(input_ids, attended, pad_token_id, batch)
    if text is None or text.any(axis=1).all():
        return
    row = int((~text.any(axis=1)).argmax())
    if attended is not None:
        raise InputError(f"attention_mask[{row}] attends to none of these tokens", hint="drop the row")
    raise InputError(
        f"row {row} is padding alone (pad_token_id is {pad_token_id})", hint="drop it, or give an attention_mask"
    )
