"""Texts as vectors, for every interface that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...core.http_interface import HttpError

if TYPE_CHECKING:
    from .hub import Served

MOST_TEXTS = 2048
"""Texts of a request at most, as OpenAI has it."""


def embedded(served: Served, given: Any, truncate: bool = False) -> tuple[Any, int]:
    """Vectors ``[texts, size]`` in float32, and how many tokens the texts have; in a thread.

    Raises:
        HttpError: no text, too many, or an empty one.
    """
    tokenizer = served.llm.tokenizer
    inputs = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)
    if not 0 < len(inputs) <= MOST_TEXTS:
        raise HttpError(f"input holds {len(inputs)} texts, wanted 1 to {MOST_TEXTS}", param="input")
    texts = [text if isinstance(text, str) else tokenizer.decode(text, skip_special_tokens=True) for text in inputs]
    if not all(text.strip() for text in texts):
        raise HttpError("input holds an empty text", param="input")
    count = sum(len(tokenizer.encode(text)) for text in texts)
    return served.llm.predict(texts, truncation=truncate, **served.chosen), count
