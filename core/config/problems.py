"""How the configuration reports what is wrong: every problem at once, each with field, value and remedy."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from ..errors import ConfigError
from ..messages import closest, shortened

if TYPE_CHECKING:
    from pydantic import ValidationError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        field: the schema's name of the field; a message uses the file's spelling where that differs.
        text: what follows the name, value first: ``"=-3 must be at least 1"``.
    """

    field: str
    text: str


class ConfigProblems(ConfigError):
    """Everything that is wrong with a configuration: ``problems`` has a line for each, ``field`` is the first field."""

    def __init__(self, where: str, problems: Sequence[str], *, field: str | None = None) -> None:
        self.where = where
        self.problems = tuple(dict.fromkeys(problems))
        if len(self.problems) == 1:
            message = f"{where}: {self.problems[0]}"
        else:
            message = f"{where}: {len(self.problems)} problems" + "".join(f"\n  - {line}" for line in self.problems)
        super().__init__(message, field=field)


def show(value: Any, limit: int = 60) -> str:
    """A value as a config file would spell it, shortened.

    >>> show("a"), show(None), show(True), show([1, 2])
    ('"a"', 'null', 'true', '[1, 2]')
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int) and value.bit_length() > 200:
        return f"(an integer of {value.bit_length()} bits)"
    try:
        text = repr(value)
    except Exception:  # whatever object a caller passed, naming its type is enough
        return f"(a {type(value).__name__})"
    if isinstance(value, str):
        text = '"' + text[1:-1].replace('"', '\\"').replace("\\'", "'") + '"'
    return shortened(text, limit, " ...")


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value is an integer of at least 1 (a bool is not)."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def same(one: Any, other: Any) -> bool:
    """Whether two spellings say the same, whatever types a caller passed."""
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    try:
        return bool(one == other)
    except Exception:  # an object that cannot be compared is no spelling of a number or a string
        return False


def contradiction(first: tuple[str, Any], second: tuple[str, Any]) -> str:
    """What to say of two spellings of one thing that disagree; each is (name, value)."""
    (name, value), (other, other_value) = first, second
    return (
        f"{name}={show(value)} and {other}={show(other_value)} contradict each other; "
        f"remove {name} if {show(other_value)} is right, or {other} if {show(value)} is"
    )


def did_you_mean(name: Any, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``' (did you mean "silu"?)'``, or nothing."""
    match = closest(name, known, cutoff=cutoff)
    return f' (did you mean "{match}"?)' if match else ""


def divisors_hint(number: int) -> str:
    """The divisors of `number` in words, the smallest and largest where there are many."""
    if number > 1_000_000:
        return f"a divisor of {number}"
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    if len(divisors) > 8:
        shown = ", ".join(map(str, divisors[:4])) + ", ..., " + ", ".join(map(str, divisors[-3:]))
    else:
        shown = ", ".join(map(str, divisors))
    return f"one of {shown}"


def field_problems(error: ValidationError, defaults: dict[str, Any], skip: Collection[str] = ()) -> list[Problem]:
    """What pydantic found, in our words; one problem for each field."""
    problems: dict[str, Problem] = {}
    for item in error.errors(include_url=False):
        location = item["loc"]
        field = str(location[0])
        if field in skip or field in problems:
            continue
        element = "".join(f"[{step}]" for step in location[1:] if isinstance(step, int))
        text = f"{element}={show(item['input'])} {_must(field, item)}"
        default = defaults.get(field)
        if not element and default is not None and not isinstance(default, list | dict):
            text += f" (the default is {show(default)})"
        problems[field] = Problem(field, text)
    return list(problems.values())


_WORDS = {
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text in quotes",
    "list_type": "must be a list",
    "tuple_type": "must be a list of numbers",
    "dict_type": "must be an object",
    "finite_number": "must be a finite number",
    "model_type": "must be an object",
}


def _must(field: str, item: Any) -> str:
    kind, given, limits = item["type"], item["input"], item.get("ctx", {})
    if field == "eos_token_id":
        return "must be an integer, a list of integers or null"
    if kind == "int_type":
        words = "must be an integer"
    elif kind in _WORDS:
        words = _WORDS[kind]
    elif kind in ("greater_than_equal", "greater_than", "less_than_equal", "less_than"):
        name, bound = next(iter(limits.items()))
        relation = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}[name]
        words = f"must be {relation} {bound:g}" if isinstance(bound, float) else f"must be {relation} {bound}"
    else:
        words = f"is wrong: {item['msg']}"
    return words + _unquoted(given, kind)


def _unquoted(given: Any, kind: str) -> str:
    """The remedy for a number or truth value in the wrong dress."""
    if kind == "int_type" and isinstance(given, float) and given.is_integer():
        return f": write {int(given)}"
    if kind in ("int_type", "float_type") and isinstance(given, str) and len(given) < 30:
        try:
            float(given)
        except ValueError:
            return ""
        return f": write {given.strip()} without quotes"
    if kind == "bool_type" and isinstance(given, str) and given.lower() in ("true", "false"):
        return f": write {given.lower()} without quotes"
    return ""
