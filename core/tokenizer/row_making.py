"""Rows for a model, of ids: lengths, special tokens around sequences, padding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..arguments import checked_methods
from ..errors import TokenizerError, warn
from .batch_encoding import BatchEncoding
from .behaviour import Behaviour, checked_side
from .declared import SpecialTokens
from .engines.engine import Engine
from .engines.special_tokens_template import SpecialTokensTemplate
from .lengths import NO_LIMIT, Lengths, positive
from .padding import Columns
from .rows import Row, Segmented
from .truncation import Truncation
from .vocabulary import Vocabulary


@checked_methods
class RowMaking(Vocabulary):
    """The part of a tokenizer that makes rows for a model of ids."""

    model_input_names = ("input_ids", "attention_mask")
    pad_token_type_id = 0

    def __init__(self, engine: Engine, special: SpecialTokens, behaviour: Behaviour, *, source: str) -> None:
        super().__init__(engine, special, source=source)
        for name, value in (("padding_side", behaviour.padding_side), ("truncation_side", behaviour.truncation_side)):
            checked_side(value, f"{source}: {name}")
        self.clean_up_tokenization_spaces = behaviour.clean_up_tokenization_spaces
        self.spaces_between_special_tokens = behaviour.spaces_between_special_tokens
        self.use_default_system_prompt = behaviour.use_default_system_prompt
        self.split_special_tokens = behaviour.split_special_tokens
        self.model_max_length = NO_LIMIT if behaviour.model_max_length is None else behaviour.model_max_length
        self.padding_side = behaviour.padding_side
        self.truncation_side = behaviour.truncation_side
        self.chat_template = behaviour.chat_template
        self.name_or_path = behaviour.name_or_path
        self.init_kwargs = behaviour.kept
        self._clean_up_unheeded = behaviour.clean_up_unheeded
        self._said: set[str] = set()

    @property
    def max_len_single_sentence(self) -> int:
        """Most ids of a text beside its special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add()

    @property
    def max_len_sentences_pair(self) -> int:
        """Most ids of a pair of texts beside their special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    # -- lengths and padding

    def _lengths(self, padding: object, truncation: object, max_length: int | None, *, verbose: bool = True) -> Lengths:
        def say(message: str) -> None:
            if verbose and message not in self._said:
                self._said.add(message)
                warn(message)

        found = Lengths.asked(padding, truncation, max_length, self.model_max_length, source=self.source, say=say)
        if found.padding != "do_not_pad" and self.pad_token_id is None:
            raise TokenizerError(
                "there is no pad token to pad with",
                hint="pass pad_token=... when loading or set tokenizer.pad_token (unk_token or eos_token is common; "
                "the attention mask tells them apart)",
            )
        return found

    @staticmethod
    def _padded_length(lengths: Lengths, longest: int, multiple: int | None) -> int:
        length = lengths.limit if lengths.padding == "max_length" and lengths.limit is not None else longest
        return length if multiple is None else -(-length // positive(multiple, "pad_to_multiple_of")) * multiple

    def _rows(
        self,
        samples: Iterable[list[Segmented]],
        lengths: Lengths,
        *,
        add_special_tokens: bool,
        stride: int = 0,
        overflow: bool = False,
        truncation_side: str | None = None,
        padding_side: str | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> list[Row]:
        """The rows of texts, each a text or a pair of two: cut, between special tokens, padded."""
        template = self.template() if add_special_tokens else SpecialTokensTemplate.around([], [])
        cut_at = checked_side(truncation_side or self.truncation_side, "truncation_side")
        cut = Truncation(lengths.truncation, lengths.limit, cut_at, stride, overflow)
        pad_at = checked_side(padding_side or self.padding_side, "padding_side")
        rows = [
            Row.build(template, window, self._name_of, sample)
            for sample, parts in enumerate(samples)
            for window in cut.windows(parts, template)
        ]
        if lengths.padding != "do_not_pad" and rows and self.pad_token_id is not None:
            length = self._padded_length(lengths, max(map(len, rows)), pad_to_multiple_of)
            for row in rows:
                row.pad(length, self.pad_token_id, pad_at)
        return rows

    def _name_of(self, token_id: int) -> str:
        return self.convert_ids_to_tokens(token_id)

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str | None = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad rows that were encoded before: a mapping of rows or of one row, or a list of mappings of one row each.

        Pads ``input_ids``, ``attention_mask``, ``token_type_ids`` and ``special_tokens_mask``; other columns, such as
        ``labels``, stay as they are. Arrays come back as arrays of their framework, on its default device.

        Errors: TokenizerError for columns that do not belong together, or that fit into no array.
        """
        columns = Columns.read(encoded_inputs)
        lengths = self._lengths(padding, False, max_length, verbose=verbose)
        side = checked_side(padding_side or self.padding_side, "padding_side")
        if return_attention_mask is None or return_attention_mask:
            columns.add_mask()
        if lengths.padding != "do_not_pad" and columns.rows["input_ids"] and self.pad_token_id is not None:
            length = self._padded_length(lengths, columns.longest(), pad_to_multiple_of)
            columns.pad(length, self.pad_token_id, side)
        return BatchEncoding(
            columns.collected(), tensor_type=columns.kind if return_tensors is None else return_tensors
        )

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
            return [int(int(token_id) in special) for token_id in token_ids_0]
        return self._built_row(token_ids_0, token_ids_1).special_tokens_mask

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """0 for the first sequence with its special tokens, 1 for the second with its own."""
        return self._built_row(token_ids_0, token_ids_1).type_ids

    def _built_row(self, first: Sequence[int], second: Sequence[int] | None) -> Row:
        parts = [Segmented(list(ids)) for ids in (first, second) if ids is not None]
        return Row.build(self.template(), parts, self._name_of)
