"""A tokenizer of another library, such as transformers' own, where one is given for stop strings."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import GenerationError
from ..messages import subject

if TYPE_CHECKING:
    from .request import GenerationTokenizer


def as_generation_tokenizer(tokenizer: Any) -> GenerationTokenizer:
    """The tokenizer itself where it is one of ours, else what generation needs of it by its ``decode``.

    Raises:
        GenerationError: it has no ``encode`` and ``decode``.
    """
    if hasattr(tokenizer, "stream_decoder") and hasattr(tokenizer, "ids_without_token"):
        found: GenerationTokenizer = tokenizer
        return found
    if not callable(getattr(tokenizer, "decode", None)) or not callable(getattr(tokenizer, "encode", None)):
        raise GenerationError(
            subject("tokenizer", tokenizer) + f" is {tokenizer!r:.60}, which does not encode and decode",
            hint="leave it out, and the model's own is taken",
        )
    return _ForeignTokenizer(tokenizer)


class _ForeignTokenizer:
    """What generation asks of a tokenizer, by ``encode`` and ``decode``."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def bos_token_id(self) -> int | None:
        found: int | None = getattr(self._tokenizer, "bos_token_id", None)
        return found

    @property
    def all_special_ids(self) -> Sequence[int]:
        found: Sequence[int] = getattr(self._tokenizer, "all_special_ids", ())
        return found

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [int(i) for i in self._tokenizer.encode(text, add_special_tokens=add_special_tokens)]

    def ids_without_token(self, size: int) -> list[int]:
        return list(range(len(self._tokenizer), size)) if hasattr(self._tokenizer, "__len__") else []

    def stream_decoder(self, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True) -> _ForeignDecoder:
        return _ForeignDecoder(self._tokenizer, prompt_ids, skip_special_tokens)


class _ForeignDecoder:
    """Ids into text one at a time: what decoding them all gives beyond what it gave before.

    Only the last ids are decoded each time, from where what is before has no influence any more.
    """

    def __init__(self, tokenizer: Any, prompt_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._ids = list(prompt_ids[-8:])  # enough to know whether a space is between
        self._known = len(self._text(self._ids))
        self._cut_at = _LONGEST

    def fork(self) -> _ForeignDecoder:
        other = copy.copy(self)
        other._ids = list(self._ids)
        return other

    def push(self, token_id: int, /) -> str:
        self._ids.append(token_id)
        text = self._text(self._ids)
        if text.endswith(_UNFINISHED):
            return ""
        new, self._known = text[self._known :], max(self._known, len(text))
        if len(self._ids) >= self._cut_at:
            self._forget(text)
        return new

    def finish(self) -> str:
        text = self._text(self._ids)
        new, self._known = text[self._known :], len(text)
        return new

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=self._skip))

    def _forget(self, text: str) -> None:
        """Leave out the first ids, where the text of the others is surely the end of `text`."""
        last = len(self._ids) - _SHORTEST
        for start in range(last, max(0, last - _SHORTEST), -1):
            if not self._begins_anew(self._ids[start]):
                continue
            rest = self._text(self._ids[start:])
            if len(rest) >= _SHORTEST and text.endswith(rest):
                self._ids, self._known = self._ids[start:], self._known - (len(text) - len(rest))
                self._cut_at = _LONGEST
                return
        self._cut_at = len(self._ids) + _SHORTEST

    def _begins_anew(self, token_id: int) -> bool:
        """Whether it is no byte, alone or of a character, which would be read together with those before it."""
        own = self._text([token_id]).strip()
        return _UNFINISHED not in own and (len(own) > 1 or (own != "" and not own.isascii()))


_UNFINISHED = "\ufffd"  # a character of which bytes are missing
_SHORTEST = 24  # of ids, and characters: more than any clean-up of spaces looks at
_LONGEST = 64
