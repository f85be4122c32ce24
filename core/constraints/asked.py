"""What a request asks its text to follow, and what the text means then."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import GenerationError
from ..messages import shortened

KINDS = ("json_schema", "regex", "grammar", "choices")


@dataclass(frozen=True)
class Asked:
    """A constraint as a request asks for it.

    Attributes:
        kind: the option that it is.
        source: its text; of choices a JSON list.
        model: the pydantic model whose schema it is, where one was given.
        name: what messages call it: the option, or what was asked for where that made the option.
    """

    kind: str
    source: str
    model: Any = field(default=None, compare=False)
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.kind)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Asked | None:
        """The one of the four options that is set, as :func:`read_schema` and the other rules of options leave them.

        Raises:
            GenerationError: several are.
        """
        given = [kind for kind in KINDS if values.get(kind) is not None]
        if len(given) > 1:
            raise GenerationError(
                f"{given[0]} and {given[1]} are two constraints; a text can be held to one",
                hint="give one of " + ", ".join(KINDS),
            )
        if not given:
            return None
        kind, value, name = given[0], values[given[0]], values.get("held_to") or given[0]
        if kind == "choices":
            return cls(kind, json.dumps(list(value), ensure_ascii=False), name=name)
        if kind != "json_schema":
            return cls(kind, value, name=name)
        model = value if is_model(value) else None
        schema = _closed(_schema_of(value)) if model is not None else value
        return cls(kind, json.dumps(schema, ensure_ascii=False), model, name)

    def parse(self, text: str) -> Any:
        """What a text that follows the constraint means: an instance of the model, JSON's value, the choice.

        ``None`` for regular expressions and grammars, which have no value beside their text.

        Raises:
            ValueError: the model refuses it, by a validator of its own; or JSON that Python does not read.
        """
        if self.kind == "choices":
            return text
        if self.kind != "json_schema":
            return None
        if self.model is not None:
            return self.model.model_validate_json(text)
        try:
            return json.loads(text)
        except RecursionError:
            raise ValueError("the value is nested deeper than Python's json reads") from None


def is_model(value: Any) -> bool:
    """Whether it is a class of pydantic's, or one that follows its ways."""
    return isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in ("model_json_schema", "model_validate_json")
    )


def _closed(schema: Any) -> Any:
    """A model's schema without the further properties that it would ignore: nobody asks for those."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        name: part if name in ("default", "const", "enum", "examples") else _closed(part)
        for name, part in schema.items()
    }
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


def _schema_of(model: Any) -> Any:
    try:
        return model.model_json_schema()
    except Exception as error:  # whatever a field of somebody's own raises
        raise GenerationError(
            f"json_schema: {model.__name__} has no JSON schema: {shortened(str(error), 200)}",
            hint="give the schema as a dictionary",
        ) from None


def read_schema(value: Any) -> Any:
    """A JSON schema as an option takes it: a mapping, ``True``, its JSON text, or a pydantic model class.

    Raises:
        GenerationError: text that is no JSON (says where), or a mapping that JSON cannot say.

    >>> read_schema('{"type": "integer"}')
    {'type': 'integer'}
    """
    if is_model(value):
        return value
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise GenerationError(
                f"json_schema is no JSON: {error}", hint="give a JSON schema, a dictionary or a pydantic model class"
            ) from None
        except RecursionError:
            raise _too_deep() from None
    if not isinstance(value, Mapping) and value is not True:
        return None
    try:
        return json.loads(json.dumps(value, default=_plain, allow_nan=False))
    except RecursionError:
        raise _too_deep() from None
    except (TypeError, ValueError) as error:
        raise GenerationError(f"json_schema holds what JSON cannot say: {error}") from None


def _too_deep() -> GenerationError:
    return GenerationError("json_schema is nested too deeply", hint="name parts of it by $defs and $ref")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence | set | frozenset):
        return list(value)
    raise TypeError(f"{value!r:.60} is a {type(value).__name__}")


def read_text(value: Any) -> str | None:
    """A regular expression or a grammar: a text that is not empty."""
    return value if isinstance(value, str) and value else None


def read_choices(value: Any) -> tuple[str, ...] | None:
    """Texts to choose from, none of them empty.

    >>> read_choices(["yes", "no", "yes"])
    ('yes', 'no')
    """
    if isinstance(value, str) or not isinstance(value, Sequence | set | frozenset) or not value:
        return None
    given = sorted(value, key=str) if isinstance(value, set | frozenset) else value
    if not all(isinstance(item, str) and item for item in given):
        return None
    return tuple(dict.fromkeys(given))
