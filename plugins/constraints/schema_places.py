"""Where in a JSON schema the mistake is that a compiler reports without a place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

MOST_TRIES = 200
"""Parts of a schema that are compiled at most to find the one that is wrong."""

_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_ONE = ("items", "additionalProperties", "additionalItems", "not", "contains", "propertyNames", "if", "then", "else")


def place_of_error(source: str, message: str, problem: Callable[[str], str]) -> str:
    """The innermost part of a schema that gives the same message alone, as `` at /properties/name``; else ``""``.

    Args:
        problem: what a compiler says of a schema's text; empty where nothing is wrong.

    >>> source = '{"properties": {"a": {"type": "integer"}, "b": {"type": "strin"}}}'
    >>> place_of_error(source, "no strin", lambda text: "no strin" * ("strin" in text))
    ' at /properties/b'
    """
    root = json.loads(source)
    if not isinstance(root, dict):
        return ""
    shared = {name: root[name] for name in ("$defs", "definitions", "x-guidance") if name in root}
    place, schema, tries = "", root, 0
    while True:
        for step, part in _parts(schema):
            if tries >= MOST_TRIES:
                return f" at {place}" if place else ""
            tries += 1
            # A part among the shared ones must be found by what it is, and not by its standing there.
            others = shared if not step.startswith(("/$defs", "/definitions")) or place else {}
            if _first_line(problem(json.dumps({**others, **part}))) == _first_line(message):
                place, schema = place + step, part
                break
        else:
            return f" at {place}" if place else ""


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas directly inside one, each with the step that leads to it (RFC 6901)."""
    for name in _BY_NAME:
        inside = schema.get(name)
        if isinstance(inside, dict):
            for key, part in inside.items():
                if isinstance(part, dict):
                    yield f"/{name}/{key.replace('~', '~0').replace('/', '~1')}", part
    for name in _LISTED:
        inside = schema.get(name)
        if isinstance(inside, list):
            for index, part in enumerate(inside):
                if isinstance(part, dict):
                    yield f"/{name}/{index}", part
    for name in _ONE:
        part = schema.get(name)
        if isinstance(part, dict):
            yield f"/{name}", part


def _first_line(message: str) -> str:
    """What is compared: where in a whole a mistake is differs in a part of it."""
    return message.removeprefix("ERROR:").strip().split("\n")[0]
