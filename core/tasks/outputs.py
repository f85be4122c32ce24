"""What a forward pass returns: fields by attribute, by key and as a tuple."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..public import for_plugins


@for_plugins
@dataclass
class ModelOutput:
    """Base of all outputs. Arrays are the backend's own; fields that were not asked for are ``None``.

    ``out.logits``, ``out["logits"]`` and ``out[0]`` (the first field that is there) are all the same thing, and
    ``out.to_tuple()`` gives the fields that are there, in order.
    """

    loss: Any = None
    past_key_values: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    to_numpy: Callable[[Any], Any] | None = field(default=None, repr=False, compare=False)

    def keys(self) -> tuple[str, ...]:
        """Names of the fields that are there."""
        kind: Any = type(self)  # mypy takes a class for unhashable where its instances are
        return tuple(name for name in _order(kind) if getattr(self, name) is not None)

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are there, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def get(self, name: str, default: Any = None) -> Any:
        """The field called `name`, or `default` where it is not there."""
        return getattr(self, name) if name in self.keys() else default

    def values(self) -> tuple[Any, ...]:
        """:meth:`to_tuple` by the mapping's name for it."""
        return self.to_tuple()

    def items(self) -> Iterator[tuple[str, Any]]:
        """Name and value of each field that is there."""
        return ((name, getattr(self, name)) for name in self.keys())

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            if key not in self.keys():
                raise KeyError(f"{type(self).__name__} has no {key!r}; it has {', '.join(self.keys())}")
            return getattr(self, key)
        return self.to_tuple()[key]

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __len__(self) -> int:
        return len(self.keys())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def numpy(self) -> dict[str, Any]:
        """Float32 NumPy arrays by name; tuples of them for ``hidden_states`` and ``attentions``.

        ``past_key_values`` is left out: what a cache holds is the backend's own business.
        """
        convert = self.to_numpy
        if convert is None:
            import numpy as np

            def convert(array: Any) -> Any:
                return np.asarray(array, np.float32)

        return {
            name: tuple(convert(item) for item in value) if isinstance(value, tuple) else convert(value)
            for name, value in self.items()
            if name != "past_key_values"
        }


@functools.cache
def _order(kind: Any) -> tuple[str, ...]:
    """The documented order: the loss, then the task's own fields, then the rest."""
    common = tuple(f.name for f in dataclasses.fields(ModelOutput) if f.name != "to_numpy")
    own = tuple(f.name for f in dataclasses.fields(kind) if f.name not in (*common, "to_numpy"))
    return (common[0], *own, *common[1:])


@for_plugins
@dataclass
class BaseModelOutput(ModelOutput):
    """Output of the bare trunk: ``last_hidden_state`` ``[B, S, hidden_size]`` after the final norm."""

    last_hidden_state: Any = None


@for_plugins
@dataclass
class CausalLMOutput(ModelOutput):
    """Output of a language model: ``logits`` ``[B, kept, vocab_size]`` in float32 (float64 in the reference)."""

    logits: Any = None


@for_plugins
@dataclass
class SequenceClassifierOutput(ModelOutput):
    """Output of a classifier of texts: ``logits`` ``[B, num_labels]`` in float32 (float64 in the reference)."""

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
