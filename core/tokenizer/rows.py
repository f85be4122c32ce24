"""One row of ids for a model, and what its ids are: tokens, characters and words of the texts they came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from .engines.places import Offset, Places
from .engines.special_tokens_template import SpecialTokensTemplate

Item = TypeVar("Item")

ADDED = -1
"""The text that a special token or padding put around texts belongs to."""


class Segmented:
    """One text's ids, before special tokens; or some of them in a row."""

    __slots__ = ("_places", "_start", "ids")

    def __init__(self, ids: list[int], places: Places | None = None, start: int = 0) -> None:
        self.ids = ids
        self._places = places
        self._start = start

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, end: int) -> Segmented:
        return Segmented(self.ids[start:end], self._places, self._start + start)

    def offsets(self) -> list[Offset]:
        """The (start, end) characters of each id; (0, 0) where the ids did not come from a text."""
        if self._places is None:
            return [(0, 0)] * len(self.ids)
        return self._places.offsets()[self._start : self._start + len(self.ids)]

    def words(self) -> list[int | None]:
        """The word of each id; None where the ids did not come from a text."""
        if self._places is None:
            return [None] * len(self.ids)
        return self._places.words()[self._start : self._start + len(self.ids)]


class Row:
    """One row of ids, with everything a caller may ask for about each of them.

    The names are those of ``tokenizers.Encoding``, whichever library segments.
    """

    def __init__(self, parts: Sequence[Segmented], name_of: Callable[[int], str], sample: int) -> None:
        self._parts = parts
        self._name_of: Callable[[int], str] | None = name_of
        self._tokens: list[str] | None = None
        self.sample = sample
        self.ids: list[int] = []
        self.type_ids: list[int] = []
        self.special_tokens_mask: list[int] = []
        self.attention_mask: list[int] = []
        self.text_ids: list[int] = []  # 0 or 1: of the text or its pair; ADDED for tokens put around them

    @classmethod
    def build(
        cls, template: SpecialTokensTemplate, parts: Sequence[Segmented], name_of: Callable[[int], str], sample: int = 0
    ) -> Row:
        """Put the special tokens of ``template`` around one or two texts."""
        row = cls(parts, name_of, sample)
        for part, type_id in template.steps(len(parts) == 2):
            special = isinstance(part, tuple)
            ids = list(part) if isinstance(part, tuple) else parts[part].ids
            row.ids += ids
            row.type_ids += [type_id] * len(ids)
            row.special_tokens_mask += [int(special)] * len(ids)
            row.text_ids += [ADDED if isinstance(part, tuple) else part] * len(ids)
        row.attention_mask = [1] * len(row.ids)
        return row

    def pad(self, length: int, pad_id: int, side: str) -> None:
        """Fill up to ``length`` in place."""
        missing = length - len(self.ids)
        if missing <= 0:
            return
        self._tokens = None
        fills = ((self.ids, pad_id), (self.attention_mask, 0), (self.type_ids, 0))
        for values, fill in (*fills, (self.special_tokens_mask, 1), (self.text_ids, ADDED)):
            place = 0 if side == "left" else len(values)
            values[place:place] = [fill] * missing

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Row(num_tokens={len(self)}, n_sequences={self.n_sequences})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_name_of": None, "_tokens": self.tokens}

    # -- each id

    @property
    def n_sequences(self) -> int:
        """1 for a text, 2 for a pair."""
        return len(self._parts)

    @property
    def tokens(self) -> list[str]:
        """The tokens as the vocabulary writes them."""
        if self._tokens is None:
            assert self._name_of is not None  # a row out of a pickle has its tokens
            self._tokens = [self._name_of(token_id) for token_id in self.ids]
        return self._tokens

    @property
    def offsets(self) -> list[Offset]:
        """The (start, end) characters of each id within its text; (0, 0) for those put around it."""
        return self._of_texts([part.offsets() for part in self._parts], (0, 0))

    @property
    def word_ids(self) -> list[int | None]:
        """The word of each id within its text; None for those put around it."""
        return self._of_texts([part.words() for part in self._parts], None)

    words = word_ids

    @property
    def sequence_ids(self) -> list[int | None]:
        """0 for ids of the text, 1 for those of its pair, None for those put around them."""
        return [None if text == ADDED else text for text in self.text_ids]

    def _of_texts(self, values: Sequence[Iterable[Any]], otherwise: Any) -> list[Any]:
        following = [iter(of_text) for of_text in values]
        return [otherwise if text == ADDED else next(following[text]) for text in self.text_ids]

    # -- from one to the other; None where there is no such thing

    def token_to_sequence(self, token_index: int) -> int | None:
        """The text, 0 or 1, that a token came from."""
        return _at(self.sequence_ids, token_index)

    def token_to_chars(self, token_index: int) -> Offset | None:
        """The (start, end) characters of a token within its text."""
        return None if self.token_to_sequence(token_index) is None else _at(self.offsets, token_index)

    def token_to_word(self, token_index: int) -> int | None:
        """The word of a token within its text."""
        return _at(self.word_ids, token_index)

    def char_to_token(self, char_index: int, sequence_index: int = 0) -> int | None:
        """The first token that holds a character of a text."""
        for index, ((start, end), text) in enumerate(zip(self.offsets, self.text_ids, strict=True)):
            if text == sequence_index and start <= char_index < end:
                return index
        return None

    def char_to_word(self, char_index: int, sequence_index: int = 0) -> int | None:
        """The word that holds a character of a text."""
        token = self.char_to_token(char_index, sequence_index)
        return None if token is None else self.token_to_word(token)

    def word_to_tokens(self, word_index: int, sequence_index: int = 0) -> tuple[int, int] | None:
        """The (start, end) tokens of a word of a text."""
        found = [
            index
            for index, (word, text) in enumerate(zip(self.word_ids, self.text_ids, strict=True))
            if text == sequence_index and word == word_index
        ]
        return (found[0], found[-1] + 1) if found else None

    def word_to_chars(self, word_index: int, sequence_index: int = 0) -> Offset | None:
        """The (start, end) characters of a word of a text."""
        tokens = self.word_to_tokens(word_index, sequence_index)
        if tokens is None:
            return None
        offsets = self.offsets
        return offsets[tokens[0]][0], offsets[tokens[1] - 1][1]


def _at(values: Sequence[Item], index: int) -> Item | None:
    index += len(values) if index < 0 else 0
    return values[index] if 0 <= index < len(values) else None
