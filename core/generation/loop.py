"""The one generation loop: prefill once, then a token per row and step, until every row has ended."""

from __future__ import annotations

import time
import warnings
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..config.context_length import context_length
from ..errors import GenerationError, InputError, PolyllamaWarning
from ..messages import mention
from .batch import Batch, naming_what_takes_memory
from .logit_processing import Processing
from .options import DEFAULT_MAX_NEW_TOKENS, GenerationOptions
from .outputs import Generation, GenerationStats, StreamEvent
from .sequence import GeneratedSequence, _Plan
from .streaming import StreamDecoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..backend.protocol import Model

    Floats = NDArray[np.floating[Any]]


class GenerationTokenizer(Protocol):
    """What generation asks of a tokenizer."""

    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def all_special_ids(self) -> Sequence[int]: ...
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...
    def stream_decoder(self, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True) -> StreamDecoder: ...


class GenerationRun:
    """One request: iterate over it once for the events, then ask it for the results.

    Everything is checked when it is made. Events of rows that run together alternate, one step at a time; with
    ``batch_size`` one batch comes after the other.

    Attributes:
        options: the request's, with the seed that is used.
        sequences: one per row, in order of prompt and then of ``num_return_sequences``.
        stats: token counts and times so far.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: GenerationTokenizer | None,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions | None = None,
    ) -> None:
        self.model = model
        self.options = options = (options or GenerationOptions()).seeded()
        self.stats = GenerationStats()
        self._context = context_length(model.config)
        self._started = False
        self._warned = False
        bos = tokenizer.bos_token_id if tokenizer is not None else None
        bos = model.config.bos_token_id if bos is None else bos
        vocab_size = model.config.vocab_size
        checked = [_check_prompt(place, prompt, vocab_size, bos) for place, prompt in enumerate(prompts)]
        plan = _make_plan(options, vocab_size, tokenizer)
        self.sequences: list[GeneratedSequence] = []
        for prompt in checked:
            budget = _budget(options, len(prompt), self._context)
            for _ in range(options.num_return_sequences):
                decoder = None if tokenizer is None else tokenizer.stream_decoder(prompt, options.skip_special_tokens)
                self.sequences.append(GeneratedSequence(len(self.sequences), prompt, budget, plan, decoder))

    def __iter__(self) -> Generator[StreamEvent, None, None]:
        if self._started:
            raise GenerationError("this GenerationRun has been iterated over already", hint="make a new one")
        self._started = True
        return self._events()

    @property
    def finished(self) -> bool:
        """Whether every row has ended."""
        return all(sequence.finish_reason is not None for sequence in self.sequences)

    def results(self) -> list[Generation]:
        """Return one result per row.

        Raises:
            GenerationError: not every row has ended yet.
        """
        if not self.finished:
            raise GenerationError("generation has not finished", hint="iterate over the GenerationRun to its end first")
        return [sequence.result(self.stats) for sequence in self.sequences]

    def _events(self) -> Generator[StreamEvent, None, None]:
        size = self.options.batch_size or len(self.sequences) or 1
        for start in range(0, len(self.sequences), size):
            batch = Batch(self.model, self.sequences[start : start + size], self.options.prefill_chunk_size)
            events = self._prefill(batch)
            while batch.live:
                self._run_ahead(batch)
                yield from events
                events = self._decode(batch)
            yield from events

    def _prefill(self, batch: Batch) -> list[StreamEvent]:
        self._check_context(batch)
        began = time.perf_counter()
        with naming_what_takes_memory(self.options):
            logits, prompt_tokens = batch.prefill()
        events = batch.take(logits)
        self.stats = replace(
            self.stats,
            prompt_tokens=self.stats.prompt_tokens + prompt_tokens,
            new_tokens=self.stats.new_tokens + len(events),
            first_tokens=self.stats.first_tokens + len(events),
            prefill_seconds=self.stats.prefill_seconds + time.perf_counter() - began,
        )
        return events

    def _decode(self, batch: Batch) -> list[StreamEvent]:
        self._check_context(batch)
        began = time.perf_counter()
        with naming_what_takes_memory(self.options):
            logits = batch.decode()
        events = batch.take(logits)
        self.stats = replace(
            self.stats,
            new_tokens=self.stats.new_tokens + len(events),
            decode_seconds=self.stats.decode_seconds + time.perf_counter() - began,
        )
        return events

    def _run_ahead(self, batch: Batch) -> None:
        """Start the next pass where that takes no waiting: it runs while whoever iterates looks at the events."""
        if not getattr(self.model, "asynchronous", False):
            return
        began = time.perf_counter()
        with naming_what_takes_memory(self.options):
            batch.begin()
        self.stats = replace(self.stats, decode_seconds=self.stats.decode_seconds + time.perf_counter() - began)

    def _check_context(self, batch: Batch) -> None:
        """Say once that positions run past what the model was made for."""
        if self._context is None or self._warned:
            return
        for place in batch.live:
            row = batch.rows[place]
            if row.length > self._context:
                self._warned = True
                warnings.warn(
                    f"row {row.row} is {row.length} tokens long now, more than the model's context of {self._context} "
                    "(max_position_embeddings): the text will get worse",
                    PolyllamaWarning,
                    stacklevel=2,
                )
                return


def _budget(options: GenerationOptions, prompt_length: int, context: int | None) -> int:
    """Return how many tokens a prompt of this length may get."""
    if options.max_new_tokens is not None:
        return options.max_new_tokens
    if options.max_length is not None:
        if prompt_length >= options.max_length:
            raise GenerationError(
                f"the prompt has {prompt_length} tokens, "
                + options.named("max_length")
                + " counts prompt and text together",
                hint="give " + mention("max_new_tokens") + ", or a larger max_length",
            )
        if options.max_length - prompt_length < options.min_new_tokens:
            raise GenerationError(
                options.named("max_length")
                + f" leaves {options.max_length - prompt_length} tokens after a prompt of {prompt_length}, "
                + options.named("min_new_tokens")
                + " wants more",
                hint="give " + mention("max_new_tokens") + ", or a larger max_length",
            )
        return options.max_length - prompt_length
    default = max(DEFAULT_MAX_NEW_TOKENS, options.min_new_tokens)
    if context is None or prompt_length >= context:
        return default
    return max(min(default, context - prompt_length), options.min_new_tokens)


def _check_prompt(place: int, prompt: Sequence[int], vocab_size: int, bos: int | None) -> list[int]:
    if isinstance(prompt, str | bytes):
        raise InputError(f"prompt {place} is text, wanted token ids", hint="encode it with the tokenizer first")
    try:
        array = np.asarray(prompt)
    except ValueError:  # lists of unequal length
        array = np.zeros((0, 0))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"prompt {place} is not a list of token ids", hint="wanted whole numbers, such as [1, 15043]")
    ids: list[int] = array.tolist()
    if not ids:
        if bos is None:
            raise InputError(
                f"prompt {place} is empty, and the tokenizer has no beginning-of-sequence token to start from",
                hint="give at least one token",
            )
        ids = [bos]
    for index, token_id in enumerate(ids):
        if not 0 <= token_id < vocab_size:
            raise InputError(
                f"prompt {place}, token {index}: id {token_id} is outside the vocabulary of {vocab_size}",
                hint="is it the tokenizer of this model?",
            )
    return ids


def _make_plan(options: GenerationOptions, vocab_size: int, tokenizer: GenerationTokenizer | None) -> _Plan:
    """Check what the options say about ids and stop strings against the model and tokenizer at hand."""
    for name, ids in (("stop_token_ids", options.stop_token_ids), ("logit_bias", options.logit_bias)):
        for token_id in ids:
            if token_id >= vocab_size:
                raise GenerationError(f"{name}: id {token_id} is outside the vocabulary of {vocab_size}")
    if options.stop and tokenizer is None:
        raise GenerationError("stop strings need a tokenizer, and this model has none", hint="use stop_token_ids")
    # An eos id beyond the vocabulary (a config's default) can never come up; it is no mistake of the request's.
    ending: dict[int, int | str] = {i: i for i in (*options.eos_token_id, *options.stop_token_ids) if i < vocab_size}
    strings: list[str] = []
    for stop in options.stop:
        special = _special_id(stop, tokenizer) if options.skip_special_tokens else None
        if special is None:
            strings.append(stop)
        else:
            ending[special] = stop
    processing = Processing(
        logit_bias=tuple(options.logit_bias.items()),
        repetition_penalty=options.repetition_penalty,
        frequency_penalty=options.frequency_penalty,
        presence_penalty=options.presence_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        min_new_tokens=options.min_new_tokens,
        ending=tuple(ending),
    )
    return _Plan(options, options.filters, processing, ending, tuple(strings), vocab_size)


def _special_id(stop: str, tokenizer: GenerationTokenizer | None) -> int | None:
    """The id of a stop string that is a special token: the text leaves those out, so only the id can be found."""
    if tokenizer is None:
        return None
    ids = tokenizer.encode(stop, add_special_tokens=False)
    return ids[0] if len(ids) == 1 and ids[0] in tokenizer.all_special_ids else None
