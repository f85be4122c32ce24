"""``LogitsProcessor`` and those that documented code makes.

Given as ``logits_processor=[...]`` each is called for every row at every step: see ``callables.py``. Called by itself,
a processor takes scores ``[rows, vocab]`` of any framework and gives an array of the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..array_kinds import as_numpy, device_of, integers_of, kind_of, to_kind
from ..errors import GenerationError
from ..public import public
from .logit_processing import Ngrams, penalize_repetition

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ids = NDArray[np.integer[Any]]
    Wide = NDArray[np.float64]


@public
class LogitsProcessor:
    """Changes scores: a subclass defines ``__call__(self, input_ids, scores)`` and returns scores.

    Attributes:
        array_kind: the framework whose arrays it is to be given: ``"numpy"``, ``"torch"``, ``"jax"`` or ``"mlx"``;
            ``None`` leaves it to the annotations of its arguments, and else to the call.

    >>> from polyllama import Llama
    >>> class Only(LogitsProcessor):
    ...     def __call__(self, input_ids, scores):
    ...         scores[:, :400], scores[:, 401:] = -np.inf, -np.inf
    ...         return scores
    >>> llm = Llama.load("tiny", backend="reference")
    >>> llm.generate("Once", max_new_tokens=3, logits_processor=[Only()]).token_ids
    [400, 400, 400]
    """

    array_kind: str | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores ``[rows, vocab]`` of what follows the ids ``[rows, n]``, changed."""
        raise NotImplementedError(f"{type(self).__name__} is to define __call__(self, input_ids, scores)")


@public
class LogitsProcessorList(list[Any]):
    """Processors one after the other.

    >>> both = LogitsProcessorList([TemperatureLogitsWarper(0.5), TopKLogitsWarper(1)])
    >>> both(np.array([[1]]), np.array([[1.0, 2.0]])).tolist()
    [[-inf, 4.0]]
    """

    def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
        """The scores after all of them; `more` go to those that take further arguments."""
        for processor in self:
            further = len(inspect.signature(processor).parameters) > 2
            scores = processor(input_ids, scores, **more) if further else processor(input_ids, scores)
        return scores


class _OnArrays(LogitsProcessor):
    """A processor that is computed in NumPy, in float64, whatever arrays it is given."""

    array_kind = "numpy"

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        array = as_numpy(scores)
        wide = array.astype(np.float64)
        for ids, row in zip(as_numpy(input_ids), wide, strict=True):
            self._change(ids, row)
        return to_kind(wide.astype(array.dtype), kind_of(scores) or "numpy", device_of(scores))

    def _change(self, ids: Ids, row: Wide) -> None:
        """Change the scores ``[vocab]`` of one row in place."""
        raise NotImplementedError


def _checked(name: str, value: Any, fits: bool, wanted: str) -> Any:
    if not fits:
        raise GenerationError(f"{name} is {value!r:.40}", hint=f"wanted {wanted}")
    return value


@public
class MinLengthLogitsProcessor(_OnArrays):
    """Forbids the ids that end a text until it has so many tokens, the prompt counted.

    >>> MinLengthLogitsProcessor(3, 1)(np.array([[5, 6]]), np.zeros((1, 2))).tolist()
    [[0.0, -inf]]
    """

    def __init__(self, min_length: int, eos_token_id: Any, device: Any = None) -> None:
        self.min_length = _checked("min_length", min_length, min_length >= 0, "0 or more")
        self.eos_token_id = integers_of(eos_token_id)

    def _change(self, ids: Ids, row: Wide) -> None:
        if len(ids) < self.min_length:
            row[self.eos_token_id] = -np.inf


@public
class MinNewTokensLengthLogitsProcessor(_OnArrays):
    """Forbids the ids that end a text until so many tokens follow a prompt of the length `prompt_length_to_skip`."""

    def __init__(self, prompt_length_to_skip: int, min_new_tokens: int, eos_token_id: Any, device: Any = None) -> None:
        self.prompt_length_to_skip = prompt_length_to_skip
        self.min_new_tokens = _checked("min_new_tokens", min_new_tokens, min_new_tokens >= 0, "0 or more")
        self.eos_token_id = integers_of(eos_token_id)

    def _change(self, ids: Ids, row: Wide) -> None:
        if len(ids) - self.prompt_length_to_skip < self.min_new_tokens:
            row[self.eos_token_id] = -np.inf


@public
class TemperatureLogitsWarper(_OnArrays):
    """Divides scores by the temperature."""

    def __init__(self, temperature: float) -> None:
        self.temperature = _checked("temperature", temperature, temperature > 0, "a number above 0")

    def _change(self, ids: Ids, row: Wide) -> None:
        row /= self.temperature


@public
class TopKLogitsWarper(_OnArrays):
    """Keeps the k largest scores, and those that equal the last of them.

    >>> TopKLogitsWarper(1)(np.array([[1]]), np.array([[3.0, 1.0, 3.0]])).tolist()
    [[3.0, -inf, 3.0]]
    """

    def __init__(self, top_k: int, filter_value: float = -np.inf, min_tokens_to_keep: int = 1) -> None:
        self.top_k = max(_checked("top_k", top_k, top_k > 0, "1 or more"), min_tokens_to_keep)
        self.filter_value = filter_value

    def _change(self, ids: Ids, row: Wide) -> None:
        most = min(self.top_k, row.size)
        row[row < np.partition(row, row.size - most)[row.size - most]] = self.filter_value


@public
class TopPLogitsWarper(_OnArrays):
    """Keeps the fewest likeliest tokens whose probabilities reach `top_p`.

    >>> TopPLogitsWarper(0.5)(np.array([[1]]), np.log(np.array([[0.6, 0.4]]))).round(2).tolist()
    [[-0.51, -inf]]
    """

    def __init__(self, top_p: float, filter_value: float = -np.inf, min_tokens_to_keep: int = 1) -> None:
        self.top_p = _checked("top_p", top_p, 0 <= top_p <= 1, "a number from 0 to 1")
        self.filter_value, self.min_tokens_to_keep = filter_value, min_tokens_to_keep

    def _change(self, ids: Ids, row: Wide) -> None:
        order = np.argsort(row, kind="stable")
        weights = np.exp(row[order] - row.max())
        left_out = np.cumsum(weights / weights.sum()) <= 1 - self.top_p
        left_out[row.size - self.min_tokens_to_keep :] = False
        row[order[left_out]] = self.filter_value


@public
class RepetitionPenaltyLogitsProcessor(_OnArrays):
    """Makes tokens that are there already less likely, for a penalty above 1; see ``repetition_penalty``."""

    def __init__(self, penalty: float, prompt_ignore_length: int | None = None) -> None:
        self.penalty = _checked("penalty", penalty, penalty > 0, "a number above 0")
        self.prompt_ignore_length = prompt_ignore_length

    def _change(self, ids: Ids, row: Wide) -> None:
        penalize_repetition(row, np.unique(ids[self.prompt_ignore_length or 0 :]), self.penalty)


@public
class NoRepeatNGramLogitsProcessor(_OnArrays):
    """Forbids what would repeat an n-gram."""

    def __init__(self, ngram_size: int) -> None:
        self.ngram_size = _checked("ngram_size", ngram_size, ngram_size > 0, "1 or more")

    def _change(self, ids: Ids, row: Wide) -> None:
        Ngrams(self.ngram_size, ids.tolist()).apply(row)


@public
class SuppressTokensLogitsProcessor(_OnArrays):
    """Forbids tokens."""

    def __init__(self, suppress_tokens: Sequence[int], device: Any = None) -> None:
        self.suppress_tokens = integers_of(suppress_tokens)

    def _change(self, ids: Ids, row: Wide) -> None:
        row[self.suppress_tokens] = -np.inf
