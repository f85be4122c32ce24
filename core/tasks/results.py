"""What a prediction is: labels, entities, answers. For programs each becomes a plain dictionary."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..public import for_plugins


@for_plugins
@dataclass(frozen=True)
class Label:
    """A label and how sure the model is of it.

    Attributes:
        score: a probability; for regression the value itself.

    >>> print(Label("positive", 0.987))
    positive (0.987)
    """

    label: str
    score: float

    def __str__(self) -> str:
        return f"{self.label} ({self.score:.3f})"

    def to_dict(self) -> dict[str, Any]:
        """``label`` and ``score``."""
        return {"label": self.label, "score": self.score}


@for_plugins
@dataclass(frozen=True)
class Entity:
    """A stretch of a text and what it is: ``text[entity.start:entity.end] == entity.word``, without spaces around it.

    Attributes:
        label: ``"PER"``; of a single token as the model has it, ``"B-PER"``.
        score: a probability.
        start, end: characters of the text.
        index: number of the token in the model's row, where tokens were not put together.

    >>> print(Entity("PER", 0.99, "Sarah", 11, 16))
    Sarah: PER (0.990)
    """

    label: str
    score: float
    word: str
    start: int
    end: int
    index: int | None = None

    def __str__(self) -> str:
        return f"{self.word}: {self.label} ({self.score:.3f})"

    def to_dict(self) -> dict[str, Any]:
        """With ``entity`` and ``index`` for a token, with ``entity_group`` for tokens that were put together."""
        name, index = ("entity_group", {}) if self.index is None else ("entity", {"index": self.index})
        return {name: self.label, "score": self.score, **index, "word": self.word, "start": self.start, "end": self.end}


@for_plugins
@dataclass(frozen=True)
class Answer:
    """A piece of the context that answers the question: ``context[answer.start:answer.end] == answer.text``.

    Attributes:
        text: empty, with `start` and `end` 0, where the context has no answer.
        score: a probability.

    >>> print(Answer("by the sea", 0.83, 16, 26))
    by the sea
    """

    text: str
    score: float
    start: int
    end: int

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """``score``, ``start``, ``end`` and ``answer``."""
        return {"score": self.score, "start": self.start, "end": self.end, "answer": self.text}


def as_data(result: Any) -> Any:
    """A result as numbers, texts, lists and dictionaries, whatever task it came from.

    >>> as_data([Label("positive", 0.5)])
    [{'label': 'positive', 'score': 0.5}]
    """
    if hasattr(result, "to_dict"):
        return as_data(result.to_dict())
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return {field.name: as_data(getattr(result, field.name)) for field in dataclasses.fields(result)}
    if isinstance(result, dict):
        return {str(name): as_data(value) for name, value in result.items()}
    if isinstance(result, (list, tuple)):
        return [as_data(item) for item in result]
    if hasattr(result, "tolist"):  # an array, or a number of NumPy's
        return result.tolist()
    return result
