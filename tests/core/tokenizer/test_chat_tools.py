"""Python functions as tools of a chat: the schemas that transformers makes of them, and errors that name the place."""

from __future__ import annotations

import enum
import functools
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama.core.errors import TokenizerError
from polyllama.core.tokenizer.chat.tool_schemas import as_tools, tool_schema


class Unit(enum.Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


def weather(city: str, unit: Literal["c", "f"] = "c", days: int | None = None) -> str:
    """Say what the weather will be.

    It is a forecast: it may be wrong.

    Args:
        city: The city, such as Oslo, and the country
            note: where there are several
        unit: The unit.

        days: How many days ahead

    Returns:
        The weather,
        in words.
    """
    return city + unit + str(days)


def choices(a: str, b: list[str] = []) -> None:  # noqa: B006 (never called)
    """
    Choose.

    Args:
        a: Which (choices: ["tea ", "coffee"])
        b: Others
    Raises:
        ValueError: never
    """


def nothing() -> int:
    """Return a number."""
    return 4


def containers(a: list, b: list[int], c: dict, d: dict[str, float], e: tuple[int, str], f: Any, g: bool):
    """Hold things.

    Args:
      a: A
      b: B: with a colon
      c: C
      d: D
      e: E
      f: F
      g: G
    """


def unions(
    a: int | str,
    b: Optional[list[int]],  # noqa: UP045
    c: Union[int, list[str], None],  # noqa: UP007
    d: Unit,
    e: Literal[1, "x", None],
    f: list[dict[str, int | None]],
    g: list[tuple[int, int]],
    h: typing.Annotated[int, "more"],
):
    """Differ.

    Args:
        a: A
        b: B
        c: C
        d: D
        e: E
        f: F
        g: G
        h: H
    Returns:
        Nothing.
    """


class Box:
    def put(self, thing: str, count: int = 1) -> bool:
        """Put a thing into the box.

        Args:
            thing: What.
            count: How many.
        """
        return bool(thing and count)

    @classmethod
    def make(cls, size: float) -> Box:
        """Make a box.

        Args:
            size: How large.

        Returns:
            The box.
        """
        return cls()


@pytest.mark.parametrize(
    "function", [weather, choices, nothing, containers, unions, Box().put, Box.put, Box.make], ids=lambda f: f.__name__
)
def test_schemas_are_those_of_transformers(function: Callable[..., Any]) -> None:
    from transformers.utils import get_json_schema

    ours, theirs = tool_schema(function), get_json_schema(function)
    assert ours == theirs
    assert json.dumps(ours) == json.dumps(theirs)  # in this order too: a model reads it as text


SCALARS = st.sampled_from([int, float, str, bool, Unit, Any, Literal["a", "b"], Literal[1, True]])
HINTS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        inner.map(lambda one: list[one]),
        inner.map(lambda one: dict[str, one]),
        inner.map(lambda one: Optional[one]),  # noqa: UP045
        st.tuples(inner, inner).map(lambda pair: tuple[pair]),
        st.tuples(inner, inner).map(lambda pair: Union[pair]),  # noqa: UP007
    ),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(HINTS, st.text("ab .:\n", max_size=12))
def test_types_are_those_of_transformers(hint: Any, words: str) -> None:
    from transformers.utils import get_json_schema

    def tool(x):
        return x

    tool.__annotations__ = {"x": hint, "return": hint}
    tool.__doc__ = f"Do it.\n\nArgs:\n    x: The {' '.join(words.replace(':', '').split())} thing.\n"
    assert tool_schema(tool) == get_json_schema(tool)


def undescribed(a: int, b: int) -> None:
    """Do.

    Args:
        a: A
    """


def unhinted(a) -> None:
    """Do.

    Args:
        a: A
    """


def bare(a: int) -> None: ...


def strange(a: Path) -> None:
    """Do.

    Args:
        a: A
    """


def unknown(a: Nowhere) -> None:  # type: ignore[name-defined] # noqa: F821
    """Do.

    Args:
        a: A
    """


def many(*a: int) -> None:
    """Do.

    Args:
        a: A
    """


def long_tuple(a: tuple[int, ...]) -> None:
    """Do.

    Args:
        a: A
    """


def no_list(a: str) -> None:
    """Do.

    Args:
        a: A (choices: tea, coffee)
    """


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (undescribed, r"the tool 'undescribed', parameter 'b' is not described in the docstring; add `b: \.\.\.`"),
        (unhinted, "the tool 'unhinted', parameter 'a' has no type hint"),
        (bare, "the tool 'bare' has no docstring"),
        (strange, r"the tool 'strange', parameter 'a': the type <class 'pathlib\.Path'> has no JSON schema; use int"),
        (unknown, "the type hints of the tool 'unknown' cannot be read: NameError: name 'Nowhere'"),
        (many, "the tool 'many', parameter 'a': a schema cannot say how many"),
        (long_tuple, r"parameter 'a': tuple\[int, \.\.\.\] has no fixed number.*say list"),
        (no_list, "parameter 'a': the choices 'tea, coffee' are no JSON list"),
        (functools.partial(weather, "Oslo"), r"tool 0 is functools\.partial.*; a tool is a JSON schema, or a function"),
        (Box(), "tool 0 is <.*Box object"),
        (len, "tool 0 is <built-in function len>"),
        (5, "tool 0 is 5"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
def test_functions_without_a_schema_are_errors(function: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        as_tools([function])


@pytest.mark.parametrize("tools", [weather, {"name": "f"}, "weather", False])
def test_tools_are_a_list(tools: Any) -> None:
    with pytest.raises(TokenizerError, match="tools must be a list"):
        as_tools(tools)
    assert as_tools(None) is None and as_tools([]) == []


def test_a_return_type_without_a_schema_is_left_out() -> None:
    assert "return" not in tool_schema(Box.make)["function"]
    assert tool_schema(weather)["function"]["return"] == {
        "type": "string",
        "description": "The weather,\n    in words.",
    }


def test_a_parameter_may_have_its_type_in_the_docstring() -> None:
    def tool(a: int) -> None:
        """Do.

        Args:
            a (int): How many.
        """

    assert tool_schema(tool)["function"]["parameters"]["properties"]["a"]["description"] == "How many."
