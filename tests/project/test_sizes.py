"""A module has one idea and fits on a few screens; so does a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ("backends", "cli", "core", "integrations", "plugins", "testing", "utils")

LONG_MODULES: dict[str, int] = {}
"""Modules over 400 lines that are still to be split, and the lines they may have meanwhile."""

LONG_FUNCTIONS: dict[str, int] = {}
"""Functions over 50 lines that are still to be split, and the lines they may have meanwhile."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Every function of a file: its name, and its lines without the docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node, clean=False) is not None:
                lines -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield node.name, lines


@pytest.mark.parametrize(("folders", "most"), [(PACKAGE, 400), (("tests",), 600)], ids=["package", "tests"])
def test_files_are_short(folders: tuple[str, ...], most: int) -> None:
    found = sources(*folders)
    assert found
    lengths = {p.relative_to(ROOT).as_posix(): len(p.read_text(encoding="utf-8").splitlines()) for p in found}
    assert {name: lines for name, lines in lengths.items() if lines > LONG_MODULES.get(name, most)} == {}


def test_functions_are_short() -> None:
    lengths = {
        f"{path.relative_to(ROOT).as_posix()}: {name}": lines
        for path in sources(*PACKAGE)
        for name, lines in functions(path)
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONG_FUNCTIONS.get(name, 50)} == {}
