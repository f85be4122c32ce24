"""The interface that every tokenizer has, whatever engine segments for it."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import PolyllamaWarning, TokenizerError
from ..messages import mention, subject
from .batching import (
    PADDINGS,
    TRUNCATIONS,
    BatchEncoding,
    Row,
    Segmented,
    choose,
    pad_rows,
    positive,
    rows_to_pad,
    to_numpy,
    truncate,
)
from .chat.chat import LLAMA2_SYSTEM_PROMPT, Message, check_messages, render, render_continued
from .engines.added_tokens import check_encodable
from .engines.decoding import DecodingOptions, StreamDecoder, TextAssembler, clean_up_spaces
from .engines.engine import Engine
from .engines.template import SpecialTokensTemplate
from .vocabulary import SpecialTokens, Vocabulary, as_ids

SIDES = ("left", "right")


@dataclass
class Behaviour:
    """Defaults of the methods; each can be overridden in a call."""

    clean_up_tokenization_spaces: bool = False
    spaces_between_special_tokens: bool = False
    use_default_system_prompt: bool = False
    split_special_tokens: bool = False
    model_max_length: int | None = None
    padding_side: str = "left"
    truncation_side: str = "right"
    chat_template: str | dict[str, str] | None = None
    # a checkpoint's tokenizer_config.json asks for clean-up, which is not done unless the caller asks too
    clean_up_unheeded: bool = False
    kept: dict[str, Any] = field(default_factory=dict)  # keys of tokenizer_config.json to write back as they were


class Tokenizer(Vocabulary, ABC):
    """Text to ids and back; made by ``load_tokenizer``, ``LlamaTokenizer`` or ``LlamaTokenizerFast``.

    Ids and offsets do not depend on the engine. Text must be Unicode without lone surrogates.
    """

    def __init__(self, engine: Engine, special: SpecialTokens, behaviour: Behaviour, *, source: str) -> None:
        super().__init__(engine, special, source=source)
        for name, value in (("padding_side", behaviour.padding_side), ("truncation_side", behaviour.truncation_side)):
            _side(value, f"{source}: {name}")
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

    @property
    def engine(self) -> str:
        """The library that segments: ``sentencepiece`` or ``tokenizers``."""
        return self._engine.name

    @property
    def is_fast(self) -> bool:
        """Whether the tokenizers library segments."""
        return self.engine == "tokenizers"

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(source={self.source!r}, engine={self.engine!r}, vocab_size={self.vocab_size}, "
            f"len={len(self)}, special_tokens={self.special_tokens_map})"
        )

    @abstractmethod
    def save_pretrained(self, folder: str | PathLike[str]) -> tuple[Path, ...]:
        """Write every file that loading needs into ``folder``; returns their paths."""

    @abstractmethod
    def save_vocabulary(self, folder: str | PathLike[str], filename_prefix: str | None = None) -> tuple[Path, ...]:
        """Write only the vocabulary."""

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

    def _segment(self, text: str, split_special: bool | None, *, with_offsets: bool) -> Segmented:
        if not isinstance(text, str):
            raise TokenizerError(
                f"text must be a str, got {type(text).__name__}",
                hint="decode bytes first; a list of texts goes to tokenizer([...])",
            )
        check_encodable(text)
        split = self.split_special_tokens if split_special is None else split_special
        encoded = self._engine.encode(text, split_special=split, with_offsets=with_offsets)
        return Segmented(encoded.ids, encoded.offsets or [])

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
        single = isinstance(text, str)
        pairs = _pairs(text, text_pair)
        if isinstance(stride, bool) or not isinstance(stride, int) or stride < 0:
            raise TokenizerError(f"stride must be 0 or a positive integer, got {stride!r:.80}")
        strategy = choose(truncation, "truncation", TRUNCATIONS, "longest_first", "do_not_truncate")
        pad = choose(padding, "padding", PADDINGS, "longest", "do_not_pad")
        limit = self._limit(max_length, strategy, pad)
        template = self.template() if add_special_tokens else SpecialTokensTemplate.around([], [])
        cut_side = _side(truncation_side or self.truncation_side, "truncation_side")
        rows: list[Row] = []
        for sample, texts in enumerate(pairs):
            parts = [self._segment(part, split_special_tokens, with_offsets=return_offsets_mapping) for part in texts]
            if not return_offsets_mapping:
                for part in parts:
                    part.offsets = [(0, 0)] * len(part.ids)
            windows = [parts]
            if strategy != "do_not_truncate" and limit is not None:
                room = limit - template.num_added(len(parts) == 2)
                if room < 0:
                    raise TokenizerError(f"max_length={limit} leaves no room for the special tokens", hint="raise it")
                windows = truncate(parts, room, strategy, cut_side, stride, return_overflowing_tokens)
            rows += [Row.build(template, window, sample) for window in windows]
        self._pad(rows, pad, limit, pad_to_multiple_of, padding_side)
        columns: dict[str, list[Any]] = {"input_ids": [row.input_ids for row in rows]}
        for name, wanted in (
            ("attention_mask", return_attention_mask),
            ("token_type_ids", return_token_type_ids),
            ("special_tokens_mask", return_special_tokens_mask),
            ("offset_mapping", return_offsets_mapping),
            ("sequence_ids", return_sequence_ids),
        ):
            if wanted:
                columns[name] = [getattr(row, name) for row in rows]
        if return_length:
            columns["length"] = [len(row.input_ids) for row in rows]
        if return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = [row.sample for row in rows]
        return _collected(columns, single and not return_overflowing_tokens, return_tensors)

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
        chosen = _side(side or self.padding_side, "padding_side")
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
        columns = {key: [getattr(row, key) for row in rows] for key in dict.fromkeys([*keys, "attention_mask"])}
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

    # -- decoding

    def decode(
        self,
        token_ids: int | Iterable[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        *,
        spaces_between_special_tokens: bool | None = None,
        errors: str = "strict",
    ) -> str:
        """The text of ids.

        The space that encoding puts before a text is dropped again; special tokens show as their text unless skipped.
        ``errors="replace"`` shows ids that are not in the vocabulary (a model's may be padded larger) as U+FFFD.

        Errors: TokenizerError for an id that is not in the vocabulary.
        """
        assembler = self._assembler(
            skip_special_tokens, clean_up_tokenization_spaces, spaces_between_special_tokens, errors
        )
        text = "".join([assembler.push(token_id) for token_id in as_ids(token_ids)]) + assembler.finish()
        if self._clean_up_unheeded and clean_up_tokenization_spaces is None and clean_up_spaces(text) != text:
            self._clean_up_unheeded = False
            warnings.warn(
                f"the tokenizer_config.json beside {self.source} asks for clean_up_tokenization_spaces, which would "
                "delete spaces that the text really has; it is not done (pass clean_up_tokenization_spaces=True to do "
                "it, False to hear no more of it)",
                PolyllamaWarning,
                stacklevel=2,
            )
        return text

    def batch_decode(
        self, sequences: Iterable[Iterable[int]], skip_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """``decode`` of each row."""
        return [self.decode(token_ids, skip_special_tokens, **options) for token_ids in sequences]

    def stream_decoder(
        self,
        prompt_ids: Iterable[int] = (),
        skip_special_tokens: bool = True,
        *,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool | None = None,
        errors: str = "replace",
    ) -> StreamDecoder:
        """Text piece by piece after ``prompt_ids``; the pieces concatenate to what ``decode`` makes of all ids.

        Unlike ``decode`` it shows ids that are not in the vocabulary as U+FFFD unless ``errors="strict"``: a stream
        should not break because a model with a padded vocabulary produced one.
        """
        assembler = self._assembler(
            skip_special_tokens, clean_up_tokenization_spaces, spaces_between_special_tokens, errors
        )
        return StreamDecoder(assembler, as_ids(prompt_ids))

    def _assembler(self, skip: bool, clean_up: bool | None, spaces: bool | None, errors: str) -> TextAssembler:
        if errors not in ("strict", "replace"):
            raise TokenizerError(f"errors={errors!r:.80} is unknown", hint="known: 'strict', 'replace'")
        special = frozenset(self.all_special_ids)
        separate = self.spaces_between_special_tokens if spaces is None else spaces
        options = DecodingOptions(
            skip=special if skip else frozenset(),
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
        return self.decode(self.convert_tokens_to_ids(tokens))

    # -- chat

    def apply_chat_template(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        tokenize: bool = True,
        return_dict: bool = False,
        template_variables: Mapping[str, Any] | None = None,
        **call_options: Any,
    ) -> Any:
        """The prompt that the checkpoint's own template makes of a conversation, or of each of several.

        Returns ids, a text (``tokenize=False``) or, with ``return_dict``, what ``tokenizer(text, **call_options)``
        returns. ``chat_template`` is a template or the name of one of several. ``add_generation_prompt`` (default: true
        unless ``continue_final_message``) ends the prompt where the assistant is to speak;
        ``continue_final_message`` ends it where the last message ends. ``tools`` are JSON schemas.
        ``use_default_system_prompt`` puts Llama 2's system prompt before conversations that have none.

        Errors: TokenizerError where there is no template, or it refuses or fails.
        """
        template, name = self._chosen_template(chat_template, tools is not None)
        if add_generation_prompt and continue_final_message:
            raise TokenizerError("add_generation_prompt and continue_final_message contradict each other")
        batched = isinstance(messages, Sequence) and bool(messages) and isinstance(messages[0], Sequence)
        variables: dict[str, Any] = {
            key: value for key, value in self.special_tokens_map.items() if isinstance(value, str)
        }
        variables.update(template_variables or {})
        variables.update(
            tools=None if tools is None else list(tools),
            documents=None if documents is None else list(documents),
            add_generation_prompt=not continue_final_message
            if add_generation_prompt is None
            else add_generation_prompt,
        )
        texts = [
            self._rendered(check_messages(one), template, variables, name, continue_final_message)
            for one in (messages if batched else [messages])
        ]
        if not tokenize:
            return texts if batched else texts[0]
        encoded = self(texts if batched else texts[0], add_special_tokens=False, **call_options)
        return encoded if return_dict else encoded["input_ids"]

    def _rendered(
        self, messages: list[Message], template: str, variables: Mapping[str, Any], name: str, continued: bool
    ) -> str:
        if self.use_default_system_prompt and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": LLAMA2_SYSTEM_PROMPT}, *messages]
        if continued:
            return render_continued(template, variables, messages, source=name)
        return render(template, {**variables, "messages": messages}, source=name)

    def _chosen_template(self, asked: str | None, with_tools: bool) -> tuple[str, str]:
        """(template, what to call it in errors)."""
        available = self.chat_template
        named = available if isinstance(available, Mapping) else {} if available is None else {"default": available}
        if asked is not None:
            return (named[asked], f"{self.source} ({asked})") if asked in named else (asked, "chat_template")
        if with_tools and "tool_use" in named:
            return named["tool_use"], f"{self.source} (tool_use)"
        if "default" in named:
            return named["default"], self.source
        if named:
            raise TokenizerError(
                f"{self.source} has several chat templates and none is the default",
                hint=f"pass chat_template= one of {', '.join(named)}",
            )
        raise TokenizerError(
            f"{self.source} has no chat template: it is not a chat checkpoint, or the template was not saved with it",
            hint="use a chat or instruct checkpoint, or pass chat_template=...",
        )


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


def _collected(columns: Mapping[str, list[Any]], single: bool, return_tensors: str | None) -> BatchEncoding:
    if return_tensors not in (None, "np"):
        raise TokenizerError(
            f"return_tensors={return_tensors!r:.40} is not offered",
            hint="'np' gives NumPy arrays, which every framework takes",
        )
    if return_tensors == "np":  # one row or many, arrays are [rows, length]
        return BatchEncoding(to_numpy(columns))
    return BatchEncoding({name: values[0] if single else values for name, values in columns.items()})


def _side(value: str, argument: str) -> str:
    if value not in SIDES:
        raise TokenizerError(subject(argument, value) + f" must be 'left' or 'right', got {value!r:.80}")
    return value
