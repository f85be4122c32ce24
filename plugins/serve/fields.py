"""Bodies of requests: pydantic classes that refuse what they do not know, and say in one line what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...core.http_interface import HttpError
from ...core.messages import did_you_mean, shortened, visible

B = TypeVar("B", bound=BaseModel)

Penalty = Annotated[float, Field(ge=-2, le=2)]
"""A presence or frequency penalty, in the bounds of OpenAI's documents: far beyond them logits are no numbers."""

RepetitionPenalty = Annotated[float, Field(ge=0.01, le=100)]

_SHOWN = 60
"""Letters of a value in a message."""


class Body(BaseModel):
    """Base of every request's body: strict types, finite numbers, no unknown fields."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )


class Part(Body):
    """A part of a body with fields of its own."""


def no_effect(summary: str = "accepted, without effect here") -> Any:
    """A field that clients send by habit, and which could change nothing about the answer."""
    return Field(default=None, description=summary, json_schema_extra={"x-no-effect": True})


def ignored_fields(body: type[BaseModel]) -> list[str]:
    """Names of the fields of a body that have no effect.

    >>> class Thing(Body):
    ...     text: str
    ...     user: Any = no_effect()
    >>> ignored_fields(Thing)
    ['user']
    """
    found = []
    for name, field in body.model_fields.items():
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("x-no-effect"):
            found.append(name)
    return found


def read_body(kind: type[B], content: bytes) -> B:
    """A body as an object of its class.

    Raises:
        HttpError: what is wrong with the first field that is (400).

    >>> class Thing(Body):
    ...     text: str
    >>> read_body(Thing, b'{"text": "a"}').text
    'a'
    >>> read_body(Thing, b'{"text": "a", "txet": 1}')
    Traceback (most recent call last):
    ...
    polyllama.extend.HttpError: the request has an unknown field 'txet'; did you mean 'text'?
    """
    if not content.strip():
        raise HttpError("the request has no body", hint="send JSON")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise _explained(kind, error) from None
    except RecursionError:
        raise HttpError("the request's JSON is nested too deeply") from None


def _explained(kind: type[BaseModel], error: ValidationError) -> HttpError:
    problems = error.errors(include_url=False, include_context=False)
    # In a union every member complains; what got farthest into the body says most.
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1]
    problem = unknown[0] if unknown else max(problems, key=lambda each: len(each["loc"]))
    where = _place(problem["loc"])
    shown = repr(visible(where, in_line=True))
    match problem["type"]:
        case "json_invalid":
            return HttpError(f"the request is no JSON: {problem['msg'].partition(': ')[2]}")
        case "model_type" | "dict_type" if not problem["loc"]:
            return HttpError("the request's JSON is no object", hint="send {...}")
        case "extra_forbidden":
            known = _fields_at(kind, problem["loc"][:-1])
            hint = did_you_mean(str(problem["loc"][-1]), known) if known else None
            return HttpError(f"the request has an unknown field {shown}", param=where, kind="unknown_field", hint=hint)
        case "missing":
            return HttpError(f"the request lacks the field {shown}", param=where, kind="missing_field")
    message = problem["msg"][0].lower() + problem["msg"][1:]
    value = shortened(visible(repr(problem["input"]), in_line=True), _SHOWN)
    return HttpError(f"the field {shown} is {value}: {message.removeprefix('value error, ')}", param=where)


def _place(location: tuple[int | str, ...]) -> str:
    """Where a field is, as one would write it: ``messages[0].role``; without pydantic's names of a union's members."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int", "float", "bool") and not part[0].isupper():
            text += f".{part}" if text else part
        elif not text:
            text = part
    return text


def _fields_at(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The fields that there are at a place; none where that is not plain."""
    if not location:
        return [field.alias or name for name, field in kind.model_fields.items()]
    found: list[Any] = [kind.model_fields[str(location[0])].annotation] if location[0] in kind.model_fields else []
    while found:
        one = found.pop()
        if isinstance(one, type) and issubclass(one, BaseModel):
            return list(one.model_fields)
        found += getattr(one, "__args__", ())
    return []


def given(body: BaseModel, names: Mapping[str, str]) -> dict[str, Any]:
    """Values of a body that were given and are not null: generation's option -> value.

    Args:
        names: generation's option -> the field.
    """
    return {ours: value for ours, field in names.items() if (value := getattr(body, field, None)) is not None}
