"""Text to ids: one text, pairs and batches, with special tokens, truncation and padding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import TokenizerError
from ..messages import mention
from .batching import (
    PADDINGS,
    TRUNCATIONS,
    BatchEncoding,
    Row,
    Segmented,
    Truncation,
    choose,
    pad_rows,
    positive,
    rows_to_pad,
    to_numpy,
)
from .behaviour import Behaviour, checked_side
from .declared import SpecialTokens
from .engines.added_tokens import check_encodable
from .engines.engine import Engine
from .engines.template import SpecialTokensTemplate
from .vocabulary import Vocabulary


class Encoding(Vocabulary):
    """The part of a tokenizer that makes ids of texts, and rows for a model of ids."""

    def __init__(self, engine: Engine, special: SpecialTokens, behaviour: Behaviour, *, source: str) -> None:
        super().__init__(engine, special, source=source)
        for name, value in (("padding_side", behaviour.padding_side), ("truncation_side", behaviour.truncation_side)):
            checked_side(value, f"{source}: {name}")
        self.clean_up_tokenization_spaces = behaviour.clean_up_tokenization_spaces
        self.spaces_between_special_tokens = behaviour.spaces_between_special_tokens
        self.use_default_system_prompt = behaviour.use_default_system_prompt
        self.split_special_tokens = behaviour.split_special_tokens
        self.model_max_length = behaviour.model_max_length
        self.padding_side = behaviour.padding_side
        self.truncation_side = behaviour.truncation_side
        self.chat_template = behaviour.chat_template
        self._clean_up_unheeded = behaviour.clean_up_unheeded
        self._kept = behaviour.kept

    # -- encoding

    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        *,
        text_pair: str | None = None,
        split_special_tokens: bool | None = None,
        padding: bool | str | None = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        padding_side: str | None = None,
        truncation_side: str | None = None,
    ) -> list[int]:
        """The ids of a text, between its special tokens.

        Special tokens written out in the text become their ids, unless ``split_special_tokens``.

        Errors: TokenizerError for a lone surrogate, or a length that cannot be reached.
        """
        if not isinstance(add_special_tokens, bool):
            raise TokenizerError(
                f"encode: add_special_tokens must be true or false, got {add_special_tokens!r:.80}",
                hint="pass the second text as text_pair=...",
            )
        if text_pair is None and not padding and not truncation and max_length is None:
            ids = self._segment(text, split_special_tokens, with_offsets=False).ids
            return self.build_inputs_with_special_tokens(ids) if add_special_tokens else ids
        encoded = self(
            text,
            text_pair,
            add_special_tokens=add_special_tokens,
            split_special_tokens=split_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            padding_side=padding_side,
            truncation_side=truncation_side,
        )
        return list(encoded["input_ids"])

    def batch_encode(self, texts: Iterable[str], add_special_tokens: bool = True, **options: Any) -> list[list[int]]:
        """``encode`` of each text, not padded."""
        if isinstance(texts, str):
            raise TokenizerError("batch_encode takes a list of texts, got one text", hint="use encode(text)")
        return [self.encode(text, add_special_tokens, **options) for text in texts]

    def tokenize(
        self, text: str, *, add_special_tokens: bool = False, split_special_tokens: bool | None = None
    ) -> list[str]:
        """The tokens of a text, as the vocabulary writes them."""
        return self.convert_ids_to_tokens(
            self.encode(text, add_special_tokens, split_special_tokens=split_special_tokens)
        )

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str | None = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        truncation_side: str | None = None,
        split_special_tokens: bool | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool = True,
        return_token_type_ids: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_sequence_ids: bool = False,
        return_overflowing_tokens: bool = False,
        return_length: bool = False,
    ) -> BatchEncoding:
        """Rows for a model: ``input_ids`` and what else is asked for; one text gives flat lists, a list gives rows.

        ``padding``: True or "longest" (to the longest row), "max_length". ``truncation``: True or "longest_first",
        "only_first", "only_second"; ``max_length`` counts special tokens. ``return_offsets_mapping``: per id the
        (start, end) characters of its text, (0, 0) for special tokens that were added. ``return_sequence_ids``: 0 for
        ids of the text, 1 for those of its pair, -1 for special tokens that were added. ``return_overflowing_tokens``:
        what truncation cuts off follows as further rows that share ``stride`` ids, with ``overflow_to_sample_mapping``.
        ``return_tensors="np"``: int64 arrays, ``[rows, length]``, one row for one text.

        Errors: TokenizerError for padding without a pad token, unreachable lengths, ragged arrays, wrong types.
        """
        pairs = _pairs(text, text_pair)
        _check_stride(stride)
        strategy = choose(truncation, "truncation", TRUNCATIONS, "longest_first", "do_not_truncate")
        pad = choose(padding, "padding", PADDINGS, "longest", "do_not_pad")
        limit = self._limit(max_length, strategy, pad)
        template = self.template() if add_special_tokens else SpecialTokensTemplate.around([], [])
        cut_at = checked_side(truncation_side or self.truncation_side, "truncation_side")
        cut = Truncation(strategy, limit, cut_at, stride, return_overflowing_tokens)
        rows: list[Row] = []
        for sample, texts in enumerate(pairs):
            parts = [self._segment(part, split_special_tokens, with_offsets=return_offsets_mapping) for part in texts]
            rows += [Row.build(template, window, sample) for window in cut.windows(parts, template)]
        self._pad(rows, pad, limit, pad_to_multiple_of, padding_side)
        wanted = {
            "input_ids": True,
            "attention_mask": return_attention_mask,
            "token_type_ids": return_token_type_ids,
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
            "sequence_ids": return_sequence_ids,
        }
        columns = _columns(rows, (name for name in wanted if wanted[name]))
        if return_length:
            columns["length"] = [len(row.input_ids) for row in rows]
        if return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = [row.sample for row in rows]
        return _collected(columns, isinstance(text, str) and not return_overflowing_tokens, return_tensors)

    def _segment(self, text: str, split_special: bool | None, *, with_offsets: bool) -> Segmented:
        if not isinstance(text, str):
            raise TokenizerError(
                f"text must be a str, got {type(text).__name__}",
                hint="decode bytes first; a list of texts goes to tokenizer([...])",
            )
        check_encodable(text)
        split = self.split_special_tokens if split_special is None else split_special
        encoded = self._engine.encode(text, split_special=split, with_offsets=with_offsets)
        if not with_offsets:
            return Segmented(encoded.ids, [(0, 0)] * len(encoded.ids))
        return Segmented(encoded.ids, encoded.offsets or [])

    def _limit(self, max_length: int | None, strategy: str, pad: str) -> int | None:
        needed = strategy != "do_not_truncate" or pad == "max_length"
        if max_length is not None:
            if not needed:
                raise TokenizerError(
                    "max_length does nothing without truncation or padding='max_length'",
                    hint="pass " + mention("truncation", True),
                )
            return positive(max_length, "max_length")
        if needed and self.model_max_length is None:
            raise TokenizerError(
                f"truncation or padding='max_length' needs max_length: {self.source} states none",
                hint="pass max_length=...",
            )
        return self.model_max_length if needed else None

    def _pad(self, rows: list[Row], pad: str, limit: int | None, multiple: int | None, side: str | None) -> None:
        chosen = checked_side(side or self.padding_side, "padding_side")
        if pad == "do_not_pad" or not rows:
            return
        if self.pad_token_id is None:
            raise TokenizerError(
                "there is no pad token to pad with",
                hint="pass pad_token=... when loading or set tokenizer.pad_token (unk_token or eos_token is common; "
                "the attention mask tells them apart)",
            )
        longest = max(len(row.input_ids) for row in rows)
        length = limit if pad == "max_length" and limit is not None else longest
        if multiple is not None:
            length = -(-length // positive(multiple, "pad_to_multiple_of")) * multiple
        pad_rows(rows, length, self.pad_token_id, chosen)

    def pad(
        self,
        encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        *,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pad rows that were encoded before: a mapping of rows, or a list of mappings of one row each.

        Pads ``input_ids``, ``attention_mask``, ``token_type_ids`` and ``special_tokens_mask``; other keys are an error.
        """
        rows, keys = rows_to_pad(encoded)
        chosen = choose(padding, "padding", PADDINGS, "longest", "do_not_pad")
        limit = self._limit(max_length, "do_not_truncate", chosen)
        self._pad(rows, chosen, limit, pad_to_multiple_of, padding_side)
        columns = _columns(rows, dict.fromkeys([*keys, "attention_mask"]))
        return _collected(columns, False, return_tensors)

    # -- special tokens around sequences

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """One sequence or a pair between its special tokens."""
        return self.template().build(token_ids_0, token_ids_1)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens ``build_inputs_with_special_tokens`` adds."""
        return self.template().num_added(pair)

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for special tokens, 0 for others: of the built sequence, or of ``token_ids_0`` as it is."""
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise TokenizerError("already_has_special_tokens takes one list of ids, got two")
            special = set(self.all_special_ids)
            return [int(token_id in special) for token_id in token_ids_0]
        return self._built_row(token_ids_0, token_ids_1).special_tokens_mask

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """0 for the first sequence with its special tokens, 1 for the second with its own."""
        return self._built_row(token_ids_0, token_ids_1).token_type_ids

    def _built_row(self, first: Sequence[int], second: Sequence[int] | None) -> Row:
        parts = [Segmented(list(ids), [(0, 0)] * len(ids)) for ids in (first, second) if ids is not None]
        return Row.build(self.template(), parts, 0)


def _pairs(text: object, text_pair: object) -> list[tuple[str, ...]]:
    """The samples, each of one or two texts."""
    if isinstance(text, str):
        if text_pair is not None and not isinstance(text_pair, str):
            raise TokenizerError("text is one text, so text_pair must be one too")
        return [(text,)] if text_pair is None else [(text, text_pair)]
    if not isinstance(text, Sequence) or isinstance(text, bytes):
        raise TokenizerError(f"text must be a str or a list of them, got {type(text).__name__}")
    if text_pair is None:
        return [(one,) for one in text]
    if isinstance(text_pair, str) or not isinstance(text_pair, Sequence) or len(text_pair) != len(text):
        raise TokenizerError(f"text has {len(text)} texts, so text_pair must be a list of as many")
    return list(zip(text, text_pair, strict=True))


def _check_stride(stride: object) -> None:
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 0:
        raise TokenizerError(f"stride must be 0 or a positive integer, got {stride!r:.80}")


def _columns(rows: Sequence[Row], names: Iterable[str]) -> dict[str, list[Any]]:
    return {name: [getattr(row, name) for row in rows] for name in names}


def _collected(columns: Mapping[str, list[Any]], single: bool, return_tensors: str | None) -> BatchEncoding:
    if return_tensors not in (None, "np"):
        raise TokenizerError(
            f"return_tensors={return_tensors!r:.40} is not offered",
            hint="'np' gives NumPy arrays, which every framework takes",
        )
    if return_tensors == "np":  # one row or many, arrays are [rows, length]
        return BatchEncoding(to_numpy(columns))
    return BatchEncoding({name: values[0] if single else values for name, values in columns.items()})
