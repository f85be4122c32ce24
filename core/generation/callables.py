"""A caller's own code at every step: what changes a row's logits, what allows tokens, what ends a row.

Each row is called by itself, with its own ``input_ids [1, n]`` and ``scores [1, vocab]``, float32. Which arrays these
are, the code says: by an attribute ``array_kind`` (``"numpy"``, ``"torch"``, ``"jax"``, ``"mlx"``); classes of
transformers and what is made of them are given torch's tensors; else the annotations of the arguments decide; else the
arrays of the call, and NumPy's where it was given none. Several rows each have a copy of an object that has a state, as
it is the state of one text: the first row has the object itself. With beams every beam has a copy, the first row's
too, so the object that was given is never called.
"""

from __future__ import annotations

import copy
import inspect
import re
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..array_kinds import KINDS, as_numpy, is_float, kind_of, to_kind
from ..errors import GenerationError
from ..messages import mention
from .arguments import warn_once

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .options import GenerationOptions

    Wide = NDArray[np.float64]

_ROOTS = {"torch": "torch", "numpy": "numpy", "np": "numpy", "jax": "jax", "jnp": "jax", "mlx": "mlx", "mx": "mlx"}


@dataclass(frozen=True)
class ArrayKind:
    """What arrays there are to be, and where."""

    kind: str = "numpy"
    device: Any = None

    def of(self, array: NDArray[Any]) -> Any:
        """An array of this kind."""
        return to_kind(array, self.kind, self.device)


NUMPY = ArrayKind()


def array_kind(code: Any, given: ArrayKind = NUMPY) -> ArrayKind:
    """The arrays that a caller's code asks for; those of the call where it asks for none.

    Raises:
        GenerationError: its ``array_kind`` is none.

    >>> def double(input_ids, scores: "np.ndarray"):
    ...     return 2 * scores
    >>> array_kind(double, ArrayKind("torch")).kind
    'numpy'
    """
    asked = getattr(code, "array_kind", None)
    if asked is None and any(base.__module__.partition(".")[0] == "transformers" for base in type(code).__mro__):
        asked = "torch"
    if asked is None:
        asked = _annotated(code)
    if asked is None or asked == given.kind:
        return given
    if asked not in KINDS:
        hint = "there are " + ", ".join(map(repr, KINDS))
        raise GenerationError(f"{name_of(code)}.array_kind is {asked!r:.40}, which names no framework", hint=hint)
    return ArrayKind(asked)


def _annotated(code: Any) -> str | None:
    """The framework that the annotations of a function's arguments, or of an object's ``__call__``, name."""
    call: Any = code if isinstance(code, FunctionType | MethodType) else type(code).__call__
    call = inspect.unwrap(getattr(call, "__func__", call))
    known = getattr(call, "__globals__", {})
    for argument, annotation in (getattr(call, "__annotations__", None) or {}).items():
        if argument == "return":
            continue
        text = f"{annotation.__module__}." if isinstance(annotation, type) else str(annotation)
        for word in re.findall(r"[A-Za-z_]\w*", text):
            meant = known.get(word)
            home = meant.__name__ if isinstance(meant, ModuleType) else getattr(meant, "__module__", None) or word
            kind = _ROOTS.get(str(home).partition(".")[0])
            if kind is not None:
                return kind
    return None


def name_of(code: Any) -> str:
    """What messages call it: a function's name, an object's class."""
    return getattr(code, "__name__", None) or type(code).__name__


def known_class(code: Any) -> str | None:
    """The name of a class of transformers', or of ours by the same name; ``None`` for any other."""
    kind = type(code)
    return kind.__name__ if kind.__module__.partition(".")[0] in ("transformers", "polyllama") else None


def copied(code: Any) -> Any:
    """A copy of an object that has a state, for another row; what has none is the same for all rows.

    A method ``fork`` makes it, if there is one. Else lists, dictionaries, sets, arrays and tensors among its attributes
    are copied with what they hold, and other objects (a model, a tokenizer) are shared.
    """
    if isinstance(code, FunctionType | MethodType) or not getattr(code, "__dict__", None):
        return code
    if callable(getattr(code, "fork", None)):
        return code.fork()
    other = copy.copy(code)
    for name, value in vars(code).items():
        other.__dict__[name] = _own(value)
    return other


def _own(value: Any) -> Any:
    kind = type(value)
    if kind in (list, set, tuple):
        return kind(_own(item) for item in value)
    if kind is deque:
        return deque((_own(item) for item in value), value.maxlen)
    if kind is dict:
        return {key: _own(item) for key, item in value.items()}
    if kind is np.ndarray:
        return value.copy()
    # A parameter is of a model, which is shared; any other tensor may be a state.
    return value.clone() if kind_of(value) == "torch" and not value.requires_grad else value


class _Ids:
    """The ids of a row as they grow."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._known = np.zeros(max(64, 2 * len(token_ids)), np.int64)
        self._known[: len(token_ids)] = token_ids
        self.length = self.prompt = len(token_ids)

    def append(self, token_id: int) -> None:
        if self.length == len(self._known):
            self._known = np.concatenate([self._known, np.zeros_like(self._known)])
        self._known[self.length] = token_id
        self.length += 1

    @property
    def step(self) -> int:
        return self.length - self.prompt

    def array(self) -> NDArray[np.int64]:
        """``[1, n]``, which whoever gets it may change."""
        return self._known[None, : self.length].copy()

    def fork(self) -> _Ids:
        other = copy.copy(self)
        other._known = self._known.copy()
        return other


@dataclass(frozen=True)
class _Code:
    """A caller's code for one row: called with the arrays that it asks for, its errors named.

    Attributes:
        option: what it was given as.
    """

    option: str
    call: Callable[..., Any]
    arrays: ArrayKind
    row: int

    def run(self, step: int, *arguments: Any) -> Any:
        with _without_gradients(self.arrays.kind):
            try:
                return self.call(*arguments)
            except Exception as error:
                text = f"row {self.row}, step {step}: " + mention(self.option) + f" {name_of(self.call)} failed with "
                found = GenerationError(text + f"{type(error).__name__}: {error}")
                # The frames hold all keys and values, for as long as somebody holds the error: so they are text.
                found.add_note("".join(traceback.format_exception(error)).rstrip())
                found.__cause__ = error.with_traceback(None)
        raise found

    def wrong(self, step: int, what: str, wanted: str) -> GenerationError:
        text = f"row {self.row}, step {step}: " + mention(self.option) + f" {name_of(self.call)} returned {what}"
        return GenerationError(text, hint=f"wanted {wanted}")

    def fork(self) -> _Code:
        return _Code(self.option, copied(self.call), self.arrays, self.row)


def _without_gradients(kind: str) -> Any:
    if kind != "torch":
        return nullcontext()
    return import_module("torch").no_grad()


_OPTIONS = {
    "SequenceBiasLogitsProcessor": "sequence_bias",
    "RepetitionPenaltyLogitsProcessor": "repetition_penalty",
    "NoRepeatNGramLogitsProcessor": "no_repeat_ngram_size",
    "NoBadWordsLogitsProcessor": "bad_words_ids",
    "MinNewTokensLengthLogitsProcessor": "min_new_tokens",
    "PrefixConstrainedLogitsProcessor": "prefix_allowed_tokens_fn",
    "ForcedBOSTokenLogitsProcessor": "forced_bos_token_id",
    "ForcedEOSTokenLogitsProcessor": "forced_eos_token_id",
    "InfNanRemoveLogitsProcessor": "remove_invalid_values",
    "ExponentialDecayLengthPenalty": "exponential_decay_length_penalty",
    "SuppressTokensLogitsProcessor": "suppress_tokens",
    "SuppressTokensAtBeginLogitsProcessor": "begin_suppress_tokens",
}
"""Classes of transformers, and the option that each of them is here."""


def say_what_is_replaced(options: GenerationOptions) -> None:
    """Say once which options have no effect because a processor that is given does what they do.

    Warns:
        PolyllamaWarning: as transformers, which takes the given one too.
    """
    for processor in options.logits_processor:
        option = _OPTIONS.get(known_class(processor) or "")
        if option is not None and getattr(options, option) != getattr(type(options)(), option):
            text = options.named(option) + f" without effect: the {name_of(processor)} that is given takes its place"
            warn_once(text, "processors", option)


@dataclass(frozen=True)
class CallerCode:
    """What a call brings of its own: called for each of its rows.

    Attributes:
        arrays: what came in, which code is given that asks for nothing else.
    """

    processors: Sequence[Callable[..., Any]] = ()
    criteria: Sequence[Callable[..., Any]] = ()
    allowed: Callable[..., Any] | None = None
    arrays: ArrayKind = NUMPY

    def of_row(
        self, ids: Sequence[int], row: int
    ) -> tuple[list[CustomProcessor], AllowedTokens | None, RowCriteria | None]:
        """Processors, allowed tokens and criteria of a row that begins with these ids."""

        def own(code: Any) -> Any:
            return copied(code) if row else code

        processors = [CustomProcessor(own(code), self.arrays, ids, row) for code in self.processors]
        allowed = None if self.allowed is None else AllowedTokens(own(self.allowed), self.arrays, ids, row)
        criteria = RowCriteria([own(code) for code in self.criteria], self.arrays, ids, row) if self.criteria else None
        return processors, allowed, criteria


class _OfRow:
    """A caller's code as a state of one row, which sees all of its ids."""

    active = True
    _code: _Code
    _ids: _Ids

    def append(self, token_id: int) -> None:
        """Take the next token into account."""
        self._ids.append(token_id)

    def fork(self) -> Self:
        """A copy that goes its own way, with a copy of the caller's object."""
        other = copy.copy(self)
        other._code, other._ids = self._code.fork(), self._ids.fork()
        return other


class CustomProcessor(_OfRow):
    """A caller's processor of one row: a state of the row's that sees all of its ids.

    >>> def never_two(input_ids, scores):
    ...     scores[:, 2] = -np.inf
    ...     return scores
    >>> row = np.zeros(3)
    >>> CustomProcessor(never_two, NUMPY, [1], row=0).apply(row); row.tolist()
    [0.0, 0.0, -inf]
    """

    def __init__(self, call: Callable[..., Any], given: ArrayKind, token_ids: Sequence[int], row: int) -> None:
        self.name = known_class(call)
        self._code = _Code("logits_processor", call, array_kind(call, given), row)
        self._ids = _Ids(token_ids)

    def apply(self, row: Wide) -> None:
        """Change the logits ``[vocab]`` as the caller's code does, in place.

        Raises:
            GenerationError: it fails, or returns what are no scores.
        """
        code, step = self._code, self._ids.step
        with np.errstate(over="ignore"):
            before = row.astype(np.float32)[None]
        found = code.run(step, code.arrays.of(self._ids.array()), code.arrays.of(before.copy()))
        wanted = f"an array of floats {list(before.shape)}"
        scores = None if found is None else as_numpy(found)
        if scores is None or scores.shape != before.shape or not is_float(scores.dtype):
            what = "None" if scores is None else f"{scores.dtype} of shape {list(scores.shape)}"
            raise code.wrong(step, what, wanted)
        scores = scores.astype(np.float64)
        if np.isnan(scores).any() and not np.isnan(before).any():
            raise code.wrong(step, "NaN", "numbers, or -inf for what is impossible")
        # What it left alone keeps the digits that float32 has not.
        changed = scores != before
        row[changed[0]] = scores[changed]
        if np.isposinf(row[changed[0]]).any():
            raise code.wrong(step, "inf", "numbers: a token is certain where the others are -inf")


class AllowedTokens(_OfRow):
    """Which ids may follow, as a caller's function of the row's number and ids says.

    >>> row = np.zeros(3)
    >>> AllowedTokens(lambda row, input_ids: [0, 2], NUMPY, [1], row=0).apply(row); row.tolist()
    [0.0, -inf, 0.0]
    """

    def __init__(self, call: Callable[..., Any], given: ArrayKind, token_ids: Sequence[int], row: int) -> None:
        self._code = _Code("prefix_allowed_tokens_fn", call, array_kind(call, given), row)
        self._ids = _Ids(token_ids)

    def apply(self, row: Wide) -> None:
        """Forbid all others, in place; where none of these is possible they all are.

        Raises:
            GenerationError: it fails, or returns no ids of the vocabulary.
        """
        code, step = self._code, self._ids.step
        found = code.run(step, code.row, code.arrays.of(self._ids.array()[0]))
        try:
            ids = np.atleast_1d(as_numpy(found if hasattr(found, "shape") else list(found)))
        except (TypeError, ValueError):
            raise code.wrong(step, f"{found!r:.60}", "a list of token ids") from None
        if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= row.size:
            raise code.wrong(step, f"{found!r:.60}", f"a list of ids of the vocabulary of {row.size}, not empty")
        kept = row[ids]
        row[:] = -np.inf
        row[ids] = 0.0 if np.all(np.isneginf(kept)) else kept


class RowCriteria:
    """A caller's criteria of one row: whether it is to end.

    >>> criteria = RowCriteria([lambda input_ids, scores: input_ids.shape[1] > 2], NUMPY, [1], row=0)
    >>> criteria.met(5, None), criteria.met(6, None)
    (None, '<lambda>')
    """

    def __init__(self, calls: Sequence[Callable[..., Any]], given: ArrayKind, ids: Sequence[int], row: int) -> None:
        self._codes = [_Code("stopping_criteria", call, array_kind(call, given), row) for call in calls]
        self._ids = _Ids(ids)
        self._scores: list[NDArray[Any]] = []

    def met(self, token_id: int, scores: NDArray[Any] | None) -> str | None:
        """The name of the first that says so, after a token was taken; all are asked.

        Args:
            scores: ``[vocab]`` of this step, where they are kept: they are handed on with those of all steps before.

        Raises:
            GenerationError: one fails, or returns neither true nor false.
        """
        self._ids.append(token_id)
        if scores is not None:
            self._scores.append(scores[None])
        met = None
        for code in self._codes:
            kept = tuple(code.arrays.of(step.copy()) for step in self._scores) if scores is not None else None
            found = code.run(self._ids.step - 1, code.arrays.of(self._ids.array()), kept)
            said = found if isinstance(found, bool) or found is None else as_numpy(found)
            if said is None or np.size(said) != 1 or np.asarray(said).dtype.kind not in "biu":
                raise code.wrong(self._ids.step - 1, f"{found!r:.60}", "True or False, or an array of one of them")
            if met is None and bool(np.asarray(said).reshape(())):
                met = name_of(code.call)
        return met

    def fork(self) -> RowCriteria:
        """A copy that goes its own way."""
        other = copy.copy(self)
        other._codes = [code.fork() for code in self._codes]
        other._ids, other._scores = self._ids.fork(), list(self._scores)
        return other


NO_CODE: tuple[list[CustomProcessor], AllowedTokens | None, RowCriteria | None] = ([], None, None)
"""The states of a row whose caller brings no code."""
