"""Perplexity of a text of any length, in overlapping windows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Protocol

from ..config.context_length import context_length
from ..errors import BackendError, InputError, UnsupportedError
from ..messages import counted, mention, subject
from ..tasks.loaded_model import FIELDS_ALONE, LoadedModel
from ..tasks.losses import log_softmax
from ..tokenizer.two_bos import begins_with_two_bos, warn_of_two_bos
from .progress import Progress

if TYPE_CHECKING:
    import numpy as np

    from ..tasks.outputs import ModelOutput
    from ..tasks.task import Task

LONGEST_DEFAULT = 2048
"""Most tokens of a window where nobody says how many: logits of a vocabulary of 128k are then 0.5 GB at a time."""

ROWS = 64
"""Positions whose log-probabilities are computed at once in float64: 64 MB for a vocabulary of 128k."""


class LanguageModel(LoadedModel, Protocol):
    """A loaded model that gives logits."""

    def forward(
        self, input_ids: Any = None, *, attention_mask: Any = None, logits_to_keep: Any = 0, **flags: Any
    ) -> ModelOutput: ...


@dataclass(frozen=True)
class PerplexityWindow:
    """One window of a text, and what it says of the tokens that no earlier window has predicted.

    Attributes:
        begin: place in the text of the window's first token; `end` is one past its last.
        predicted: how many tokens at its end are predicted here; those before them are context alone.
        loss: mean of ``-log p`` over the predicted tokens, in nats.
    """

    begin: int
    end: int
    predicted: int
    loss: float


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    Attributes:
        perplexity: ``exp(loss)``.
        loss: mean of ``-log p`` over the predicted tokens, in nats.
        tokens: how many tokens the text has.
        predicted: how many of them are predicted: all but the first, and with ``stride=context``, where windows do not
            overlap, all but each window's first.
        context: most tokens of a window; `stride` is how far one begins after the other.
        windows: what each window gave.
        processed: tokens that went through the model, with those that overlap.
        seconds: how long the passes took.
    """

    perplexity: float
    loss: float
    tokens: int
    predicted: int
    context: int
    stride: int
    windows: tuple[PerplexityWindow, ...]
    processed: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens that went through the model in a second, with those that overlap."""
        return self.processed / self.seconds


def measure_perplexity(
    model: LanguageModel,
    task: Task,
    text: Any,
    *,
    context: int | None = None,
    stride: int | None = None,
    progress: bool | Callable[[int, int], object] | None = None,
) -> Perplexity:
    """See :meth:`polyllama.Llama.perplexity`."""
    if not task.generates:
        raise UnsupportedError(
            f"task {task.name!r} does not predict the next token, so it has no perplexity",
            hint="load with " + mention("task", "causal-lm"),
        )
    if model.training:
        raise InputError("the module is in training mode, so dropout would change results", hint="llm.module.eval()")
    ids = _token_ids(model, text)
    context, stride = _sizes(model, context, stride)
    places = list(windows_of(len(ids), context, stride))
    counter = Progress(len(places), progress, what="windows")
    windows, processed, began = [], 0, time.perf_counter()
    try:
        for begin, end, predicted in places:
            losses = _losses(model, ids[begin:end], predicted)
            windows.append(PerplexityWindow(begin, end, predicted, float(losses.mean())))
            processed += end - begin
            counter.advance()
    finally:
        counter.finish()
    seconds = time.perf_counter() - began
    predicted = sum(window.predicted for window in windows)
    loss = math.fsum(window.loss * window.predicted for window in windows) / predicted
    return Perplexity(
        perplexity=math.exp(loss) if loss < 709 else math.inf,
        loss=loss,
        tokens=len(ids),
        predicted=predicted,
        context=context,
        stride=stride,
        windows=tuple(windows),
        processed=processed,
        seconds=seconds,
    )


def windows_of(tokens: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Begin, end and number of predicted tokens of each window over a text of `tokens`.

    A token is predicted once, by the first window that holds it, from what that window holds before it. A window that
    would predict nothing is left out.

    >>> list(windows_of(10, context=4, stride=2))
    [(0, 4, 3), (2, 6, 2), (4, 8, 2), (6, 10, 2)]
    >>> list(windows_of(9, context=4, stride=4))
    [(0, 4, 3), (4, 8, 3)]
    """
    done = 0
    for begin in range(0, tokens, stride):
        end = min(begin + context, tokens)
        predicted = end - max(done, begin + 1)
        if predicted > 0:
            yield begin, end, predicted
        done = end
        if end == tokens:
            return


def _token_ids(model: LanguageModel, text: Any) -> list[int]:
    if isinstance(text, str):
        ids: list[int] = model.tokenizer.encode(text)
        if begins_with_two_bos(model.tokenizer, ids):
            warn_of_two_bos(model.tokenizer, "the text", "the text")
    else:
        given = text.tolist() if hasattr(text, "tolist") else text
        as_bytes = isinstance(given, (bytes, bytearray, memoryview))  # sequences of integers, and text not decoded yet
        if as_bytes or not isinstance(given, Sequence) or not all(_is_integer(item) for item in given):
            kind = type(text).__name__
            raise InputError(subject("text", text) + f" is a {kind}, wanted a text or a list of token ids")
        ids = [int(item) for item in given]
    if len(ids) < 2:
        count = counted(len(ids), "token")
        raise InputError(f"the text has {count}, and the first one is not predicted", hint="give a longer text")
    return ids


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _sizes(model: LanguageModel, context: Any, stride: Any) -> tuple[int, int]:
    """The size of a window and how far the next one begins."""
    longest = context_length(model.config)
    if context is None:
        context = min(longest or LONGEST_DEFAULT, LONGEST_DEFAULT)
    elif not _is_integer(context) or context < 2:
        raise InputError(subject("context", context) + f" is {context!r:.80}, wanted a whole number from 2 up")
    elif longest is not None and context > longest:
        raise InputError(
            subject("context", context) + f" is {context}, the model's is {longest}",
            hint="to measure beyond it, load with another max_position_embeddings",
        )
    if stride is None:
        stride = max(context // 2, 1)
    elif not _is_integer(stride) or not 1 <= stride <= context:
        raise InputError(
            subject("stride", stride) + f" is {stride!r:.80}, wanted a whole number from 1 to the context, {context}",
            hint="a larger one would leave tokens out" if _is_integer(stride) and stride > context else None,
        )
    return int(context), int(stride)


def _losses(model: LanguageModel, ids: Sequence[int], predicted: int) -> np.ndarray:
    """``-log p`` of each of the last `predicted` ids, in nats, float64."""
    import numpy as np

    output = model.forward([list(ids)], logits_to_keep=predicted + 1, **FIELDS_ALONE).numpy()
    if "logits" not in output:
        raise UnsupportedError("this model's output has no logits, so it has no perplexity")
    logits = output["logits"][0, -predicted - 1 : -1]
    wanted = np.asarray(ids[-predicted:])
    losses = np.empty(predicted)
    for first in range(0, predicted, ROWS):
        rows = logits[first : first + ROWS].astype(np.float64)
        losses[first : first + ROWS] = -log_softmax(np, rows)[np.arange(len(rows)), wanted[first : first + ROWS]]
    if np.isnan(losses).any():
        raise BackendError(
            f"the logits came out as NaN on {model.backend} in {model.dtype}",
            hint="try " + mention("dtype", "float32") + ", or check the weights",
        )
    return losses
