"""Kinds of settings: how a value is read that may come from a file, a variable or an argument."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a truth value")
    return value


def _split_names(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


WholeNumber = Annotated[int, BeforeValidator(_no_bool)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split_names)]


def setting(default: Any, summary: str, allowed: str, **constraints: Any) -> Any:
    """A field whose schema also says in words what it accepts; error messages and listings read it from there."""
    return Field(default, description=summary, json_schema_extra={"allowed": allowed}, **constraints)
