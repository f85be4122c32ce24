"""``StoppingCriteria`` and those that documented code makes; and what of a call's criteria is an option here.

Given as ``stopping_criteria=[...]`` each is asked of every row after every token: see ``callables.py``. Called by
itself, a criterion takes arrays of any framework and gives one of the same, ``[rows]``, as documented.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..array_kinds import as_numpy, device_of, integers_of, kind_of, to_kind
from ..public import public
from .arguments import warn_once
from .callables import known_class

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .options import GenerationOptions


@public
class StoppingCriteria:
    """Ends rows: a subclass defines ``__call__(self, input_ids, scores)``, true where one is to end.

    Attributes:
        array_kind: the framework whose arrays it is to be given: ``"numpy"``, ``"torch"``, ``"jax"`` or ``"mlx"``;
            ``None`` leaves it to the annotations of its arguments, and else to the call.

    >>> from polyllama import Llama
    >>> class Five(StoppingCriteria):
    ...     def __call__(self, input_ids, scores, **more):
    ...         return input_ids.shape[1] >= 5
    >>> llm = Llama.load("tiny", backend="reference")
    >>> result = llm.generate([1, 400, 401], stopping_criteria=[Five()])
    >>> len(result.token_ids), result.stop_reason
    (2, 'Five')
    """

    array_kind: str | None = None

    def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
        """Whether each row ``[rows, n]`` is to end.

        Args:
            scores: of each step ``[rows, vocab]`` where they are kept (``output_scores``), else ``None``.
        """
        raise NotImplementedError(f"{type(self).__name__} is to define __call__(self, input_ids, scores)")


@public
class StoppingCriteriaList(list[Any]):
    """Criteria of which one is enough to end a row."""

    def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
        """Whether any of them says so, for each row of `input_ids`, as an array of its framework."""
        said = np.zeros(input_ids.shape[0], np.bool_)
        for criterion in self:
            said |= np.asarray(as_numpy(criterion(input_ids, scores, **more))).astype(np.bool_).reshape(-1)
        return _like(said, input_ids)

    @property
    def max_length(self) -> int | None:
        """The limit of the first ``MaxLengthCriteria`` among them."""
        return next((one.max_length for one in self if known_class(one) == "MaxLengthCriteria"), None)


class _OnArrays(StoppingCriteria):
    """A criterion that is computed in NumPy, whatever arrays it is given."""

    array_kind = "numpy"

    def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
        return _like(self._ended(as_numpy(input_ids)), input_ids)

    def _ended(self, ids: NDArray[Any]) -> NDArray[np.bool_]:
        raise NotImplementedError


@public
class MaxLengthCriteria(_OnArrays):
    """Ends rows of so many tokens, the prompt counted. In a call it takes the place of ``max_length``.

    >>> MaxLengthCriteria(3)(np.zeros((1, 3), int), None).tolist()
    [True]
    """

    def __init__(self, max_length: int, max_position_embeddings: int | None = None) -> None:
        self.max_length = max_length
        self.max_position_embeddings = max_position_embeddings

    def _ended(self, ids: NDArray[Any]) -> NDArray[np.bool_]:
        return np.full(len(ids), ids.shape[1] >= self.max_length)


@public
class MaxTimeCriteria(_OnArrays):
    """Ends all rows after so many seconds, counted from when it is made or from `initial_timestamp`."""

    def __init__(self, max_time: float, initial_timestamp: float | None = None) -> None:
        self.max_time = max_time
        self.initial_timestamp = time.time() if initial_timestamp is None else initial_timestamp

    def _ended(self, ids: NDArray[Any]) -> NDArray[np.bool_]:
        return np.full(len(ids), time.time() - self.initial_timestamp > self.max_time)


@public
class EosTokenCriteria(_OnArrays):
    """Ends rows whose newest token is one of these ids. In a call it takes the place of ``eos_token_id``.

    >>> EosTokenCriteria([2, 7])(np.array([[1, 7], [7, 1]]), None).tolist()
    [True, False]
    """

    def __init__(self, eos_token_id: Any) -> None:
        self.eos_token_id = eos_token_id

    def _ended(self, ids: NDArray[Any]) -> NDArray[np.bool_]:
        return np.isin(ids[:, -1], integers_of(self.eos_token_id))


@public
class StopStringCriteria(_OnArrays):
    """Ends rows whose newest token completes one of these strings; unlike with ``stop``, they stay in the text.

    Args:
        tokenizer: anything with ``decode``.

    >>> from polyllama import Llama
    >>> tokenizer = Llama.load("tiny", backend="reference").tokenizer
    >>> criterion = StopStringCriteria(tokenizer, "day")
    >>> ids = tokenizer.encode("One day")
    >>> criterion(np.array([ids]), None).tolist(), criterion(np.array([[*ids, ids[1]]]), None).tolist()
    ([True], [False])
    """

    def __init__(self, tokenizer: Any, stop_strings: str | Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stop_strings = (stop_strings,) if isinstance(stop_strings, str) else tuple(stop_strings)
        # A token has a byte at least, but for special ones: further back no string that ends now can begin.
        self._reach = max((len(text.encode()) for text in self.stop_strings), default=0) + 8

    def _ended(self, ids: NDArray[Any]) -> NDArray[np.bool_]:
        return np.array([self._completed(row[-self._reach :].tolist()) for row in ids], np.bool_)

    def _completed(self, ids: list[int]) -> bool:
        text, before = (self.tokenizer.decode(part, skip_special_tokens=False) for part in (ids, ids[:-1]))
        known = len(before) if text.startswith(before) else 0
        return any(text.find(stop, max(0, known - len(stop) + 1)) >= 0 for stop in self.stop_strings)


@dataclass(frozen=True)
class GivenCriteria:
    """The criteria of a call, of which some are options here, as transformers has them take an option's place.

    Attributes:
        called: those that are asked after every token.
        max_length: the limit that holds in the place of all others.
        eos_token_id: the ids that end a text in the place of others.
    """

    called: tuple[Callable[..., Any], ...] = ()
    max_length: int | None = None
    eos_token_id: tuple[int, ...] | None = None

    @classmethod
    def of(cls, options: GenerationOptions) -> GivenCriteria:
        """Sort the criteria of a call.

        Warns:
            PolyllamaWarning: once, of a limit of the call that has no effect beside them.
        """
        if not options.stopping_criteria:
            return _NONE
        by_kind: dict[str, list[Any]] = {"MaxLengthCriteria": [], "EosTokenCriteria": []}
        called: list[Callable[..., Any]] = []
        for criterion in options.stopping_criteria:
            by_kind.get(known_class(criterion) or "", called).append(criterion)
        lengths = [int(one.max_length) for one in by_kind["MaxLengthCriteria"]]
        ids = [token_id for one in by_kind["EosTokenCriteria"] for token_id in integers_of(one.eos_token_id)]
        limit = "max_new_tokens" if options.max_new_tokens is not None else "max_length"
        if lengths and getattr(options, limit) is not None and limit not in options.origin:
            warn_once(f"{options.named(limit)} without effect: MaxLengthCriteria takes its place", "criteria", limit)
        return cls(tuple(called), min(lengths, default=None), tuple(ids) if by_kind["EosTokenCriteria"] else None)

    def budget(self, prompt: int) -> int | None:
        """How many tokens a prompt of this length may get, where a criterion says so; one at least."""
        return None if self.max_length is None else max(1, self.max_length - prompt)


_NONE = GivenCriteria()


def _like(array: NDArray[Any], other: Any) -> Any:
    """An array of the kind and device of another."""
    return to_kind(array, kind_of(other) or "numpy", device_of(other))
