"""A text that itself begins with the bos token which the tokenizer puts before every text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import warn

if TYPE_CHECKING:
    from .tokenizer import Tokenizer


def begins_with_two_bos(tokenizer: Tokenizer, ids: Sequence[int]) -> bool:
    """Whether a text's ids begin with the bos token twice."""
    return len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id


def warn_of_two_bos(tokenizer: Tokenizer, what: str, whole: str) -> None:
    """Say that `what` ("a prompt") begins with one of its own, which may be left out of `whole` ("the prompt")."""
    warn(
        f"{what} begins with {tokenizer.bos_token!r}, and the tokenizer puts one before every text: the model is "
        f"given two (leave it out of {whole}, or give token ids)"
    )
