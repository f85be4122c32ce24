"""``generate`` and ``stream``: a whole result, or its text as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self

from ..errors import GenerationError
from .loop import GenerationRun, GenerationTokenizer
from .options import GenerationOptions
from .outputs import Generation, GenerationStats

if TYPE_CHECKING:
    from ..backend.protocol import Model


def generate(
    model: Model,
    tokenizer: GenerationTokenizer | None,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions | None = None,
) -> list[Generation]:
    """Generate for each prompt, given as token ids; returns ``len(prompts) * num_return_sequences`` results by row.

    Use :func:`~polyllama.core.generation.outputs.by_prompt` for the shape that users get. An empty prompt is the
    beginning-of-sequence token alone. Without a tokenizer the texts are empty.

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
