"""What public functions are called with: an argument that they do not have is answered with the one that was meant.

Python's own answer is a ``TypeError`` without it. :func:`checked` is for a function, :func:`checked_methods` for the
public methods of a class; what is wrong with a call then is an :class:`~polyllama.core.errors.InputError`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from types import FunctionType
from typing import Any, TypeVar, cast

from .errors import InputError, UnknownArgumentError
from .messages import closest, counted, few, in_quotes

Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)

_SAME = (
    frozenset({"prompt", "prompts", "text", "texts", "input", "inputs"}),
    frozenset({"message", "messages", "conversation", "conversations", "history"}),
    frozenset({"path", "file", "filename", "folder", "directory", "save_directory", "destination", "output", "out"}),
    frozenset({"source", "model", "name", "path_or_name", "pretrained_model_name_or_path"}),
    frozenset({"adapter", "adapters", "adapter_path", "lora", "lora_path", "peft"}),
    frozenset({"context", "context_length", "ctx", "n_ctx", "seq_len", "sequence_length", "max_seq_len", "max_length"}),
    frozenset({"batch", "batch_size"}),
)
"""Words for the same thing: who knows a function from elsewhere may call its arguments so."""

_TAKES_MORE_POSITIONAL, _TAKES_MORE_NAMED = 0x04, 0x08  # inspect.CO_VARARGS, inspect.CO_VARKEYWORDS


def meant(name: str, known: Collection[str], *, cutoff: float = 0.6) -> str | None:
    """The known argument that one which is none was probably meant to be: by another word for it, or by its letters.

    Args:
        cutoff: how close the letters must be; 1 for other words alone.

    >>> meant("text", ["prompts", "input_ids"]), meant("quantise", ["quantize"]), meant("zebra", ["text"])
    ('prompts', 'quantize', None)
    """
    words = next((words for words in _SAME if name in words), frozenset())
    return next((argument for argument in known if argument in words), None) or closest(name, known, cutoff=cutoff)


def unknown_argument(name: str, function: str, known: Collection[str], otherwise: str) -> UnknownArgumentError:
    """What to say of an argument that there is none of: which was probably meant, or `otherwise`."""
    likely = meant(name, known)
    advice = None if likely is None else "did you mean " + in_quotes(likely) + "?"
    return UnknownArgumentError(name, function=function, advice=advice, otherwise=otherwise)


def checked(function: Function) -> Function:
    """Have a function answer calls that do not fit its arguments in polyllama's words.

    >>> @checked
    ... def convert(source, *, quantize=None): ...
    >>> convert("tiny", quantise="int4")
    Traceback (most recent call last):
    ...
    polyllama.extend.UnknownArgumentError: convert has no argument 'quantise'; did you mean 'quantize'?
    """
    return cast(Function, _checked(cast(FunctionType, function), function.__name__, 0))


def checked_methods(kind: Class) -> Class:
    """:func:`checked` for what a class defines itself and users call: public methods, its call and its making."""
    for name, value in list(vars(kind).items()):
        if name.startswith("_") and name not in ("__init__", "__call__"):
            continue
        if isinstance(value, classmethod):
            setattr(kind, name, classmethod(_checked(cast(FunctionType, value.__func__), name, 1)))
        elif isinstance(value, FunctionType):
            shown = {"__init__": kind.__name__, "__call__": "the call"}.get(value.__name__, value.__name__)
            setattr(kind, name, _checked(value, shown, 1))
    return kind


def _checked(function: FunctionType, shown: str, bound: int) -> FunctionType:
    """The function behind a check; the first `bound` arguments are the object's, which no caller gives."""
    code = function.__code__
    positional = code.co_varnames[: code.co_argcount]
    named_only = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    by_name = frozenset((*positional[code.co_posonlyargcount :], *named_only))
    needed = len(positional) - len(function.__defaults__ or ())
    needed_by_name = [name for name in named_only if name not in (function.__kwdefaults__ or {})]
    most = float("inf") if code.co_flags & _TAKES_MORE_POSITIONAL else len(positional)
    open_ended = bool(code.co_flags & _TAKES_MORE_NAMED)

    def wrong(given: int, named: Mapping[str, Any]) -> InputError | None:
        if given > most:
            return _too_many(shown, given - bound, most - bound, [name for name in named_only if name not in named])
        unknown = [name for name in named if name not in by_name]
        if unknown and not open_ended:
            free = [name for name in (*positional[max(given, bound) :], *named_only) if name not in named]
            otherwise = f"it takes {', '.join(free)}" if free else "it takes no more arguments"
            return unknown_argument(unknown[0], shown, free, otherwise)
        missing = [name for name in (*positional[given:needed], *needed_by_name) if name not in named]
        for name in unknown if missing else ():  # an option of its own, or what is missing by another name
            if meant(name, missing) is not None:
                return unknown_argument(name, shown, missing, "")
        if missing:
            return InputError(f"{shown} needs {missing[0]!r}, which is not given")
        twice = [name for name in positional[bound:given] if name in named and name in by_name]
        return InputError(f"{shown} is given {twice[0]!r} twice", hint="by position or by name") if twice else None

    @wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except TypeError as error:
            inside = error.__traceback__ is not None and error.__traceback__.tb_next is not None
            problem = None if inside else wrong(len(given), named)
            if problem is None:
                raise
        raise problem

    return cast(FunctionType, call)


def _too_many(function: str, given: int, most: float, others: Sequence[str]) -> InputError:
    return InputError(
        f"{function} takes {counted(int(most), 'argument')} by position, {given} are given",
        hint=f"give the others by name: {few([f'{name}=' for name in others])}" if others else "leave the others out",
    )
