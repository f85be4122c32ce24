"""Every example in a public docstring runs."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import polyllama
import pytest

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


@pytest.mark.parametrize("name", modules())
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert result.attempted > 0 and result.failed == 0
