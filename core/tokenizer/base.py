"""The interface that every tokenizer has, whatever engine segments for it."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import PolyllamaWarning, TokenizerError
from ..public import for_plugins
from .chat.chat import LLAMA2_SYSTEM_PROMPT, Message, check_messages, render, render_continued
from .encoding import Encoding
from .engines.decoding import DecodingOptions, StreamDecoder, TextAssembler, clean_up_spaces
from .vocabulary import as_ids


@for_plugins
class Tokenizer(Encoding, ABC):
    """Text to ids and back; made by ``load_tokenizer``, ``LlamaTokenizer`` or ``LlamaTokenizerFast``.

    Ids and offsets do not depend on the engine. Text must be Unicode without lone surrogates.
    """

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
