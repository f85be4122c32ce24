"""The documented module path of the visualizer."""

from __future__ import annotations

import sys

import polyllama
import pytest
from support_processes import run_process


def test_it_is_the_public_class_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    from polyllama.utils.attention_visualizer import AttentionMaskVisualizer

    assert AttentionMaskVisualizer is polyllama.AttentionMaskVisualizer
    visualizer = AttentionMaskVisualizer("tiny")
    assert visualizer("Plants create energy") is None
    printed = capsys.readouterr().out
    assert printed.startswith("tiny: 11 tokens\n") and printed.count("■") > 60
    assert printed == str(visualizer.picture("Plants create energy")) + "\n"


def test_importing_polyllama_loads_none_of_it() -> None:
    code = "import sys, polyllama; print([name for name in sys.modules if name.startswith('polyllama.')])"
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
