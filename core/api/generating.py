"""The part of :class:`~polyllama.Llama` that generates text: prompts in, texts out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..arguments import checked_methods, meant, unknown_argument
from ..errors import InputError, TokenizerError, UnsupportedError, about_model, warn
from ..messages import mention
from .prompts import is_array, one_of, read_prompts, refuse_outputs
from .scheduling import Scheduling

if TYPE_CHECKING:
    from ..generation.calls import TextStream
    from ..generation.options import GenerationOptions
    from ..generation.request import GenerationTokenizer
    from ..tokenizer.tokenizer import Tokenizer

_ARGUMENTS = ("prompts", "inputs", "input_ids", "attention_mask", "inputs_embeds", "past_key_values")


@checked_methods
class Generating(Scheduling):
    """Generation by a loaded model; the model and its tokenizer are the facade's own."""

    _two_bos_said = False

    if TYPE_CHECKING:

        @property
        def task(self) -> str: ...
        @property
        def tokenizer(self) -> Tokenizer: ...

    def generate(
        self,
        prompts: Any = None,
        generation_config: Any = None,
        *,
        inputs: Any = None,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        past_key_values: Any = None,
        tokenizer: Any = None,
        streamer: Any = None,
        **options: Any,
    ) -> Any:
        """Generate from a prompt, from each of a list of prompts, or from an array of them.

        Args:
            prompts: text, token ids, or a list of either; ``""`` is the beginning-of-sequence token alone. Or an array
                of ids ``[rows, width]`` of torch, NumPy, JAX or MLX, which may be called `inputs` or `input_ids` too.
            generation_config: options as a :class:`~polyllama.GenerationConfig`, transformers' or a dictionary; those
                given one by one hold over it, and it over :attr:`generation_config`.
            input_ids: prompts as a padded array, as tokenizers give them, or as lists.
            attention_mask: ``[rows, width]``, which of `input_ids` are real. Without one, ids of an array that are
                `pad_token_id` are padding, unless that ends a text.
            inputs_embeds: an array ``[rows, length, hidden_size]``, run in the place of ids; `input_ids` may go with
                it.
            past_key_values: a cache that holds a beginning of an array's rows, which are given whole, such as a
                :class:`~polyllama.DynamicCache`; all but the last token of each is in it afterwards.
            tokenizer: another than the model's own, for stop strings.
            streamer: an object with ``put`` and ``end``, such as a :class:`~polyllama.TextStreamer`.
            options: ``max_new_tokens``, ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``typical_p``, ``seed``,
                ``stop``, ``repetition_penalty``, ``num_return_sequences``, ``num_beams``, ``logprobs`` ...: see
                :class:`~polyllama.core.generation.options.GenerationOptions`. ``negative_prompt``, a text or one for
                each prompt, is what ``guidance_scale`` leads away from. Where arrays go in, tokens are drawn
                only with ``do_sample=True``, as documented; elsewhere a temperature says it too.

        Returns:
            A :class:`~polyllama.Generation` for one prompt, a list for a list; with ``num_return_sequences`` above 1, a
            list for each prompt. For an array one array of its kind, element type and device,
            ``[rows * num_return_sequences, width + new]``: the prompt as it came, padding in place, then the new ids,
            filled with `pad_token_id` where a row has ended. For embeddings alone the new ids. With
            ``return_dict_in_generate=True`` a :class:`~polyllama.GenerateDecoderOnlyOutput` of such arrays, with
            ``num_beams`` a :class:`~polyllama.GenerateBeamDecoderOnlyOutput`.

        >>> import numpy as np
        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", backend="reference")
        >>> first, second = llm.generate(["Once", "One day"], max_new_tokens=4)
        >>> len(first.token_ids), second.finish_reason
        (4, 'length')
        >>> llm.generate(np.array([[1, 400, 401]]), max_new_tokens=4).shape
        (1, 7)
        """
        from ..generation.calls import generate
        from ..generation.outputs import by_prompt

        given = one_of(prompts=prompts, inputs=inputs)
        call = {**options, "generation_config": generation_config}
        with about_model(self._name):
            self._check_streamer(streamer)
            if is_array(given) or is_array(input_ids) or inputs_embeds is not None:
                ids = one_of(prompts=given, input_ids=input_ids)
                how = {"tokenizer": tokenizer, "streamer": streamer, "past_key_values": past_key_values}
                return self._generate_array(ids, attention_mask, inputs_embeds, call, **how)
            call["past_key_values"] = past_key_values
            resolved = self._resolved(call, "generate", _ARGUMENTS)
            refuse_outputs(options)
            single, ids = self._prompts(given, input_ids, attention_mask)
            found = generate(
                self.model, self._given_tokenizer(tokenizer), ids, resolved, streamer=streamer, scheduler=self.scheduler
            )
        results = by_prompt(found, resolved.num_return_sequences)
        return results[0] if single else results

    def _generate_array(
        self, ids: Any, mask: Any, embeds: Any, call: Mapping[str, Any], *, tokenizer: Any, **how: Any
    ) -> Any:
        """Generate from arrays, into one; `how` is the streamer and the cache."""
        from ..generation.array_prompts import read_array_prompts
        from ..generation.arrays import generate_array

        resolved = self._resolved(call, "generate", _ARGUMENTS, documented=True)
        given = read_array_prompts(
            ids,
            mask,
            embeds,
            vocab_size=self.config.vocab_size,
            hidden_size=self.config.hidden_size,
            pad_token_id=resolved.pad_token_id,
            eos_token_id=resolved.eos_token_id,
        )
        known = self._tokenizer_or_none() if tokenizer is None else self._given_tokenizer(tokenizer)
        return generate_array(self.model, known, given, resolved, scheduler=self.scheduler, **how)

    def generate_each(self, prompts: Sequence[Any], **options: Any) -> Iterator[Any]:
        """Generate from each of many prompts and hand over each result as soon as it is whole, in their order.

        Args:
            prompts: texts, or lists of token ids.
            options: as for :meth:`generate`; ``batch_size`` says how many run together, so after how many the first
                results come. By default all do.

        Returns:
            An iterator of what :meth:`generate` lists. What is wrong with a prompt or an option is said at once.

        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", backend="reference")
        >>> each = llm.generate_each(["Once", "One day", "The"], batch_size=1, max_new_tokens=4)
        >>> len(next(each).token_ids), len(list(each))
        (4, 2)
        """
        from ..generation.calls import generate_each

        with about_model(self._name):
            resolved = self._resolved(options, "generate_each", ("prompts",))
            single, ids = self._prompts(prompts, None, None)
            if single:
                raise InputError("generate_each takes a list of prompts", hint="use generate or stream for one")
            found = generate_each(self.model, self._tokenizer_for_text(), ids, resolved, scheduler=self.scheduler)
        return (results[0] if resolved.num_return_sequences == 1 else results for results in found)

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        open_end: bool = False,
        after: TextStream | None = None,
        **options: Any,
    ) -> TextStream:
        """Generate from one prompt, piece by piece; the pieces concatenate to exactly the generated text.

        The iterator's ``result`` is the whole :class:`~polyllama.Generation` once it is exhausted.

        Args:
            prompt: text, or token ids.
            open_end: at the last of ``max_new_tokens`` keep back what may be the beginning of a character or of a stop
                string: it is in the stream that comes `after` this one, or in ``rest()`` where none does.
            after: a stream with an open end. Its tokens are at the end of this prompt, and its text goes on here.
            options: as for :meth:`generate`.

        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", backend="reference")
        >>> pieces = llm.stream("Once", max_new_tokens=8)
        >>> "".join(pieces) == pieces.result.text
        True
        """
        from ..generation.calls import stream

        with about_model(self._name):
            resolved = self._resolved(options, "stream", ("prompt",))
            single, ids = self._prompts(prompt, None, None)
            if not single:
                raise InputError("stream takes one prompt", hint="use generate for several")
            how: dict[str, Any] = {"open_end": open_end, "after": after, "scheduler": self.scheduler}
            return stream(self.model, self.tokenizer, ids[0], resolved, **how)

    @property
    def _name(self) -> str | None:
        """What warnings call the model."""
        return self._loaded.name if self._loaded.folder is not None else None

    def _require_generation(self) -> None:
        if not self._loaded.task.generates:
            raise UnsupportedError(
                f"task {self.task!r} does not generate text", hint="load with " + mention("task", "causal-lm")
            )

    def _resolved(
        self, options: Mapping[str, Any], function: str, arguments: Sequence[str], *, documented: bool = False
    ) -> GenerationOptions:
        """The options of a call; one that was meant to be another argument of the function is said to be."""
        from ..generation.option_rules import OPTION_RULES, is_option

        self._require_generation()
        for name in options:
            if not is_option(name) and meant(name, [*arguments, *OPTION_RULES]) in arguments:
                raise unknown_argument(name, function, arguments, "")
        return self._options(options, documented=documented)

    def _check_streamer(self, streamer: Any) -> None:
        if streamer is not None:
            from ..generation.streamers import check_streamer

            check_streamer(streamer)

    def _given_tokenizer(self, tokenizer: Any) -> GenerationTokenizer | None:
        """The tokenizer that a call brings, else the model's own."""
        if tokenizer is None:
            return self._tokenizer_for_text()
        from ..generation.foreign_tokenizer import as_generation_tokenizer

        return as_generation_tokenizer(tokenizer)

    def _tokenizer_for_text(self) -> Tokenizer | None:
        """The tokenizer that turns generated ids into text; without one texts are empty, which is said."""
        try:
            return self.tokenizer
        except TokenizerError as error:
            warn(f"generated texts stay empty: {error.message}")
            return None

    def _prompts(self, prompts: Any, input_ids: Any, attention_mask: Any) -> tuple[bool, list[list[int]]]:
        """Whether it is one prompt, and every prompt as ids."""
        self._require_generation()
        return read_prompts(prompts, input_ids, attention_mask, self._encoded)

    def _encoded(self, text: str) -> list[int]:
        """A prompt's ids. A bos token that the text itself begins with, beside the one that is added, is said once."""
        from ..tokenizer.two_bos import begins_with_two_bos, warn_of_two_bos

        ids: list[int] = self.tokenizer.encode(text)
        if not self._two_bos_said and begins_with_two_bos(self.tokenizer, ids):
            self._two_bos_said = True
            warn_of_two_bos(self.tokenizer, "a prompt", "the prompt")
        return ids
