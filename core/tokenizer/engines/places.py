"""Where ids came from in their text: characters and words, found when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import PolyllamaError

if TYPE_CHECKING:
    import tokenizers

Offset = tuple[int, int]


class Places(Protocol):
    """The place of every id of a text, before special tokens are put around it."""

    def offsets(self) -> list[Offset]:
        """The (start, end) characters of the text that each id came from."""
        ...

    def words(self) -> list[int | None]:
        """The word of the text that each id is part of, counted from 0."""
        ...


class KnownPlaces:
    """Places that are there already, or the reason why there are no offsets."""

    def __init__(self, offsets: list[Offset] | PolyllamaError, words: list[int | None]) -> None:
        self._offsets = offsets
        self._words = words

    def offsets(self) -> list[Offset]:
        if isinstance(self._offsets, PolyllamaError):
            raise self._offsets
        return self._offsets

    def words(self) -> list[int | None]:
        return self._words


class FoundPlaces:
    """Places that are found when they are first asked for; pickled, they are found before."""

    def __init__(self, words: list[int | None], find: Callable[[], list[Offset]]) -> None:
        self._words = words
        self._find = find
        self._offsets: list[Offset] | None = None

    def offsets(self) -> list[Offset]:
        if self._offsets is None:
            self._offsets = self._find()
        return self._offsets

    def words(self) -> list[int | None]:
        return self._words

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            return KnownPlaces, (self.offsets(), self._words)
        except PolyllamaError as error:
            return KnownPlaces, (error, self._words)


class LibraryPlaces:
    """What the tokenizers library has found."""

    def __init__(self, encoding: tokenizers.Encoding) -> None:
        self._encoding = encoding

    def offsets(self) -> list[Offset]:
        return self._encoding.offsets

    def words(self) -> list[int | None]:
        return self._encoding.word_ids


class WordPlaces:
    """Places in a text that was given in words: offsets are within each word, as its index is known."""

    def __init__(self, words: Sequence[tuple[int, Places]]) -> None:
        self._parts = words

    def offsets(self) -> list[Offset]:
        return [offset for _, places in self._parts for offset in places.offsets()]

    def words(self) -> list[int | None]:
        return [word for word, (count, _) in enumerate(self._parts) for _ in range(count)]
