"""The interface that every tokenizer has, whatever engine segments for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

from ..arguments import checked_methods
from ..array_kinds import kind_of
from ..errors import TokenizerError, warn
from ..public import for_plugins
from .arrays import plain_numbers
from .chatting import Chatting
from .engines.decoding import DecodingOptions, StreamDecoder, TextAssembler, clean_up_spaces
from .vocabulary import as_ids


@for_plugins
@checked_methods
class Tokenizer(Chatting, ABC):
    """Text to ids and back; made by ``load_tokenizer``, ``LlamaTokenizer`` or ``LlamaTokenizerFast``.

    Ids and offsets do not depend on the engine. Text must be Unicode without lone surrogates.
    """

    @property
    def engine(self) -> str:
        """The library that segments: ``sentencepiece`` or ``tokenizers``."""
        return self._engine.name

    @property
    def is_fast(self) -> bool:
        """Whether batches know tokens, offsets and words, which here they do whichever library segments."""
        return True

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(source={self.source!r}, engine={self.engine!r}, vocab_size={self.vocab_size}, "
            f"len={len(self)}, special_tokens={self.special_tokens_map})"
        )

    @abstractmethod
    def save_pretrained(self, save_directory: str | PathLike[str]) -> tuple[str, ...]:
        """Write every file that loading needs into a folder; returns their paths."""

    @abstractmethod
    def save_vocabulary(
        self, save_directory: str | PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write only the vocabulary."""

    # -- decoding

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        *,
        spaces_between_special_tokens: bool | None = None,
        errors: str = "strict",
    ) -> Any:
        """The text of ids; of several rows, lists of lists or an array ``[rows, ids]``, a list of texts.

        The space that encoding puts before a text is dropped again; special tokens show as their text unless skipped.
        ``errors="replace"`` shows ids that are not in the vocabulary (a model's may be padded larger) as U+FFFD.

        Errors: TokenizerError for an id that is not in the vocabulary.
        """
        rows, is_batch = _rows_of_ids(token_ids)
        texts = [
            self._decoded(row, skip_special_tokens, clean_up_tokenization_spaces, spaces_between_special_tokens, errors)
            for row in rows
        ]
        return texts if is_batch else texts[0]

    def _decoded(self, row: Any, skip: bool, clean_up: bool | None, spaces: bool | None, errors: str) -> str:
        assembler = self._assembler(skip, clean_up, spaces, errors)
        text = "".join([assembler.push(token_id) for token_id in as_ids(row)]) + assembler.finish()
        if self._clean_up_unheeded and clean_up is None and clean_up_spaces(text) != text:
            self._clean_up_unheeded = False
            warn(
                f"the tokenizer_config.json beside {self.source} asks for clean_up_tokenization_spaces, which would "
                "delete spaces that the text really has; it is not done (pass clean_up_tokenization_spaces=True to do "
                "it, False to hear no more of it)"
            )
        return text

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Any,
    ) -> list[str]:
        """``decode`` of each row; one row of ids gives a list of one text."""
        if not isinstance(sequences, Iterable) or isinstance(sequences, str | bytes):
            raise TokenizerError(f"batch_decode takes rows of token ids, got {sequences!r:.80}")
        rows = sequences if kind_of(sequences) is not None or isinstance(sequences, Mapping) else list(sequences)
        found = self.decode(rows, skip_special_tokens, clean_up_tokenization_spaces, **options)
        return [found] if isinstance(found, str) else found

    def stream_decoder(
        self,
        prompt_ids: Iterable[int] = (),
        skip_special_tokens: bool = True,
        *,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool | None = None,
        errors: str = "replace",
        shown_special_ids: Iterable[int] = (),
    ) -> StreamDecoder:
        """Text piece by piece after ``prompt_ids``; the pieces concatenate to what ``decode`` makes of all ids.

        Unlike ``decode`` it shows ids that are not in the vocabulary as U+FFFD unless ``errors="strict"``: a stream
        should not break because a model with a padded vocabulary produced one. Of special tokens that are skipped
        ``shown_special_ids`` are shown all the same.
        """
        spaces = spaces_between_special_tokens
        shown = frozenset(shown_special_ids)
        assembler = self._assembler(skip_special_tokens, clean_up_tokenization_spaces, spaces, errors, shown)
        return StreamDecoder(assembler, as_ids(prompt_ids))

    def _assembler(
        self, skip: bool, clean_up: bool | None, spaces: bool | None, errors: str, shown: frozenset[int] = frozenset()
    ) -> TextAssembler:
        if errors not in ("strict", "replace"):
            raise TokenizerError(f"errors={errors!r:.80} is unknown", hint="known: 'strict', 'replace'")
        special = frozenset(self.all_special_ids)
        separate = self.spaces_between_special_tokens if spaces is None else spaces
        options = DecodingOptions(
            skip=special - shown if skip else frozenset(),
            separate=special | frozenset(self._added) if separate else frozenset(),
            clean_up=self.clean_up_tokenization_spaces if clean_up is None else clean_up,
            replace_unknown=errors == "replace",
        )
        return self._engine.assembler(options, self._added, len(self))

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of tokens; one that is not in the vocabulary is a TokenizerError."""
        for token in tokens:
            if self._token_id(token) is None:
                raise TokenizerError(f"{token!r} is not in the vocabulary")
        return self._decoded(self.convert_tokens_to_ids(tokens), False, None, None, "strict")


def _rows_of_ids(given: Any) -> tuple[list[Any], bool]:
    """The rows of ids, and whether several were given."""
    if isinstance(given, Mapping) and "input_ids" in given:
        given = given["input_ids"]
    if kind_of(given) is not None and len(given.shape) == 2:
        return plain_numbers(given), True
    if isinstance(given, list | tuple) and given and _is_row(given[0]):
        if other := next((repr(row) for row in given if not _is_row(row)), None):
            raise TokenizerError(f"among rows of token ids there is {other:.40}", hint="give rows of one depth")
        return list(given), True
    return [given], False


def _is_row(value: object) -> bool:
    return isinstance(value, list | tuple) or len(getattr(value, "shape", ())) == 1
