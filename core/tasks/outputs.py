"""What a forward pass returns: fields by attribute, by key and as a tuple."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

from ..array_kinds import as_numpy
from ..errors import UnsupportedError
from ..public import for_plugins


@for_plugins
@dataclass
class ModelOutput(dict[str, Any]):
    """Base of all outputs: a mapping of the fields that are there; those that were not asked for are ``None``.

    ``out.logits``, ``out["logits"]`` and ``out[0]`` (the first field that is there) are all the same thing, and
    ``out.to_tuple()`` gives the fields that are there, in order. Iterating gives names, as for any mapping, and a
    mapping or pairs of name and value make one: ``CausalLMOutput({"logits": logits})``.

    Attributes:
        with_past: whether ``past_key_values`` is among the fields where the configuration asks for a cache and the
            caller says nothing. A subclass says so for passes that others may follow.
        field_order: names of the fields in their order, where it is not the usual one: the loss, what a subclass adds,
            the rest.

    >>> out = CausalLMOutput(logits=[0.5], loss=2.0)
    >>> list(out), out[0], out.to_tuple(), out.hidden_states
    (['loss', 'logits'], 2.0, (2.0, [0.5]), None)
    """

    with_past: ClassVar[bool] = False
    field_order: ClassVar[tuple[str, ...]] = ()

    loss: Any = None
    past_key_values: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    to_numpy: Callable[[Any], Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = self.loss
        if isinstance(given, Mapping | Iterator):  # as whoever rebuilds a mapping by its class gives it
            self.loss = None
            for name, value in dict(given).items():
                self[name] = value

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        order = _ORDERS.get(type(self)) or order_of(type(self))
        if name not in order:
            return
        if value is None:
            dict.pop(self, name, None)
            return
        after = (
            () if name in self else [key for key in self if key not in order or order.index(key) > order.index(name)]
        )
        dict.__setitem__(self, name, value)
        for key in after:  # back into the documented order
            dict.__setitem__(self, key, dict.pop(self, key))

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)
        if value is not None:
            dict.__setitem__(self, name, value)  # also what is no field

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self:
            raise KeyError(f"{type(self).__name__} has no {key!r}; it has {', '.join(self)}")
        return dict.__getitem__(self, key)

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are there, in order."""
        return tuple(self.values())

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise UnsupportedError(f"the fields of {type(self).__name__} stay", hint="set one to None to have it left out")

    __delitem__ = pop = popitem = clear = update = setdefault = __ior__ = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        # Without `to_numpy`, which belongs to the model that made it.
        return type(self), (dict(self),)

    def numpy(self) -> dict[str, Any]:
        """Float32 NumPy arrays by name; tuples of them for ``hidden_states`` and ``attentions``.

        ``past_key_values`` is left out: what a cache holds is the backend's own business.
        """
        convert = self.to_numpy or as_float32
        return {
            name: tuple(convert(item) for item in value) if isinstance(value, tuple) else convert(value)
            for name, value in self.items()
            if name != "past_key_values"
        }


def as_float32(array: Any) -> Any:
    """An array of any framework as float32 NumPy."""
    import numpy as np

    return np.asarray(as_numpy(array), np.float32)


_ORDERS: dict[type, tuple[str, ...]] = {}


def order_of(kind: type[ModelOutput]) -> tuple[str, ...]:
    """The documented order of fields: the loss, then the task's own, then the rest. Found once for each class."""
    common = tuple(f.name for f in dataclasses.fields(ModelOutput) if f.name != "to_numpy")
    own = tuple(f.name for f in dataclasses.fields(kind) if f.name not in (*common, "to_numpy"))
    return _ORDERS.setdefault(kind, kind.field_order or (common[0], *own, *common[1:]))


@for_plugins
@dataclass
class BaseModelOutput(ModelOutput):
    """Output of the bare trunk: ``last_hidden_state`` ``[B, S, hidden_size]`` after the final norm."""

    with_past = True

    last_hidden_state: Any = None


@for_plugins
@dataclass
class CausalLMOutput(ModelOutput):
    """Output of a language model: ``logits`` ``[B, kept, vocab_size]`` in float32 (float64 in the reference)."""

    with_past = True

    logits: Any = None


@for_plugins
@dataclass
class SequenceClassifierOutput(ModelOutput):
    """Output of a classifier of texts: ``logits`` ``[B, num_labels]`` in float32 (float64 in the reference)."""

    with_past = True

    logits: Any = None


@for_plugins
@dataclass
class TokenClassifierOutput(ModelOutput):
    """Output of a classifier of tokens: ``logits`` ``[B, S, num_labels]`` in float32 (float64 in the reference)."""

    logits: Any = None


@for_plugins
@dataclass
class QuestionAnsweringOutput(ModelOutput):
    """Where an answer may start and end: ``start_logits`` and ``end_logits`` ``[B, S]``, in float32 as the others."""

    start_logits: Any = None
    end_logits: Any = None


@for_plugins
@dataclass
class EmbeddingOutput(ModelOutput):
    """Texts as vectors of length 1: ``embeddings`` ``[B, hidden_size]``, in float32 as the others."""

    embeddings: Any = None
