"""``polyllama mask``: what the visualizer draws, on terminals and in pipes."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import polyllama
import pytest
from command_line import Terminal, spawn
from mask_cases import PACKED, PADDED, SVG
from polyllama import AttentionMaskVisualizer
from polyllama.core.attention_mask.token_texts import width_of


def test_the_command_draws_what_the_visualizer_does(
    tiny: AttentionMaskVisualizer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert PADDED in (Path(polyllama.__file__).parent / "README.md").read_text(encoding="utf-8")
    done = spawn("mask", "tiny", "Once upon a time", "The sun")
    assert (done.returncode, done.stdout, done.stderr) == (0, PADDED + "\n", "")
    tiny(["Once upon a time", "The sun"])
    assert capsys.readouterr().out == PADDED + "\n"
    assert spawn("mask", "tiny", "The sun", "你", "--packed").stdout == PACKED + "\n"
    assert spawn("mask", "tiny", stdin="The sun\n").stdout.startswith("tiny: 3 tokens\n")
    ascii_only = spawn("mask", "tiny", "The sün", PYTHONIOENCODING="ascii").stdout
    assert "<0xC3> \\xfc # # # # ." in " ".join(ascii_only.split()) and "■" not in ascii_only


def test_the_command_speaks_json(tiny: AttentionMaskVisualizer) -> None:
    done = spawn("mask", "tiny", "The sun", "a b c d", "--json", "--attention", "--layer", "0", "--head", "all")
    data = json.loads(done.stdout)
    picture = tiny.picture(["The sun", "a b c d"], attention=True, layer=0, head="all")
    assert done.stderr == "" and np.array_equal([row["mask"] for row in data["rows"]], picture.mask)
    for row, own in zip(data["rows"], picture.rows, strict=True):
        assert row["tokens"] == list(own.labels) and row["token_ids"] == list(own.token_ids)
        assert [(h["layer"], h["head"]) for h in row["attention"]] == [(0, head) for head in range(4)]
        for heat, wanted in zip(row["attention"], own.heats, strict=True):
            assert np.allclose(heat["weights"], wanted.weights, atol=1e-6)
    part = json.loads(spawn("mask", "tiny", "a b c d", "--json", "--tokens", "1:3").stdout)["rows"][0]
    assert (part["start"], part["total"], part["mask"]) == (1, 5, [[1, 0], [1, 1]])


def test_the_command_saves(tmp_path: Path) -> None:
    from PIL import Image

    svg, png = tmp_path / "mask.svg", tmp_path / "heads.png"
    done = spawn("mask", "tiny", "The sun", "--save", str(svg))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{svg}\n", "")
    assert ElementTree.parse(svg).getroot().tag == f"{SVG}svg"
    options = ("--attention", "--backend", "reference", "--layer", "1", "--head", "all", "--json")
    done = spawn("mask", "tiny", "The sun", "--save", str(png), *options)
    assert json.loads(done.stdout)["rows"] and done.stderr == f"{png}\n"
    Image.open(png).verify()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ("tiny", "a", "--layer", "1", "--backend", "torch"),
            2,
            "--layer, --backend: without --attention the model",
        ),
        (("tiny", "a", "--packed"), 2, "--packed: there is one text, give two or more."),
        (
            ("tiny", "a", "b", "--packed", "--padding-side", "left"),
            2,
            "--packed and --padding-side: packed texts",
        ),
        (("tiny", "a", "--tokens", "3"), 2, "--tokens '3' is not A:B, such as 0:40."),
        (("tiny", "a", "--tokens", "7:9"), 1, "tokens 7:9 are none of the 2"),
        (("tiny", "a", "--save", "x.pdf"), 1, "'x.pdf' does not end in .svg or .png"),
        (("tiny", "a", "--attention", "--head", "4"), 1, "head is 4, and the model has 4 heads, 0 to 3"),
        (("tinny", "a"), 1, "did you mean 'tiny'?"),
    ],
)
def test_the_command_explains_mistakes(
    arguments: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from polyllama.cli.main import main

    assert main(["mask", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and said in captured.err and captured.err.count("\n") == 1


@pytest.mark.parametrize("attention", [(), ("--attention", "--backend", "reference")])
def test_colour_is_for_terminals_without_no_color(attention: tuple[str, ...]) -> None:
    code, seen = Terminal("mask", "tiny", "The sun", *attention, interrupts=False, NO_COLOR="").finish()
    assert code == 0 and "\x1b[" in seen
    code, seen = Terminal("mask", "tiny", "The sun", *attention, interrupts=False, NO_COLOR="1").finish()
    assert code == 0 and "\x1b" not in seen and "▁sun" in seen
    assert "\x1b" not in spawn("mask", "tiny", "The sun", *attention).stdout


def test_500_tokens_in_80_columns_and_in_a_pipe() -> None:
    text = " ".join(["fox"] * 500)
    code, seen = Terminal("mask", "tiny", text, interrupts=False, COLUMNS="80", NO_COLOR="1").finish()
    lines = seen.replace("\r", "").splitlines()
    numbered = [line for line in lines if re.match(r" *\d+ [<▁]", line)]
    assert code == 0 and all(width_of(line) <= 80 for line in numbered) and 50 < len(numbered) < 80
    assert lines[-1] == (
        f"tokens {len(numbered)} to 500 are left out: 80 columns hold no more; --tokens A:B shows others, "
        "--save FILE.svg all of them, and so does a pipe (| less -S)"
    )
    whole = spawn("mask", "tiny", text).stdout
    assert "left out" not in whole and len(re.findall(r"^ *\d+ [<▁]", whole, re.MULTILINE)) == 501
