"""What a tokenizer is called with: one text or several, whole or in words, alone or in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import TokenizerError
from ..messages import counted

Text = str | Sequence[str]
"""A text, or its words."""


@dataclass(frozen=True)
class Samples:
    """The samples of a call, each of one text or two.

    Attributes:
        parts: for each sample its texts.
        single: it is one sample, given without a list around it.
    """

    parts: list[tuple[Text, ...]]
    single: bool

    @classmethod
    def read(cls, text: Any, text_pair: Any, *, in_words: bool) -> Samples:
        """Read the arguments ``text`` and ``text_pair``.

        Errors: TokenizerError for what is no text, and for pairs that do not match.
        """
        if _is_one(text, in_words):
            if text_pair is not None and not _is_one(text_pair, in_words):
                raise TokenizerError("text is one text, so text_pair must be one too")
            return cls([(text,) if text_pair is None else (text, text_pair)], True)
        if not isinstance(text, Sequence) or isinstance(text, str | bytes):
            what = "a list of words, or a list of such lists" if in_words else "a str or a list of them"
            raise TokenizerError(f"text must be {what}, got {type(text).__name__}", hint=_hint(text, in_words))
        if text_pair is None:
            return cls([_sample(one, in_words) for one in text], False)
        if isinstance(text_pair, str) or not isinstance(text_pair, Sequence) or len(text_pair) != len(text):
            raise TokenizerError(f"text has {counted(len(text), 'text')}, so text_pair must be a list of as many")
        return cls(list(zip(text, text_pair, strict=True)), False)


def _is_one(text: Any, in_words: bool) -> bool:
    if not in_words:
        return isinstance(text, str)
    is_list = isinstance(text, Sequence) and not isinstance(text, str | bytes)
    return is_list and all(isinstance(word, str) for word in text)


def _sample(text: Any, in_words: bool) -> tuple[Text, ...]:
    """A sample of a list; a list of two in its place is a pair."""
    if isinstance(text, list | tuple) and not _is_one(text, in_words):
        if len(text) == 2 and all(_is_one(part, in_words) for part in text):
            return tuple(text)
        if not in_words and all(isinstance(word, str) for word in text):
            raise TokenizerError(
                f"a text is a list of {counted(len(text), 'word')}",
                hint="pass is_split_into_words=True for texts in words",
            )
    return (text,)


def _hint(text: object, in_words: bool) -> str | None:
    return "leave out is_split_into_words" if in_words and isinstance(text, str) else None
