"""Tools of a chat: JSON schemas as they are given, or made from the signature and docstring of a Python function."""

from __future__ import annotations

import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import TokenizerError

_JSON_TYPES: Mapping[object, str] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    type(None): "null",
    list: "array",
    tuple: "array",
    dict: "object",
}
_SCALARS = (int, float, str, bool, type(None))
_BY_HAND = "write the JSON schema by hand and give that instead of the function"
_SECTION = re.compile(r"(Args|Returns|Raises):\s*(.*)")
_ENTRY = re.compile(r"(\w+)\s*(?:\([^)]*\))?:\s*(.*)")
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)


def as_tools(tools: object) -> list[Any] | None:
    """Return the schemas of the tools of a chat: mappings as they are, functions by :func:`tool_schema`.

    Errors: TokenizerError for what is no list, and for a tool that is neither.
    """
    if tools is None:
        return None
    if isinstance(tools, str | Mapping) or callable(tools) or not isinstance(tools, Sequence):
        raise TokenizerError(f"tools must be a list, got {tools!r:.80}", hint="put a single tool in a list: [tool]")
    return [tool if isinstance(tool, Mapping) else _of_callable(place, tool) for place, tool in enumerate(tools)]


def _of_callable(place: int, tool: Any) -> dict[str, Any]:
    if inspect.isfunction(tool) or inspect.ismethod(tool):
        return tool_schema(tool)
    raise TokenizerError(
        f"tool {place} is {tool!r:.80}; a tool is a JSON schema, or a function with type hints and a docstring",
        hint="wrap it in a function, or " + _BY_HAND,
    )


def tool_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the JSON schema of a function as chat models are told of it.

    Its parameters' types come from the type hints, what it and they are for from its docstring in Google's form
    (``Args:``, ``Returns:``). A description that ends in ``(choices: ["a", "b"])`` lists the values allowed. ``self``
    and ``cls`` are left out. For docstrings in that form it is what
    ``transformers.utils.get_json_schema`` gives.

    Errors: TokenizerError naming the function and the parameter that lacks a hint or a description, or whose type has
    no schema.

    >>> def add(a: int, b: int = 0):
    ...     '''Add two numbers.
    ...
    ...     Args:
    ...         a: The first.
    ...         b: The second.
    ...     '''
    >>> schema = tool_schema(add)["function"]
    >>> schema["description"], schema["parameters"]["required"], schema["parameters"]["properties"]["b"]
    ('Add two numbers.', ['a'], {'type': 'integer', 'description': 'The second.'})
    """
    name = getattr(function, "__name__", "function")
    described = _Docstring.read(function, name)
    hints, parameters = _hints(function, name), _parameters(function)
    properties: dict[str, Any] = {}
    for parameter in parameters:
        where = f"the tool {name!r}, parameter {parameter.name!r}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TokenizerError(f"{where}: a schema cannot say how many arguments it takes", hint=_BY_HAND)
        if parameter.name not in hints:
            raise TokenizerError(f"{where} has no type hint", hint=f"such as `{parameter.name}: str`")
        if parameter.name not in described.parameters:
            raise TokenizerError(
                f"{where} is not described in the docstring", hint=f"add `{parameter.name}: ...` under `Args:`"
            )
        schema = _type_schema(hints[parameter.name], where)
        properties[parameter.name] = _described(schema, described.parameters[parameter.name], where)
    schema = {"type": "object", "properties": properties}
    if required := [one.name for one in parameters if one.default is one.empty]:
        schema["required"] = required
    whole = {"name": name, "description": described.summary, "parameters": schema}
    if "return" in hints and (returned := _return_schema(hints["return"], described)) is not None:
        whole["return"] = returned
    return {"type": "function", "function": whole}


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that a model fills in: not a first ``self`` or ``cls`` without a hint."""
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name in ("self", "cls") and parameters[0].annotation is inspect.Parameter.empty:
        del parameters[0]
    return parameters


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception as error:  # whatever evaluating somebody's annotations raises
        raise TokenizerError(
            f"the type hints of the tool {name!r} cannot be read: {type(error).__name__}: {error}", hint=_BY_HAND
        ) from None


def _return_schema(hint: Any, described: _Docstring) -> dict[str, Any] | None:
    """What the function gives back; a model never writes it, so a type without a schema is left out."""
    try:
        schema = _type_schema(hint, "the return value")
    except TokenizerError:
        return None
    return schema if described.returns is None else {**schema, "description": described.returns}


def _described(schema: dict[str, Any], description: str, where: str) -> dict[str, Any]:
    """A parameter's schema with its description, and the choices that this ends in."""
    found = _CHOICES.search(description)
    if found is None:
        return {**schema, "description": description}
    try:
        choices = json.loads(found[1])
    except ValueError:
        choices = None
    if not isinstance(choices, list):
        raise TokenizerError(
            f"{where}: the choices {found[1]!r:.80} are no JSON list", hint='such as (choices: ["a", "b"])'
        )
    choices = [choice.strip() if isinstance(choice, str) else choice for choice in choices]
    return {**schema, "enum": choices, "description": description[: found.start()].strip()}


def _type_schema(hint: Any, where: str) -> dict[str, Any]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _values_schema([member.value for member in hint], hint, where)
    if origin is None and hint in _JSON_TYPES:
        return {"type": _JSON_TYPES[hint]}
    if origin in _JSON_TYPES and not inner:  # typing.List and the like, without saying of what
        return {"type": _JSON_TYPES[origin]}
    if origin in (typing.Union, types.UnionType):
        return _union_schema(inner, where)
    if origin is typing.Literal:
        return _values_schema(list(inner), hint, where)
    if origin is list:
        return {"type": "array", "items": _type_schema(inner[0], where)}
    if origin is tuple and len(inner) > 1 and ... not in inner:
        return {"type": "array", "prefixItems": [_type_schema(one, where) for one in inner]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type_schema(inner[1], where)}
    if origin is tuple:
        raise TokenizerError(f"{where}: {hint} has no fixed number of values above one", hint="say list[...] instead")
    raise TokenizerError(
        f"{where}: the type {hint!r:.80} has no JSON schema",
        hint="use int, float, str, bool, Enum, Literal, or list, tuple, dict and unions of them, or " + _BY_HAND,
    )


def _union_schema(kinds: Sequence[Any], where: str) -> dict[str, Any]:
    schemas = [_type_schema(kind, where) for kind in kinds if kind is not type(None)]
    if len(schemas) == 1:
        schema = schemas[0]
    elif all(list(one) == ["type"] and isinstance(one["type"], str) for one in schemas):
        names = sorted({one["type"] for one in schemas})
        schema = {"type": names[0] if len(names) == 1 else names}
    else:
        schema = {"anyOf": schemas}
    return {**schema, "nullable": True} if type(None) in kinds else schema


def _values_schema(values: list[Any], hint: Any, where: str) -> dict[str, Any]:
    """The schema of a type that is a list of its values."""
    if not values or any(type(value) not in _SCALARS for value in values):
        raise TokenizerError(
            f"{where}: the values of {hint!r:.80} are not all texts, numbers, True, False or None", hint=_BY_HAND
        )
    names = list(dict.fromkeys(_JSON_TYPES[type(value)] for value in values))
    return {"type": names[0] if len(names) == 1 else names, "enum": values}


class _Docstring:
    """What a docstring in Google's form says: the function, its parameters, what it gives back."""

    def __init__(self, text: str) -> None:
        summary, sections = _sections(text)
        self.summary = summary
        self.parameters = _entries(sections.get("Args", []))
        self.returns = "\n".join(sections["Returns"]).strip() or None if "Returns" in sections else None

    @classmethod
    def read(cls, function: Callable[..., Any], name: str) -> _Docstring:
        text = inspect.getdoc(function)
        if not text or not text.strip():
            raise TokenizerError(
                f"the tool {name!r} has no docstring, so a model cannot be told what it is for",
                hint="write one that describes it and, under `Args:`, each parameter",
            )
        return cls(text.strip())


def _sections(text: str) -> tuple[str, dict[str, list[str]]]:
    """What stands before the first section, and the lines of each; the first of two of a name counts."""
    before: list[str] = []
    sections: dict[str, list[str]] = {}
    lines = before
    for line in text.split("\n"):
        header = _SECTION.fullmatch(line.strip())
        if header is None:
            lines.append(line)
        else:
            lines = [header[2]] if header[2] else []
            sections.setdefault(header[1], lines)
    return "\n".join(before).strip(), sections


def _entries(lines: Sequence[str]) -> dict[str, str]:
    """``name: description`` of each parameter; a line that is indented deeper goes on with the one before."""
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    depth: int | None = None
    for line in lines:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if not text:
            continue
        entry = _ENTRY.fullmatch(text)
        if entry is not None and (depth is None or indent <= depth):
            depth = indent
            current = found.setdefault(entry[1], [])
            text = entry[2]
        if current is not None and text:
            current.append(text)
    return {name: " ".join(texts) for name, texts in found.items()}
