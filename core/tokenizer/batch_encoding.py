"""What a tokenizer returns: columns of rows, and the way from their ids to the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeVar, overload

from ..array_kinds import kind_among, kind_named, kind_of, to_kind
from ..errors import InputError, TokenizerError
from ..messages import counted
from ..public import public
from .arrays import array_of
from .rows import Row


class CharSpan(NamedTuple):
    """Characters of a text, from `start` up to and without `end`."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens of a row, from `start` up to and without `end`."""

    start: int
    end: int


Span = TypeVar("Span", CharSpan, TokenSpan)


@public
class BatchEncoding(dict[str, Any]):
    """A dictionary of columns (``input_ids``, ``attention_mask``, ...) whose keys are attributes too.

    An index gives a row's tokens, offsets and words (``batch[0].offsets``), a slice the same rows of every column. The
    methods that go from tokens to characters and words take a row's index first, which may be left out for one row.
    Offsets are characters of the text, or of a text's word where it was given in words.

    >>> from polyllama import AutoTokenizer
    >>> batch = AutoTokenizer.from_pretrained("tiny")("Once upon a time")
    >>> batch.tokens(), batch.char_to_token(5), batch.token_to_chars(2)
    (['<s>', '▁Once', '▁upon', '▁a', '▁time'], 2, CharSpan(start=4, end=9))

    Args:
        data: the columns.
        encoding: what is known of the rows, such as another batch's ``encodings``.
        tensor_type: ``"pt"``, ``"np"``, ``"jax"`` or ``"mlx"``: make arrays of the columns.
        prepend_batch_axis: the columns are those of one row; make arrays of one row of them.
        n_sequences: 1 for texts, 2 for pairs; told by the rows where they are known.
        columns: more columns by name.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encoding: Row | Sequence[Row] | None = None,
        tensor_type: Any = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
        **columns: Any,
    ) -> None:
        try:
            super().__init__({} if data is None else data, **columns)
        except (TypeError, ValueError):
            raise InputError(
                f"BatchEncoding({data!r:.40}) is made of no columns by name",
                hint="give {'input_ids': [[1, 2]]}; a tokenizer makes one of texts",
            ) from None
        self._encodings: list[Row] | None = (
            None if encoding is None else [encoding] if isinstance(encoding, Row) else list(encoding)
        )
        self._n_sequences = n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    @overload
    def __getitem__(self, key: str) -> Any: ...
    @overload
    def __getitem__(self, key: int) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> dict[str, Any]: ...
    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, slice):
            return {name: values[key] for name, values in self.items()}
        if isinstance(key, int):
            return self._row(key)
        return super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"no {name!r} here; there are {', '.join(self) or 'no keys'}")
        return self[name]

    def copy(self) -> BatchEncoding:
        """A batch of the same columns, to which others can be added."""
        return BatchEncoding(self, self._encodings, n_sequences=self._n_sequences)

    @property
    def data(self) -> dict[str, Any]:
        """The columns, which are the batch itself."""
        return self

    @data.setter
    def data(self, columns: Mapping[str, Any]) -> None:
        kept = dict(columns)
        self.clear()
        self.update(kept)

    # -- arrays

    def convert_to_tensors(self, tensor_type: Any = None, prepend_batch_axis: bool = False) -> Self:
        """Make arrays of the columns, in place.

        Args:
            tensor_type: ``"pt"``, ``"np"``, ``"jax"`` or ``"mlx"``; None leaves them as they are.
            prepend_batch_axis: put the columns into one row.

        Raises:
            TokenizerError: rows of different lengths, or a column that is no numbers.
        """
        if tensor_type is not None:
            kind = kind_named(tensor_type)
            for name, values in self.items():
                self[name] = array_of(name, [values] if prepend_batch_axis else values, kind)
        return self

    def to(self, device: Any, *, non_blocking: bool = False) -> Self:
        """Move the arrays of torch or JAX to a device, in place; returns the batch.

        NumPy's arrays are on the CPU and MLX's everywhere, so they stay. What is no array stays too.

        Args:
            device: ``"cuda"``, ``"cpu"``, a number, or an object of the framework; or ``model.device``. Where that is
                another framework's and torch has none of its name (``"gpu"``, ``"tpu"``), arrays stay where they are:
                the model fetches them, and gives its own back there.
            non_blocking: whether torch may go on before the copy is done.

        Raises:
            InputError: there are lists, which have no device; or the device is none.
        """
        kind = kind_among(self.values())
        if kind is None and self:
            raise InputError(
                f"to({device!r:.40}): the batch holds lists, which are on no device",
                hint="call the tokenizer with return_tensors='pt' (or 'np', 'jax', 'mlx')",
            )
        if not isinstance(device, str | int) and "dtype" in type(device).__name__.lower():
            raise InputError(f"to({device!r:.40}): that is a type, and ids have their own", hint="give a device")
        if kind == "numpy" and str(device).partition(":")[0] != "cpu" and not _is_elsewhere(device):
            raise InputError(
                f"to({device!r:.40}): the batch holds NumPy arrays, which are on the CPU",
                hint="call the tokenizer with return_tensors='pt' or 'jax'",
            )
        for name, values in self.items():
            if kind_of(values) == "torch":
                if not _is_elsewhere(device):
                    self[name] = values.to(device, non_blocking=non_blocking)
            elif kind_of(values) == "jax":
                self[name] = to_kind(values, "jax", device)
        return self

    # -- what is known of the rows

    @property
    def encodings(self) -> list[Row] | None:
        """What is known of each row; None for a batch that was put together from columns."""
        return self._encodings

    @property
    def is_fast(self) -> bool:
        """Whether tokens, characters and words of the rows are known."""
        return self._encodings is not None

    @property
    def n_sequences(self) -> int | None:
        """1 for rows of a text, 2 for those of a pair; None where that is not known."""
        if self._n_sequences is None and self._encodings:
            return self._encodings[0].n_sequences
        return self._n_sequences

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row, as the vocabulary writes them."""
        return self._row(batch_index).tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """0 for ids of the text, 1 for those of its pair, None for special tokens and padding around them."""
        return self._row(batch_index).sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """The word of each id, as its text was given or is split before segmentation; None for what is around it."""
        return self._row(batch_index).word_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The text, 0 or 1, that a token came from."""
        row, token = self._row_and_index(batch_or_token_index, token_index)
        return row.token_to_sequence(token)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The word of a token; None for a special token."""
        row, token = self._row_and_index(batch_or_token_index, token_index)
        return row.token_to_word(token)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters of a token; None for a special token that was added."""
        row, token = self._row_and_index(batch_or_token_index, token_index)
        return _span(CharSpan, row.token_to_chars(token))

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that holds a character of a text (`sequence_index` 1: of its pair); None where none does."""
        row, char = self._row_and_index(batch_or_char_index, char_index)
        return row.char_to_token(char, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word that holds a character of a text; None where none does."""
        row, char = self._row_and_index(batch_or_char_index, char_index)
        return row.char_to_word(char, sequence_index)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word; None where there are none."""
        row, word = self._row_and_index(batch_or_word_index, word_index)
        return _span(TokenSpan, row.word_to_tokens(word, sequence_index))

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word; None where there is no such word."""
        row, word = self._row_and_index(batch_or_word_index, word_index)
        return _span(CharSpan, row.word_to_chars(word, sequence_index))

    def _row_and_index(self, first: int, second: int | None) -> tuple[Row, int]:
        """The row and the index in it, where the row may have been left out."""
        return (self._row(0), first) if second is None else (self._row(first), second)

    def _row(self, index: int) -> Row:
        if self._encodings is None:
            raise TokenizerError(
                "nothing is known of the texts of this batch, which was put together from columns",
                hint="ask the batch that the tokenizer returned",
            )
        if not -len(self._encodings) <= index < len(self._encodings):
            raise TokenizerError(f"there is no row {index}: the batch has {counted(len(self._encodings), 'row')}")
        return self._encodings[index]


def _span(kind: type[Span], found: tuple[int, int] | None) -> Span | None:
    return None if found is None else kind(*found)


def _is_elsewhere(device: Any) -> bool:
    """Whether it names a device of MLX's or JAX's that torch has no word for."""
    return isinstance(device, str) and device.partition(":")[0] in ("gpu", "tpu")
