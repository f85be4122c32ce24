"""``generate`` and ``stream``: a whole result, or its text as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from ..errors import GenerationError
from .loop import GenerationRun
from .options import GenerationOptions
from .outputs import Generation, GenerationStats
from .request import GenerationTokenizer

if TYPE_CHECKING:
    from ..backend.protocol import Model
    from .scheduler import Scheduler
    from .streamers import Streamer


def generate(
    model: Model,
    tokenizer: GenerationTokenizer | None,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions | None = None,
    *,
    streamer: Streamer | None = None,
    scheduler: Scheduler | None = None,
) -> list[Generation]:
    """Generate for each prompt, given as token ids; returns ``len(prompts) * num_return_sequences`` results by row.

    Use :func:`~polyllama.core.generation.outputs.by_prompt` for the shape that users get. An empty prompt is the
    beginning-of-sequence token alone. Without a tokenizer the texts are empty.

    Args:
        streamer: is handed the prompts as NumPy ids ``[rows, width]``, padded on the left, then each step's ``[rows]``.
        scheduler: which runs other requests of the model too.

    Raises:
        InputError: a prompt that is no list of ids of the vocabulary, or empty without a bos token.
        GenerationError: options that do not fit the model, or logits no token can be drawn from.

    Warns:
        PolyllamaWarning: positions run past the context the model was made for.
    """
    if streamer is not None:
        from .arrays import in_single_steps, refuse_beams

        refuse_beams(options or GenerationOptions(), "a streamer")
        options = in_single_steps(options or GenerationOptions(), len(prompts))
    run = GenerationRun(model, tokenizer, prompts, options, scheduler=scheduler)
    if streamer is None:
        return run.finish()
    from .arrays import drained, in_step, padded

    asked, many = run.options, run.options.num_return_sequences
    in_step(asked, len(run.sequences), "a streamer")
    pad = asked.pad_token_id if asked.pad_token_id is not None else next(iter(asked.eos_token_id), 0)
    drained(run, streamer, lambda array: array, padded([row.prompt for row in run.sequences[::many]], many, pad), pad)
    return run.results()


def generate_each(
    model: Model,
    tokenizer: GenerationTokenizer | None,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions | None = None,
    *,
    scheduler: Scheduler | None = None,
) -> Iterator[list[Generation]]:
    """Generate for each prompt and yield its results in the order of the prompts, as soon as they are whole.

    What is wrong is said at once and not with the first result. A prompt has ``num_return_sequences`` results; with
    ``batch_size`` the first come long before the last. See :func:`generate`.
    """
    return _in_order(GenerationRun(model, tokenizer, prompts, options, scheduler=scheduler))


def _in_order(run: GenerationRun) -> Iterator[list[Generation]]:
    size, next_row = run.options.num_return_sequences, 0

    def whole() -> Iterator[list[Generation]]:
        nonlocal next_row
        while rows := run.sequences[next_row : next_row + size]:
            if any(row.finish_reason is None for row in rows):
                return
            next_row += size
            yield [row.result(run.stats) for row in rows]

    for event in run:
        if event.finish_reason is not None:
            yield from whole()
    yield from whole()  # rows that were to have no token


class TextStream(Iterator[str]):
    """The text of one sequence as it appears, never part of a character; the pieces concatenate to its text.

    After the last piece `result` is the whole :class:`Generation`. Closing the stream early (or leaving its ``with``
    block) frees the cache; `result` then stays ``None``.

    Args:
        open_end: at the last token that it may have, keep back what is not certain (the beginning of a character or of
            a stop string): for the stream that comes `after` this one, or for :meth:`rest`.
        after: a stream with an open end, whose text goes on here.

    Raises:
        GenerationError, InputError: as :func:`generate`, at once and not with the first piece.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: GenerationTokenizer,
        prompt: Sequence[int],
        options: GenerationOptions | None = None,
        *,
        open_end: bool = False,
        after: TextStream | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        if options is not None and options.num_beams > 1:
            from .arrays import refuse_beams

            refuse_beams(options, "a stream")
        text = None if after is None else after._run.sequences[0].text
        self._run: GenerationRun = GenerationRun(
            model, tokenizer, [prompt], options, open_end=open_end, text=text, scheduler=scheduler
        )
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

    def rest(self) -> str:
        """What an open end has kept back, where no other stream goes on with it."""
        return self._run.sequences[0].text.finish(armed=True)

    def close(self) -> None:
        """Stop generating and free the cache."""
        self._run.cancel()
        with suppress(ValueError):  # another thread is waiting for its next piece, and is told that there is none
            self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def stream(
    model: Model,
    tokenizer: GenerationTokenizer,
    prompt: Sequence[int],
    options: GenerationOptions | None = None,
    *,
    open_end: bool = False,
    after: TextStream | None = None,
    scheduler: Scheduler | None = None,
) -> TextStream:
    """Generate for one prompt, given as token ids, and iterate over its text as it appears: see :class:`TextStream`."""
    return TextStream(model, tokenizer, prompt, options, open_end=open_end, after=after, scheduler=scheduler)
