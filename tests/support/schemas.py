"""JSON schemas whose texts are short, so that sampled ones end: one or more for each idea of JSON Schema."""

from __future__ import annotations

from typing import Any

SHORT = {"type": "string", "maxLength": 8}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 99}


def record(**properties: Any) -> dict[str, Any]:
    """An object of exactly these."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


SCHEMAS: dict[str, Any] = {
    "boolean": {"type": "boolean"},
    "null or digit": {"anyOf": [{"type": "null"}, DIGIT]},
    "integer range": {"type": "integer", "minimum": -5, "maximum": 1200},
    "number range": {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25},
    "string": SHORT,
    "string of lengths": {"type": "string", "minLength": 3, "maxLength": 6},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "date": {"type": "string", "format": "date"},
    "enum": {"enum": ["red", "green", 3, None, {"a": [1]}]},
    "const": {"const": {"version": 2, "tags": []}},
    "record": record(name=SHORT, age=DIGIT),
    "optional": {**record(name=SHORT), "properties": {"name": SHORT, "nick": SHORT}},
    "nested": record(outer=record(inner=record(value=DIGIT))),
    "array": {"type": "array", "items": DIGIT, "minItems": 2, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [SHORT, DIGIT], "items": False, "minItems": 2},
    "array of records": {"type": "array", "items": record(x=DIGIT, y=DIGIT), "maxItems": 2, "minItems": 1},
    "any of records": {"anyOf": [record(kind={"const": "a"}, a=DIGIT), record(kind={"const": "b"}, b=SHORT)]},
    "all of": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
    "reference": {**record(left={"$ref": "#/$defs/leaf"}), "$defs": {"leaf": record(leaf={"type": "boolean"})}},
    "pattern properties": {
        "type": "object",
        "patternProperties": {"^[a-c]$": DIGIT},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    "unicode": record(**{"größe": DIGIT, 'a"b': {"enum": ["é", "日本", "\u2028"]}}),
}
