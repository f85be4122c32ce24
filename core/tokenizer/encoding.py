"""Text to ids: one text, pairs and batches, with special tokens, truncation and padding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from ..arguments import checked_methods
from ..errors import TokenizerError
from .batch_encoding import BatchEncoding
from .engines.added_tokens import check_encodable
from .engines.places import WordPlaces
from .row_making import RowMaking
from .rows import Segmented
from .texts import Samples, Text

COLUMNS = {
    "input_ids": "ids",
    "token_type_ids": "type_ids",
    "attention_mask": "attention_mask",
    "special_tokens_mask": "special_tokens_mask",
    "offset_mapping": "offsets",
    "sequence_ids": "text_ids",
}
"""Columns of a batch, and what they are called in a row."""


@dataclass(frozen=True)
class CallOptions:
    """What a call of a tokenizer says beside the texts; see there."""

    add_special_tokens: bool
    padding: bool | str | None
    truncation: bool | str | None
    max_length: int | None
    stride: int
    is_split_into_words: bool
    pad_to_multiple_of: int | None
    padding_side: str | None
    return_tensors: Any
    return_token_type_ids: bool | None
    return_attention_mask: bool | None
    return_overflowing_tokens: bool
    return_special_tokens_mask: bool
    return_offsets_mapping: bool
    return_length: bool
    verbose: bool
    return_sequence_ids: bool
    split_special_tokens: bool | None
    truncation_side: str | None

    @property
    def columns(self) -> list[str]:
        """The columns that are asked for, of :data:`COLUMNS`."""
        wanted = {
            "input_ids": True,
            "token_type_ids": self.return_token_type_ids,
            "attention_mask": self.return_attention_mask is None or self.return_attention_mask,
            "special_tokens_mask": self.return_special_tokens_mask,
            "offset_mapping": self.return_offsets_mapping,
            "sequence_ids": self.return_sequence_ids,
        }
        return [name for name, is_wanted in wanted.items() if is_wanted]


@checked_methods
class Encoding(RowMaking):
    """The part of a tokenizer that makes ids of texts."""

    def encode(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str | None = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        padding_side: str | None = None,
        return_tensors: Any = None,
        **options: Any,
    ) -> Any:
        """The ids of a text, between its special tokens.

        Special tokens written out in the text become their ids, unless ``split_special_tokens``. A list of texts gives
        a list of lists, ``return_tensors`` an array of a row for each text. Other options are those of a call.

        Errors: TokenizerError for a lone surrogate, or a length that cannot be reached.
        """
        if not isinstance(add_special_tokens, bool):
            raise TokenizerError(
                f"encode: add_special_tokens must be true or false, got {add_special_tokens!r:.80}",
                hint="pass the second text as text_pair=...",
            )
        if isinstance(text_pair, bool):
            raise TokenizerError(
                f"encode: text_pair is {text_pair}, which is no text", hint=f"pass add_special_tokens={text_pair}"
            )
        plain = text_pair is None and not padding and not truncation and max_length is None and return_tensors is None
        if plain and isinstance(text, str) and options.keys() <= {"split_special_tokens"}:
            ids = self._segment(text, options.get("split_special_tokens")).ids
            return self.build_inputs_with_special_tokens(ids) if add_special_tokens else ids
        encoded = self(
            text,
            text_pair,
            add_special_tokens=add_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=stride,
            padding_side=padding_side,
            return_tensors=return_tensors,
            **options,
        )
        return encoded["input_ids"]

    def batch_encode(self, texts: Iterable[str], add_special_tokens: bool = True, **options: Any) -> list[list[int]]:
        """``encode`` of each text, not padded."""
        if isinstance(texts, str):
            raise TokenizerError("batch_encode takes a list of texts, got one text", hint="use encode(text)")
        return [self.encode(text, add_special_tokens=add_special_tokens, **options) for text in texts]

    def tokenize(
        self,
        text: str,
        pair: str | None = None,
        add_special_tokens: bool = False,
        *,
        split_special_tokens: bool | None = None,
    ) -> list[str]:
        """The tokens of a text, or of two one after the other, as the vocabulary writes them."""
        ids: list[int] = self.encode(
            text, pair, add_special_tokens=add_special_tokens, split_special_tokens=split_special_tokens
        )
        return self.convert_ids_to_tokens(ids)

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str | None = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        *,
        max_target_length: int | None = None,
        return_sequence_ids: bool = False,
        split_special_tokens: bool | None = None,
        truncation_side: str | None = None,
    ) -> BatchEncoding:
        """Rows for a model: ``input_ids`` and what else is asked for; one text gives flat lists, a list gives rows.

        ``padding``: True or "longest" (to the longest row), "max_length". ``truncation``: True or "longest_first",
        "only_first", "only_second"; ``max_length`` counts special tokens, and alone it cuts too.
        ``is_split_into_words``: texts are lists of words, each segmented by itself. ``return_offsets_mapping``: per id
        the (start, end) characters of its text, (0, 0) for special tokens that were added. ``return_sequence_ids``: 0
        for ids of the text, 1 for those of its pair, -1 for special tokens that were added.
        ``return_overflowing_tokens``: what truncation cuts off follows as further rows that share ``stride`` ids, with
        ``overflow_to_sample_mapping``. ``text_target``: the ids of these texts, of at most ``max_target_length``, are
        ``labels``. ``return_tensors``: "pt", "np", "jax" or "mlx" for arrays ``[rows, length]``, one row for one text.

        Errors: TokenizerError for padding without a pad token, unreachable lengths, ragged arrays, wrong types.
        """
        given = locals()  # first of all, while it is the arguments
        if text is None and text_target is None:
            raise TokenizerError("the call needs a text", hint="pass text=... or text_target=...")
        asked = CallOptions(**{field.name: given[field.name] for field in fields(CallOptions)})
        targets = replace(asked, max_length=max_target_length or max_length)
        if text is None:
            return self._encoded(text_target, text_pair_target, targets)
        found = self._encoded(text, text_pair, asked)
        if text_target is not None:
            found["labels"] = self._encoded(text_target, text_pair_target, targets)["input_ids"]
        return found

    def _encoded(self, text: Any, text_pair: Any, asked: CallOptions) -> BatchEncoding:
        _check_stride(asked.stride)
        samples = Samples.read(text, text_pair, in_words=asked.is_split_into_words)
        lengths = self._lengths(asked.padding, asked.truncation, asked.max_length, verbose=asked.verbose)
        rows = self._rows(
            [[self._segment(part, asked.split_special_tokens) for part in parts] for parts in samples.parts],
            lengths,
            add_special_tokens=asked.add_special_tokens,
            stride=asked.stride,
            overflow=asked.return_overflowing_tokens,
            truncation_side=asked.truncation_side,
            padding_side=asked.padding_side,
            pad_to_multiple_of=asked.pad_to_multiple_of,
        )
        columns: dict[str, list[Any]] = {name: [getattr(row, COLUMNS[name]) for row in rows] for name in asked.columns}
        if asked.return_length:
            columns["length"] = [len(row) for row in rows]
        if asked.return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = [row.sample for row in rows]
        elif samples.single and asked.return_tensors is None:
            return BatchEncoding({name: values[0] for name, values in columns.items()}, rows)
        return BatchEncoding(columns, rows, asked.return_tensors)

    def _segment(self, text: Text, split_special: bool | None) -> Segmented:
        split = self.split_special_tokens if split_special is None else split_special
        if isinstance(text, list | tuple):
            words = [self._engine.encode(_checked_text(word), split_special=split) for word in text]
            places = WordPlaces([(len(word.ids), word.places) for word in words])
            return Segmented([token_id for word in words for token_id in word.ids], places)
        encoded = self._engine.encode(_checked_text(text), split_special=split)
        return Segmented(encoded.ids, encoded.places)


def _checked_text(text: object) -> str:
    if not isinstance(text, str):
        raise TokenizerError(
            f"text must be a str, got {type(text).__name__}",
            hint="decode bytes first; a list of texts goes to tokenizer([...])",
        )
    check_encodable(text)
    return text


def _check_stride(stride: object) -> None:
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 0:
        raise TokenizerError(f"stride must be 0 or a positive integer, got {stride!r:.80}")
