"""Every example in a public docstring runs."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import polyllama
import pytest
from polyllama.core.public import defined_in

ROOT = Path(polyllama.__file__).parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules() -> list[str]:
    names = ["polyllama"]
    for part in ("core", "backends", "plugins"):
        for path in sorted((ROOT / part).rglob("*.py")):
            if ">>>" in path.read_text():
                dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                names.append(f"polyllama.{dotted}")
    return names


class Finder(doctest.DocTestFinder):
    """Finds the examples of what a module defines, also of what is at home in ``polyllama`` or ``polyllama.extend``."""

    def _from_module(self, module: ModuleType, found: Any) -> bool:
        if hasattr(found, "__module__") and not isinstance(found, ModuleType | property):
            return defined_in(found) == module.__name__
        return super()._from_module(module, found)  # type: ignore[misc, no-any-return]


def written(path: Path) -> int:
    """How many examples there are in a file's docstrings."""
    places = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = [
        ast.get_docstring(node) or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, places)
    ]
    return sum(len(doctest.DocTestParser().get_examples(text)) for text in docstrings)


@pytest.mark.parametrize("name", modules())
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in Finder().find(module, module.__name__):
        runner.run(test)
    assert runner.tries >= written(Path(str(module.__file__))) > 0 and runner.failures == 0  # some are inherited
