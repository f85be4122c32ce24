"""Generating text, on any backend: prefill, decode, stop; whole or as a stream.

There is one loop, :class:`~polyllama.core.decoding.GenerationRun`, which yields an event per token; :func:`generate`
drains it and :class:`TextStream` shows its text. Prompts of unequal length are padded on the left, and the attention
mask says so, so each row gets what it would get alone. Sampling does not depend on how rows are batched either: a
row's noise is keyed by its index in the request (prompt index * num_return_sequences + i). So ``["a", "b"]`` with a
seed gives "a" the tokens that ``["a"]`` gives it, while "b", being row 1 there, draws other tokens than alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self

from .decoding import GenerationRun, GenerationTokenizer
from .errors import GenerationError
from .generation_config import GenerationOptions
from .generation_defaults import GenerationDefaults
from .generation_outputs import Generation, GenerationStats, StreamEvent, by_prompt
from .sampling import TokenLogprob

if TYPE_CHECKING:
    from .backend import Model

__all__ = [
    "Generation",
    "GenerationDefaults",
    "GenerationOptions",
    "GenerationRun",
    "GenerationStats",
    "GenerationTokenizer",
    "StreamEvent",
    "TextStream",
    "TokenLogprob",
    "by_prompt",
    "generate",
    "stream",
]


def generate(
    model: Model,
    tokenizer: GenerationTokenizer | None,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions | None = None,
) -> list[Generation]:
    """Generate for each prompt, given as token ids; returns ``len(prompts) * num_return_sequences`` results by row.

    Use :func:`by_prompt` for the shape that users get. An empty prompt is the beginning-of-sequence token alone.
    Without a tokenizer the texts are empty.

    Raises:
        InputError: a prompt that is no list of ids of the vocabulary, or empty without a bos token.
        GenerationError: options that do not fit the model, or logits no token can be drawn from.

    Warns:
        PolyllamaWarning: positions run past the context the model was made for.
    """
    run = GenerationRun(model, tokenizer, prompts, options)
    for _ in run:
        pass
    return run.results()


class TextStream(Iterator[str]):
    """The text of one sequence as it appears, never part of a character; the pieces concatenate to its text.

    After the last piece `result` is the whole :class:`Generation`. Closing the stream early (or leaving its ``with``
    block) frees the cache; `result` then stays ``None``.

    Raises:
        GenerationError, InputError: as :func:`generate`, at once and not with the first piece.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: GenerationTokenizer,
        prompt: Sequence[int],
        options: GenerationOptions | None = None,
    ) -> None:
        self._run = GenerationRun(model, tokenizer, [prompt], options)
        if len(self._run.sequences) != 1:
            raise GenerationError(
                f"a stream shows one sequence, num_return_sequences is {len(self._run.sequences)}",
                hint="use generate, or GenerationRun for the events of several rows",
            )
        self._events = iter(self._run)

    @property
    def result(self) -> Generation | None:
        """The whole result, once the last token was generated."""
        return self._run.results()[0] if self._run.finished else None

    @property
    def stats(self) -> GenerationStats:
        """Token counts and times so far."""
        return self._run.stats

    def __next__(self) -> str:
        for event in self._events:
            if event.text:
                return event.text
        raise StopIteration

    def close(self) -> None:
        """Stop generating and free the cache."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def stream(
    model: Model, tokenizer: GenerationTokenizer, prompt: Sequence[int], options: GenerationOptions | None = None
) -> TextStream:
    """Generate for one prompt, given as token ids, and iterate over its text as it appears."""
    return TextStream(model, tokenizer, prompt, options)
