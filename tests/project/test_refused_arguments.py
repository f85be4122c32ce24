"""The guide's tables of refused arguments are those of the code."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_guide_lists_every_refused_argument() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from refused_arguments import GUIDE, tables, written
    finally:
        sys.path.remove(str(ROOT / "tools"))
    text = GUIDE.read_text(encoding="utf-8")
    assert text == written(text), "run python tools/refused_arguments.py"
    for name in ("num_beam_groups", "custom_generate", "max_memory", "binary_output", "threads"):
        assert f"`{name}`" in tables()
