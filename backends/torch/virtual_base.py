"""Being an instance of transformers' ``PreTrainedModel``, where a program uses transformers too.

Other libraries ask ``isinstance(model, PreTrainedModel)`` before they take a model for one: ``transformers.Trainer``
then saves a folder that can be loaded instead of bare weights, PEFT leaves the output layer out of ``"all-linear"``.
The documented classes have the methods that this stands for, but cannot inherit them: transformers is not needed here
and takes seconds to import. ``isinstance`` also believes what an object gives as its ``__class__``, as it does for weak
proxies and mocks. So a module gives, once somebody has imported transformers, a class derived from both;
``type(model)`` stays what it is.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, ClassVar

_PLAIN: Any = vars(object)["__class__"]
_HOME = "transformers.modeling_utils"


def theirs_of(kind: type) -> type:
    """The class that an object of class `kind` gives as its own: `kind` itself while transformers is not loaded."""
    base = getattr(sys.modules.get(_HOME), "PreTrainedModel", None)
    if base is None or issubclass(kind, base):
        return kind
    known: type | None = vars(kind).get("_with_their_base")
    if known is None:
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        known = type(kind)(kind.__name__, (kind, base), {**names, "_stands_for": kind})
        kind._with_their_base = known  # type: ignore[attr-defined]
    return known


def ours_of(kind: type) -> type:
    """The class that one of :func:`theirs_of` stands for; any other is itself."""
    found: type = vars(kind).get("_stands_for", kind)
    return found


def their_default(kind: type, name: str) -> Any:
    """What transformers' class says by default where ours says nothing: plain data alone, as methods are its own.

    Raises:
        AttributeError: it says nothing, or transformers is not loaded.
    """
    value = inspect.getattr_static(theirs_of(kind), name)
    if callable(value) or hasattr(value, "__get__"):
        raise AttributeError(name)
    return value


class VirtualBase:
    """Gives a class derived from transformers' too as its own, and is copied and pickled as what it is."""

    _with_their_base: ClassVar[type]
    _stands_for: ClassVar[type]

    def __init_subclass__(cls, **options: Any) -> None:
        if not hasattr(cls, "_stands_for"):  # their own looks at annotations that nobody has evaluated
            super().__init_subclass__(**options)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _empty, (type(self),), self.__getstate__()

    @property
    def __class__(self) -> type:
        return theirs_of(type(self))

    @__class__.setter
    def __class__(self, kind: type) -> None:
        _PLAIN.__set__(self, ours_of(kind))


def _empty(kind: Any) -> Any:
    return kind.__new__(kind)


def _class_of(module: str, name: str) -> type:
    return getattr(sys.modules[module], name)  # type: ignore[no-any-return]


def by_name(kind: type) -> Any:
    """A class pickled as the one it stands for, by its name."""
    own = ours_of(kind)
    return own.__qualname__ if own is kind else (_class_of, (own.__module__, own.__qualname__))
