"""Rows of one request that go through the model together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GenerationError
from ..forward.arguments import ForwardArguments
from ..messages import mention

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..backend.protocol import Model
    from ..graph.cache import Cache
    from ..tasks.outputs import ModelOutput
    from .options import GenerationOptions
    from .outputs import StreamEvent
    from .sequence import GeneratedSequence

    Floats = NDArray[np.floating[Any]]

FIRST_CAPACITY = 1024
"""Generated tokens per row that storage is made for at first."""


@contextmanager
def naming_what_takes_memory(options: GenerationOptions) -> Iterator[None]:
    """Turn a failed allocation, NumPy's or a framework's, into an error that says which options to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        said = type(error).__name__ == "OutOfMemoryError" or "out of memory" in text or "allocate memory" in text
        if not isinstance(error, MemoryError) and not said:
            raise
        raise GenerationError(
            "out of memory while generating with "
            + mention("max_new_tokens", options.max_new_tokens)
            + f", num_return_sequences={options.num_return_sequences}, "
            + mention("batch_size", options.batch_size)
            + ", "
            + mention("prefill_chunk_size", options.prefill_chunk_size),
            hint="lower "
            + mention("max_new_tokens")
            + ", or set "
            + mention("batch_size")
            + " or "
            + mention("prefill_chunk_size"),
        ) from error


class Batch:
    """Rows that go through the model together, left-padded, with one cache."""

    def __init__(self, model: Model, sequences: Sequence[GeneratedSequence], chunk: int | None) -> None:
        self.model = model
        self.rows = list(sequences)
        self.chunk = chunk
        self.cache: Cache
        self.mask: NDArray[np.int64]
        self.used = 0
        self._begun: ModelOutput | None = None

    @property
    def live(self) -> list[int]:
        """Places of the rows that have not finished."""
        return [place for place, row in enumerate(self.rows) if row.finish_reason is None]

    def prefill(self) -> tuple[Floats, int]:
        """Run each distinct prompt once; returns the next token's logits ``[rows, vocab]`` and the tokens run."""
        place_of: dict[tuple[int, ...], int] = {}
        for row in self.rows:
            place_of.setdefault(tuple(row.prompt_ids), len(place_of))
        lengths = [len(prompt) for prompt in place_of]
        longest = max(lengths)
        ids = np.zeros((len(place_of), longest), np.int64)
        # A budget is a limit, not a plan: most texts end long before a large one, so storage grows as they do.
        capacity = longest + min(max(row.budget for row in self.rows), FIRST_CAPACITY)
        self.mask = np.zeros((len(place_of), capacity), np.int64)
        for prompt, place in place_of.items():
            ids[place, longest - len(prompt) :] = prompt
            self.mask[place, longest - len(prompt) : longest] = 1
        self.cache = self.model.new_cache(*self.mask.shape)
        # No row may consist of padding alone, so the first chunk reaches into the shortest prompt.
        chunk = self.chunk or longest
        start, end = 0, max(min(chunk, longest), longest - min(lengths) + 1)
        while start < longest:
            logits = self._logits(self._forward(ids[:, start:end]))
            start, end = end, min(end + chunk, longest)
        places = [place_of[tuple(row.prompt_ids)] for row in self.rows]
        if places != list(range(len(place_of))):
            self.cache = self.cache.select_rows(places)
            self.mask, logits = self.mask[places], logits[places]
        return logits, sum(lengths)

    def decode(self) -> Floats:
        """Run the newest token of each row; returns the next one's logits ``[rows, vocab]``."""
        output = self.begin() if self._begun is None else self._begun
        self._begun = None
        return self._logits(output)

    def begin(self) -> ModelOutput:
        """Start the pass that :meth:`decode` then reads; it runs on by itself where the model is asynchronous."""
        live = self.live
        # Finished rows ride along until they are half of the batch: taking rows out copies the whole cache.
        if 2 * len(live) <= len(self.rows):
            self.cache = self.cache.select_rows(live)
            self.mask, self.rows = self.mask[live], [self.rows[place] for place in live]
        if self.used == self.mask.shape[1]:
            self.mask = np.concatenate([self.mask, np.zeros_like(self.mask)], axis=1)
        self.mask[:, self.used] = 1
        self._begun = self._forward(np.array([[row.token_ids[-1]] for row in self.rows], np.int64))
        return self._begun

    def take(self, logits: Floats) -> list[StreamEvent]:
        """Choose the next token of each live row."""
        return [self.rows[place].take(logits[place]) for place in self.live]

    def _forward(self, ids: NDArray[np.int64]) -> ModelOutput:
        self.used += ids.shape[1]
        output = self.model.forward(
            ForwardArguments(
                input_ids=ids,
                attention_mask=self.mask[:, : self.used],
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        )
        self.cache = output.past_key_values
        return output

    def _logits(self, output: ModelOutput) -> Floats:
        """The logits as NumPy, which waits for them to be computed."""
        shape = (len(self.mask), 1, self.model.config.vocab_size)
        logits = self.model.to_numpy(output["logits"]) if "logits" in output else np.zeros(0)
        if logits.shape != shape:
            raise GenerationError(
                f"this model gives logits of shape {list(logits.shape)}, generation needs {list(shape)}",
                hint="load it as a causal language model: "
                + mention("task", None)
                + " or "
                + mention("task", "causal-lm"),
            )
        kept: Floats = logits[:, -1, :]
        return kept
