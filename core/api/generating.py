"""The part of :class:`~polyllama.Llama` that generates text: prompts and conversations in, texts out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError, PolyllamaWarning, TokenizerError, UnsupportedError
from ..messages import mention

if TYPE_CHECKING:
    from ..backend.protocol import Model
    from ..config.schema import LlamaConfig
    from ..generation.calls import TextStream
    from ..generation.defaults import GenerationDefaults
    from ..generation.options import GenerationOptions
    from ..loading.load import Loaded
    from ..tokenizer.base import Tokenizer


class Generating:
    """Generation by a loaded model; the model, its tokenizer and its defaults are the facade's own."""

    _loaded: Loaded
    _defaults: GenerationDefaults | None
    _defaults_read: bool

    if TYPE_CHECKING:

        @property
        def config(self) -> LlamaConfig: ...
        @property
        def model(self) -> Model: ...
        @property
        def task(self) -> str: ...
        @property
        def tokenizer(self) -> Tokenizer: ...
        def _tokenizer_or_none(self) -> Tokenizer | None: ...

    def generate(
        self, prompts: Any = None, *, input_ids: Any = None, attention_mask: Any = None, **options: Any
    ) -> Any:
        """Generate from a prompt, or from each of a list of prompts.

        Args:
            prompts: text, token ids, or a list of either; ``""`` is the beginning-of-sequence token alone.
            input_ids: prompts as a padded ``[B, S]`` array, as tokenizers give them.
            attention_mask: ``[B, S]``, which of `input_ids` are real.
            options: ``max_new_tokens``, ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``typical_p``, ``seed``,
                ``stop``, ``repetition_penalty``, ``num_return_sequences``, ``logprobs`` ...: see
                :class:`~polyllama.core.generation.options.GenerationOptions`.

        Returns:
            A :class:`~polyllama.Generation` for one prompt, a list for a list; with
            ``num_return_sequences`` above 1, a list for each prompt.

        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", backend="reference")
        >>> first, second = llm.generate(["Once", "One day"], max_new_tokens=4)
        >>> len(first.token_ids), second.finish_reason
        (4, 'length')
        """
        from ..generation.calls import generate
        from ..generation.outputs import by_prompt

        single, ids = self._prompts(prompts, input_ids, attention_mask)
        resolved = self._options(options)
        results = by_prompt(
            generate(self.model, self._tokenizer_for_text(), ids, resolved), resolved.num_return_sequences
        )
        return results[0] if single else results

    def stream(self, prompt: str | Sequence[int], **options: Any) -> TextStream:
        """Generate from one prompt, piece by piece; the pieces concatenate to exactly the generated text.

        The iterator's ``result`` is the whole :class:`~polyllama.Generation` once it is exhausted.

        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", backend="reference")
        >>> pieces = llm.stream("Once", max_new_tokens=8)
        >>> "".join(pieces) == pieces.result.text
        True
        """
        from ..generation.calls import stream

        single, ids = self._prompts(prompt, None, None)
        if not single:
            raise InputError("stream takes one prompt", hint="use generate for several")
        return stream(self.model, self.tokenizer, ids[0], self._options(options))

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        """Answer a conversation by the checkpoint's own chat template.

        Args:
            messages: ``[{"role": "user", "content": "Hi"}, ...]``.
            options: as for :meth:`generate`.

        Returns:
            A :class:`~polyllama.Generation`; a list of them with ``num_return_sequences`` above 1.

        Raises:
            TokenizerError: the checkpoint has no chat template.
        """
        from ..generation.calls import generate
        from ..generation.outputs import by_prompt

        resolved = self._options(options)
        results = generate(self.model, self.tokenizer, [self.chat_prompt(messages)], resolved)
        return by_prompt(results, resolved.num_return_sequences)[0]

    def chat_stream(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> TextStream:
        """:meth:`chat`, piece by piece."""
        from ..generation.calls import stream

        return stream(self.model, self.tokenizer, self.chat_prompt(messages), self._options(options))

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The token ids that a conversation becomes by the checkpoint's chat template."""
        self._require_generation()
        ids = self.tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
        return list(ids)

    def _require_generation(self) -> None:
        if not self._loaded.task.generates:
            raise UnsupportedError(
                f"task {self.task!r} does not generate text", hint="load with " + mention("task", "causal-lm")
            )

    def _options(self, options: Mapping[str, Any]) -> GenerationOptions:
        from ..generation.defaults import GenerationDefaults
        from ..generation.options import GenerationOptions

        if not self._defaults_read and self._loaded.folder is not None:
            self._defaults = GenerationDefaults.from_pretrained(self._loaded.folder)
        self._defaults_read = True
        if options.get("seed") is None and self._loaded.settings.seed is not None:
            options = {**options, "seed": self._loaded.settings.seed}
        tokenizer = None if self.config.eos_token_ids else self._tokenizer_or_none()
        return GenerationOptions.resolve(options, defaults=self._defaults, config=self.config, tokenizer=tokenizer)

    def _tokenizer_for_text(self) -> Tokenizer | None:
        """The tokenizer that turns generated ids into text; without one texts are empty, which is said."""
        try:
            return self.tokenizer
        except TokenizerError as error:
            warnings.warn(f"generated texts stay empty: {error.message}", PolyllamaWarning, stacklevel=3)
            return None

    def _prompts(self, prompts: Any, input_ids: Any, attention_mask: Any) -> tuple[bool, list[list[int]]]:
        """Whether it is one prompt, and every prompt as ids."""
        from .prompts import read_prompts

        self._require_generation()
        return read_prompts(prompts, input_ids, attention_mask, lambda text: self.tokenizer.encode(text))
