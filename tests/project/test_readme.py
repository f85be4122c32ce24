"""The README's and the plugin guide's Python blocks run, in order, as a reader would paste them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import cast

import click
import polyllama
import pytest

ROOT = Path(polyllama.__file__).parent
CHAT_MODEL = '"smollm2"'
BLOCKS = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_readme(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names: dict[str, object] = {}
    blocks = BLOCKS.findall((ROOT / "README.md").read_text())
    assert len(blocks) >= 5
    for block in blocks:
        if CHAT_MODEL in block:
            continue  # the next test's
        exec(block.replace("/tmp/my-model", str(tmp_path)), names)
    assert len(capsys.readouterr().out) > 100
    assert (tmp_path / "model.safetensors").is_file()


def test_readme_chat(capsys: pytest.CaptureFixture[str], smollm2: Path) -> None:
    [block] = [block for block in BLOCKS.findall((ROOT / "README.md").read_text()) if CHAT_MODEL in block]
    exec(f"from polyllama import Llama\n{block}", {})
    assert capsys.readouterr().out == "The capital of France is Paris.\n"


def test_the_backend_of_the_plugin_guide_is_right() -> None:
    from polyllama import Llama

    blocks = BLOCKS.findall((ROOT / "docs" / "plugins.md").read_text())
    source = next(block for block in blocks if "class NumPy32" in block)
    names: dict[str, object] = {"__name__": "guide"}
    exec(source, names)
    from polyllama.core.backend.protocol import RealizeOptions
    from polyllama.core.loading.describe import describe
    from polyllama.core.loading.read_weights import weights_for

    described = describe("tiny")
    backend = names["NumPy32"]()  # type: ignore[operator]
    weights = weights_for(described, described.settings)
    model = backend.realize(described.graph, weights, RealizeOptions(), config=described.config, task=described.task)
    exact = Llama.load("tiny", backend="reference").forward([[1, 5, 9]]).numpy()["logits"]
    from tiny_models import forward, relative_error

    assert relative_error(forward(model, [[1, 5, 9]]).numpy()["logits"], exact) < 1e-5


def test_the_command_of_the_plugin_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = BLOCKS.findall((ROOT / "docs" / "plugins.md").read_text())
    [source] = [block for block in blocks if 'click.command("lengths")' in block]
    names: dict[str, object] = {"__name__": "guide"}
    exec(source, names)
    command = cast(click.Command, names["lengths"])
    command.main(["tiny", "Once", "a fox", "--backend", "reference", "--json"], standalone_mode=False)
    assert [row["text"] for row in json.loads(capsys.readouterr().out)] == ["Once", "a fox"]
    command.main(["tiny", "Once", "--backend", "reference"], standalone_mode=False)
    assert capsys.readouterr().out.splitlines()[0].split() == ["TEXT", "TOKENS"]
