"""Allocations that fail: known by what frameworks say, and said by the options that are to be lowered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import GenerationError
from ..messages import mention

if TYPE_CHECKING:
    from .options import GenerationOptions


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, NumPy's or a framework's."""
    text = str(error).lower()
    said = type(error).__name__ == "OutOfMemoryError" or "out of memory" in text or "allocate memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said)


@contextmanager
def naming_what_takes_memory(options: GenerationOptions) -> Iterator[None]:
    """Turn a failed allocation, NumPy's or a framework's, into an error that says which options to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise GenerationError(
            "out of memory while generating with "
            + mention("max_new_tokens", options.max_new_tokens)
            + f", num_return_sequences={options.num_return_sequences}, "
            + (f"num_beams={options.num_beams}, " if options.num_beams > 1 else "")
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
