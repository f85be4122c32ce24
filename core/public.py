"""Where public names are at home: they are shown as ``polyllama.Llama``, wherever in the package they are defined.

A name's home is the module that users import it from, and files may move behind it. So ``repr``, tracebacks, ``help``
and pickles name the home; a decorator at the definition sets it, whichever way the name is reached first. The source of
methods and functions is found as ever. Python looks for a class's source in its home and finds none there, which is an
``OSError``: :func:`defined_in` says in which module it is.
"""

from __future__ import annotations

import builtins
from functools import cache
from typing import Any, ForwardRef, TypeVar
from weakref import WeakKeyDictionary

Thing = TypeVar("Thing")

_DEFINED: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def public(thing: Thing) -> Thing:
    """Show a class or function as one of ``polyllama``."""
    return _at_home(thing, "polyllama")


def for_plugins(thing: Thing) -> Thing:
    """Show a class or function as one of ``polyllama.extend``."""
    return _at_home(thing, "polyllama.extend")


def defined_in(thing: Any) -> str:
    """The module in which a class or function is defined.

    >>> from polyllama import PolyllamaError
    >>> PolyllamaError, defined_in(PolyllamaError)
    (<class 'polyllama.PolyllamaError'>, 'polyllama.core.errors')
    """
    module: str = thing.__module__
    return _DEFINED.get(thing, module)


def _at_home(thing: Thing, home: str) -> Thing:
    module = thing.__module__
    _DEFINED[thing] = module
    thing.__module__ = home
    if isinstance(thing, type):
        _keep_annotations(thing, module)
    return thing


def _keep_annotations(kind: type, module: str) -> None:
    """Have annotations that are strings, and the types of a dataclass's fields, read in the module that has them."""
    annotations, fields = (vars(kind).get(name, {}) for name in ("__annotations__", "__dataclass_fields__"))
    for name, annotation in annotations.items():
        if isinstance(annotation, str):
            annotations[name] = _annotation(annotation, module)
            if name in fields:
                fields[name].type = annotations[name]


@cache
def _annotation(text: str, module: str) -> Any:
    """An annotation's type where it is one of Python's own, else a reference that knows its module."""
    own = getattr(builtins, text, None) if text.isidentifier() else None
    return own if isinstance(own, type) else ForwardRef(text, module=module, is_argument=False, is_class=True)
