"""Methods that the documents of transformers 4 name, beside the call that does the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arguments import checked_methods
from ..errors import TokenizerError
from .batch_encoding import BatchEncoding
from .encoding import Encoding
from .engines.special_tokens_template import SpecialTokensTemplate
from .rows import Segmented
from .vocabulary import as_ids


@checked_methods
class EncodePlus(Encoding):
    """The part of a tokenizer that answers to the names of earlier editions."""

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """The call, of one text, of its words (``is_split_into_words``), or of ids; options are the call's."""
        if isinstance(text, list | tuple) and not options.get("is_split_into_words"):
            return self.prepare_for_model(text, text_pair, **options)
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Sequence[Any], **options: Any) -> BatchEncoding:
        """The call, of a list of texts, or of pairs of texts; options are the call's."""
        if isinstance(batch_text_or_text_pairs, str):
            raise TokenizerError("batch_encode_plus takes a list of texts, got one text", hint="use encode_plus")
        return self(list(batch_text_or_text_pairs), **options)

    def prepare_for_model(
        self,
        ids: Sequence[int],
        pair_ids: Sequence[int] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str | None = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        prepend_batch_axis: bool = False,
    ) -> BatchEncoding:
        """The row of one text's ids, or of a pair's: special tokens, truncation and padding as in a call.

        ``return_overflowing_tokens`` adds ``overflowing_tokens``, the ids that were cut off with ``stride`` ids before
        them, and ``num_truncated_tokens``; where nothing was cut off neither is there.

        Errors: TokenizerError for lengths that cannot be reached, and for ids that are none.
        """
        parts = [Segmented(as_ids(given)) for given in (ids, pair_ids) if given is not None]
        lengths = self._lengths(padding, truncation, max_length, verbose=verbose)
        template = self.template() if add_special_tokens else SpecialTokensTemplate.around([], [])
        excess = sum(map(len, parts)) + template.num_added(len(parts) == 2) - (lengths.limit or 0)
        is_cut = lengths.truncation != "do_not_truncate" and excess > 0
        if return_overflowing_tokens and is_cut and len(parts) == 2 and lengths.truncation == "longest_first":
            raise TokenizerError(
                "return_overflowing_tokens needs to know which text of a pair is cut",
                hint="pass truncation='only_first' or 'only_second'",
            )
        (row,) = self._rows(
            [parts],
            lengths,
            add_special_tokens=add_special_tokens,
            padding_side=padding_side,
            pad_to_multiple_of=pad_to_multiple_of,
        )
        wanted = {
            "token_type_ids": (return_token_type_ids, row.type_ids),
            "attention_mask": (return_attention_mask is None or return_attention_mask, row.attention_mask),
            "special_tokens_mask": (return_special_tokens_mask, row.special_tokens_mask),
        }
        columns: dict[str, Any] = {"input_ids": row.ids}
        columns |= {name: values for name, (is_wanted, values) in wanted.items() if is_wanted}
        if return_overflowing_tokens and is_cut and return_tensors is None:
            cut = parts[1 if lengths.truncation == "only_second" else 0].ids
            columns |= self._overflow(cut, excess, stride)
        if return_length:
            columns["length"] = len(row)
        return BatchEncoding(columns, row, return_tensors, prepend_batch_axis)

    def _overflow(self, ids: list[int], excess: int, stride: int) -> dict[str, Any]:
        """What was cut off these ids, and how much it was."""
        window = min(len(ids), stride + excess)
        cut = ids[:window] if self.truncation_side == "left" else ids[-window:]
        return {"overflowing_tokens": cut, "num_truncated_tokens": excess}
