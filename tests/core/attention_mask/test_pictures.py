"""Pictures of attention masks: labels, text, SVG and PNG show the mask and the weights that they are of."""

from __future__ import annotations

import io
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mask_cases import CASES, PACKED, PADDED, SVG
from polyllama import AttentionMaskVisualizer, Llama, PolyllamaError
from polyllama.core.attention_mask.drawing import FILL, MOST_HEAT_CELLS, draw, shade
from polyllama.core.attention_mask.picture import AttentionMask
from polyllama.core.attention_mask.png import measures
from polyllama.core.attention_mask.rows import Cell, Row
from polyllama.core.attention_mask.terminal import tenths
from polyllama.core.attention_mask.token_texts import fitted, printable, token_labels, width_of
from polyllama.core.errors import InputError
from polyllama.core.sources.locate import resolve_checkpoint_folder
from polyllama.core.tokenizer.llama_tokenizer import LlamaTokenizerFast, load_tokenizer


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" a b", "▁a▁b"),
        ("\n\t\r", "\\n\\t\\r"),
        ("\\n", "\\\\n"),
        ("\\frac", "\\frac"),
        ("\x1b[2J\x00", "\\x1b[2J\\x00"),
        ("\u202e\u200d\ufeff", "\\u202e\\u200d\\ufeff"),
        ("\xa0\u3000\u2028", "\\xa0\\u3000\\u2028"),
        ("\U000e0001", "\\U000e0001"),
        ("\u0301", "\u25cc\u0301"),
        ("你🙂", "你🙂"),
        ("\ufffe", "\\ufffe"),
    ],
)
def test_tokens_are_spelt_visibly(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_bytes_show_themselves_and_the_character_they_make() -> None:
    tokenizer = load_tokenizer(resolve_checkpoint_folder("tiny"))
    labels = token_labels(tokenizer, tokenizer.encode("a\n你🙂"))
    wanted = "<s> ▁a \\n <0xE4>_你 <0xBD> <0xA0> <0xF0>_🙂 <0x9F> <0x99> <0x82>"
    assert [label.replace(" ", "_") for label in labels] == wanted.split()
    broken = [tokenizer.convert_tokens_to_ids(t) for t in ("<0xE4>", "<0xBD>", "▁a", "<0xA0>")]
    assert token_labels(tokenizer, broken) == ["<0xE4>", "<0xBD>", "▁a", "<0xA0>"]
    assert token_labels(tokenizer, [10**6]) == ["#1000000"]
    assert token_labels(None, [7]) == ["#7"]


def test_byte_level_tokens_show_text_and_not_their_stand_ins(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(tmp_path / "tokenizer.json"))
    none = dict.fromkeys(("bos_token", "eos_token", "unk_token"))
    tokenizer = LlamaTokenizerFast(tokenizer_file=tmp_path / "tokenizer.json", **none)  # type: ignore[arg-type]
    assert token_labels(tokenizer, tokenizer.encode("a é\n")) == ["a", "▁", "<0xC3> é", "<0xA9>", "\\n"]


def test_every_token_of_tiny_has_its_bytes() -> None:
    tokenizer = load_tokenizer(resolve_checkpoint_folder("tiny"))
    text = "Once upon a time, é你🙂\n\t x"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(tokenizer.token_bytes(i) or b"" for i in ids).decode() == f" {text}"
    assert tokenizer.token_bytes(len(tokenizer)) is None


@pytest.mark.parametrize("text", ["abc", "你好吗我", "🙂🙂🙂", "a你b", ""])
@pytest.mark.parametrize("width", range(1, 10))
def test_labels_fit_in_columns_to_the_column(text: str, width: int) -> None:
    assert width_of(fitted(text, width)) == width
    assert text in fitted(text, width) or "…" in fitted(text, width)


def test_padding_in_text(tiny: AttentionMaskVisualizer) -> None:
    assert str(tiny.picture(["Once upon a time", "The sun"])) == PADDED


def test_packing_in_text(tiny: AttentionMaskVisualizer) -> None:
    assert str(tiny.picture(["The sun", "你"], packed=True)) == PACKED


def cells_of(text: str) -> list[str]:
    """The cells of each line of a picture without attention weights, whatever their width."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines()]
    found = [re.search(r"^ *\d+ .*? ((?:[■#·.x-] ?)+)$", line) for line in lines]
    return [match[1].replace(" ", "") for match in found if match]


@pytest.mark.parametrize("width", [12, 20, 33, 40, 60, 80, 200])
@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("colour", [False, True])
def test_narrow_terminals(tiny: AttentionMaskVisualizer, width: int, attention: bool, colour: bool) -> None:
    picture = tiny.picture("Once upon a time there was a fox who 你 lived. " * 3, attention=attention)
    text = picture.text(width=width, colour=colour, more="look elsewhere")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    panel = plain[: plain.index("\n■" if not attention else "\n0 to 9")].splitlines()
    assert all(width_of(line) <= width for line in panel[1:])
    shown = sum(1 for line in panel[1:] if re.match(r" *\d+ \S", line) and not re.fullmatch(r"[\d ]+", line))
    total = len(picture.rows[0])
    note = f"tokens {shown} to {total - 1} are left out: {width} columns hold no more; look elsewhere"
    assert shown == total if note not in text else 0 < shown < total
    assert (width < 80) == ("left out" in text)


@pytest.mark.parametrize("options", [{}, {"colour": True}, {"width": 38}, {"ascii_only": True}, {"width": 20}])
def test_cells_in_text_are_the_mask(tiny: AttentionMaskVisualizer, options: dict[str, Any]) -> None:
    picture = tiny.picture(["Once upon a time there was a fox", "The sun"], padding_side="right")
    lines = cells_of(picture.text(**options))
    count = len(lines) // 2
    assert count == (8 if options.get("width") == 20 else 9)
    cells = np.array([[sign in "■#" for sign in line] for line in lines])
    assert np.array_equal(cells.reshape(2, count, count), picture.mask[:, :count, :count])


def test_a_window_is_a_part_of_the_whole(tiny: AttentionMaskVisualizer) -> None:
    whole = tiny.picture("Once upon a time there was a fox", attention=True)
    part = whole.window(2, -2)
    assert (part.rows[0].start, len(part.rows[0]), part.rows[0].total) == (2, 5, 9)
    assert np.array_equal(part.mask, whole.mask[:, 2:7, 2:7])
    assert np.array_equal(part.rows[0].heats[0].weights, whole.rows[0].heats[0].weights[2:7, 2:7])
    assert "tokens 2 to 6 of 9" in str(part) and re.search(r"^2 ▁upon", str(part), re.MULTILINE)
    assert part.window(3, 5).rows[0].labels == whole.rows[0].labels[3:5]
    assert part.window(0, 4).rows[0].labels == whole.rows[0].labels[2:4]
    with pytest.raises(PolyllamaError, match="tokens 9: are none of the 9"):
        whole.window(9)


def test_tenths() -> None:
    assert [tenths(w) for w in (0.0, 0.099, 0.1, 0.95, 1.0, 1.0000001)] == ["0", "0", "1", "9", "9", "9"]


NASTY = '<b> & "quotes" ]]> \x00\x1b[31m \u202e \ufffe 你好 🙂 </text>\n'


def painted(root: ElementTree.Element) -> list[tuple[float, float, float, float, str]]:
    """Rectangles in the order they are painted: x, y, width, height, colour."""
    found = []
    for path in root.iter(f"{SVG}path"):
        for x, y, width, height in re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)h-[\d.]+z", path.attrib["d"]):
            found.append((float(x), float(y), float(width), float(height), path.attrib["fill"]))
    return found


def colour_at(rectangles: list[tuple[float, float, float, float, str]], x: float, y: float) -> str:
    return [fill for left, top, w, h, fill in rectangles if left <= x < left + w and top <= y < top + h][-1]


def corner_of(rectangles: list[tuple[float, float, float, float, str]]) -> tuple[float, float]:
    """Where the first cell is: the first rectangle painted."""
    return rectangles[0][0], rectangles[0][1]


@pytest.mark.parametrize("case", ["left", "packed"])
def test_cells_of_the_svg_are_the_mask(models: dict[str, Llama], case: str) -> None:
    picture = models["reference"].attention_mask(**CASES[case])
    picture = AttentionMask(picture.model, picture.rows[-1:])
    row = picture.rows[0]
    root = ElementTree.fromstring(picture.svg())
    rectangles = painted(root)
    left, top = corner_of(rectangles)
    texts = [
        (float(t.attrib["x"]), float(t.attrib["y"]), "transform" in t.attrib, t.text or "")
        for t in root.iter(f"{SVG}text")
    ]
    columns = [(x, text) for x, _, upright, text in texts if upright]
    assert columns == [(round(left + (j + 0.5) * 16, 2), label) for j, label in enumerate(row.labels)]
    beside = [(y, text) for x, y, upright, text in texts if not upright and x < left and top < y < top + 16 * len(row)]
    assert beside == [(round(top + (i + 0.5) * 16, 2), f"{i} {label}") for i, label in enumerate(row.labels)]
    wanted = row.cells()
    for i in range(len(row)):
        for j in range(len(row)):
            found = colour_at(rectangles, left + (j + 0.4) * 16, top + (i + 0.4) * 16)
            assert found == FILL[Cell(int(wanted[i, j]))], (i, j)
    assert {Cell.PADDING if case == "left" else Cell.OTHER_TEXT} <= {Cell(v) for v in wanted.ravel().tolist()}


def test_heat_of_the_svg_is_the_attention(tiny: AttentionMaskVisualizer) -> None:
    picture = tiny.picture("Once upon a time", attention=True, head=0)
    rectangles = painted(ElementTree.fromstring(picture.svg()))
    left, top = corner_of(rectangles)
    weights = picture.rows[0].heats[0].weights
    for i in range(5):
        for j in range(i + 1):
            assert colour_at(rectangles, left + (j + 0.4) * 16, top + (i + 0.4) * 16) == shade(float(weights[i, j]))


def test_shades_darken_with_the_weight() -> None:
    levels = [sum(int(shade(w)[i : i + 2], 16) for i in (1, 3, 5)) for w in np.linspace(0, 1, 40)]
    assert levels == sorted(levels, reverse=True) and levels[0] == 3 * 255 and len(set(levels)) > 20


def test_anything_in_a_text_gives_a_proper_svg(tiny: AttentionMaskVisualizer) -> None:
    root = ElementTree.fromstring(tiny.picture([NASTY, "x"], packed=True, add_special_tokens=False).svg())
    texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    for sign in ("<", "&", "]", '"', "\\x00", "\\x1b", "<0xE2> \\u202e", "<0xE4> 你", "<0xF0> 🙂"):
        assert any(sign in text for text in texts), sign
    told = [title.text or "" for title in root.iter(f"{SVG}title")]
    assert any("looks at 0 to 2" in text for text in told)


def test_a_name_that_is_markup_is_text(tmp_path: Path) -> None:
    row = AttentionMaskVisualizer("tiny").picture("a").rows
    root = ElementTree.fromstring(AttentionMask("<script>&\x07\x1b[2J", row).svg())
    assert root.findtext(f"{SVG}title") == "<script>&\\x07\\x1b[2J: 2 tokens"
    assert "\x1b" not in AttentionMask("a\x1b[2J", row).text()


@pytest.mark.parametrize("attention", [False, True])
def test_pixels_of_the_png_are_the_mask(tiny: AttentionMaskVisualizer, tmp_path: Path, attention: bool) -> None:
    from PIL import Image

    picture = tiny.picture(
        ["Once upon a time", "The sun"], padding_side="left", attention=attention, head=1 if attention else None
    )
    image = Image.open(picture.save(tmp_path / "mask.png"))
    image.load()
    sizes = measures(picture)
    drawing = draw(picture, sizes)
    assert image.format == "PNG" and image.size == (round(drawing.width), round(drawing.height))
    firsts = [shapes[0] for told, shapes in drawing.groups if told.startswith("0 ")]
    assert len(firsts) == 2
    for row, first in zip(picture.rows, firsts, strict=True):
        cells = row.cells()
        for i in range(len(row)):
            for j in range(len(row)):
                place = round(first.x + (j + 0.5) * sizes.cell), round(first.y + (i + 0.5) * sizes.cell)
                weight = float(row.heats[0].weights[i, j]) if attention and row.mask[i, j] else None
                wanted = FILL[Cell(int(cells[i, j]))] if weight is None else shade(weight)
                assert "#{:02x}{:02x}{:02x}".format(*image.getpixel(place)) == wanted, (i, j)  # type: ignore[misc]
    labels = np.asarray(image.convert("L"))[round(firsts[0].y) :, : round(firsts[0].x) - 4]
    assert (labels < 100).sum() > 200  # tokens are written beside their rows


def test_letters_no_font_has_are_spelt_in_the_png(
    tiny: AttentionMaskVisualizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image
    from polyllama.core.attention_mask import png

    png._fonts.cache_clear()
    monkeypatch.setattr(png, "FONTS", ())  # a machine without fonts: Pillow's own is left
    assert png._readable("ab", 20)[0] == "ab"
    assert png._readable("▁你a", 20)[0] == "_\\u4f60a"
    picture = tiny.picture("你")
    spelt = draw(picture, spell=lambda text: png._readable(text, 11)[0])
    assert spelt.height > draw(picture).height  # room is made for what is longer now
    image = Image.open(io.BytesIO(picture.png()))
    assert image.height > round(draw(picture, measures(picture)).height)
    png._fonts.cache_clear()


def test_a_long_text_has_a_png_of_bearable_size(tiny: AttentionMaskVisualizer) -> None:
    from PIL import Image

    picture = tiny.picture("Once upon a time there was a fox. " * 50)
    assert len(picture.rows[0]) > 400
    image = Image.open(io.BytesIO(picture.png()))
    assert max(image.size) < 5500
    sizes = measures(picture)
    every = f"one token in {sizes.label_every} is labelled"
    texts = [getattr(shape, "text", "") for shape in draw(picture, sizes).shapes()]
    assert sizes.label_every > 1 and every in texts
    assert not any("is labelled" in getattr(shape, "text", "") for shape in draw(picture).shapes())


def test_png_without_pillow_is_an_error(
    tiny: AttentionMaskVisualizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(PolyllamaError, match=r"a PNG needs the library pillow, which is not installed; .*svg"):
        tiny.picture("a").save(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
    tiny.picture("a").save(tmp_path / "a.svg")


def test_too_many_heat_maps_for_one_picture(tiny: AttentionMaskVisualizer) -> None:
    picture = tiny.picture("Once upon a time")
    row = picture.rows[0]
    side = int(MOST_HEAT_CELLS**0.5) + 1
    large = Row(
        "", (1,) * side, ("a",) * side, (0,) * side, (True,) * side, (0,) * side, np.eye(side, dtype=bool), (), 0, side
    )
    heat = tiny.picture("a", attention=True).rows[0].heats
    with pytest.raises(PolyllamaError, match=r"1 heat maps of 1025 x 1025 cells .*; take fewer tokens"):
        AttentionMask("m", (Row(**{**vars(large), "heats": heat}),)).svg()
    assert row.heats == ()


def test_the_documented_arguments_of_a_call(capsys: pytest.CaptureFixture[str]) -> None:
    visualizer = AttentionMaskVisualizer("tiny")
    visualizer("Once upon", "")
    wanted = capsys.readouterr().out
    visualizer(input_sentence="Once upon", suffix="")
    assert capsys.readouterr().out == wanted and "\u2581upon" in wanted
    with pytest.raises(InputError, match=r"suffix='x' is for models of images; put it behind the text"):
        visualizer("Once", suffix="x")
    with pytest.raises(InputError, match="the text is given twice"):
        visualizer("Once", input_sentence="Once")
    with pytest.raises(InputError, match="give a text, a list of texts or lists of token ids"):
        visualizer()
