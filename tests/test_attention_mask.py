"""Pictures of attention masks: that they are the model's own, and that every form of them says the same."""

from __future__ import annotations

import io
import json
import re
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import polyllama
import pytest
from polyllama import AttentionMaskVisualizer, Llama, LlamaConfig, PolyllamaError
from polyllama.core.attention_mask import AttentionMask, Row
from polyllama.core.attention_mask.drawing import FILL, MOST_HEAT_CELLS, draw, shade
from polyllama.core.attention_mask.labels import fitted, printable, token_labels, width_of
from polyllama.core.attention_mask.picture import Cell
from polyllama.core.attention_mask.png import measures
from polyllama.core.attention_mask.terminal import tenths
from polyllama.core.hub import resolve_checkpoint_folder
from polyllama.core.tokenizer import LlamaTokenizerFast, load_tokenizer
from support import ALL_BACKENDS, SIZES
from support_processes import run_process
from test_cli import Terminal, spawn

SVG = "{http://www.w3.org/2000/svg}"
ROWS = [[5, 9, 33, 7, 2, 11], [8, 1, 60]]
CASES: dict[str, dict[str, Any]] = {
    "one": {"texts": ROWS[0]},
    "left": {"texts": ROWS, "padding_side": "left"},
    "right": {"texts": ROWS, "padding_side": "right"},
    "equal": {"texts": [ROWS[0], ROWS[0][::-1]], "padding_side": "left"},
    "packed": {"texts": [*ROWS, [4]], "packed": True},
}
LAYERS = SIZES["num_hidden_layers"]
BACKENDS = ("reference", "torch", "mlx", "jax", *(("cpu",) if "cpu" in ALL_BACKENDS else ()))


@pytest.fixture(scope="module")
def models() -> dict[str, Llama]:
    """The same random weights on every backend; sharp attention, so that no weight that should be there is lost."""
    config = LlamaConfig(**SIZES)
    dummy = {"load_format": "dummy", "dtype": "float32"}
    return {name: Llama.load(config, backend=name, **dummy) for name in BACKENDS}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tiny() -> AttentionMaskVisualizer:
    return AttentionMaskVisualizer("tiny")


def inputs_of(texts: Any, padding_side: str = "left", packed: bool = False) -> dict[str, np.ndarray]:
    """What a user would give ``forward`` for the texts of a case, made without what is tried."""
    rows = texts if isinstance(texts[0], list) else [texts]
    if packed:
        ids, positions = [i for row in rows for i in row], [i for row in rows for i in range(len(row))]
        return {"input_ids": np.array([ids]), "position_ids": np.array([positions])}
    longest = max(map(len, rows))
    gaps = [[0] * (longest - len(row)) for row in rows]
    left = padding_side == "left"
    ids = [gap + row if left else row + gap for gap, row in zip(gaps, rows, strict=True)]
    mask = [gap + [1] * len(row) if left else [1] * len(row) + gap for gap, row in zip(gaps, rows, strict=True)]
    return {"input_ids": np.array(ids), "attention_mask": np.array(mask)}


# the masks are the model's ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_the_picture_is_where_the_model_puts_weight(models: dict[str, Llama], backend: str, case: str) -> None:
    llm = models[backend]
    picture = llm.attention_mask(**CASES[case])
    inputs = inputs_of(**CASES[case])
    attentions = llm.forward(**inputs, output_attentions=True).numpy()["attentions"]
    assert len(attentions) == LAYERS
    for weights in attentions:  # [B, H, S, S]
        assert np.array_equal(weights > 0, np.broadcast_to(picture.mask[:, None], weights.shape))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_only_tokens_that_may_be_looked_at_change_anything(models: dict[str, Llama], backend: str, case: str) -> None:
    """Another token in place of one: the logits change exactly where a chain of looks leads to it (without attentions
    asked for, so that fused kernels are what is tried)."""
    llm = models[backend]
    picture = llm.attention_mask(**CASES[case])
    inputs = inputs_of(**CASES[case])
    before = llm.forward(**inputs).numpy()["logits"]
    for changed in range(before.shape[1]):
        ids = inputs["input_ids"].copy()
        ids[:, changed] = (ids[:, changed] + 1) % SIZES["vocab_size"]
        after = llm.forward(**{**inputs, "input_ids": ids}).numpy()["logits"]
        differs = np.abs(after - before).max(axis=-1) > 1e-5  # [B, S]
        reached = np.stack([np.linalg.matrix_power(row.astype(int), LAYERS) for row in picture.mask])
        assert np.array_equal(differs, reached[:, :, changed] > 0), changed


@pytest.mark.parametrize("case", CASES)
def test_the_masks_are_those_of_transformers(models: dict[str, Llama], case: str) -> None:
    import torch
    import transformers
    from transformers.masking_utils import create_causal_mask

    picture = models["reference"].attention_mask(**CASES[case])
    config = transformers.LlamaConfig(**SIZES)
    config._attn_implementation = "eager"
    inputs = {name: torch.tensor(value) for name, value in inputs_of(**CASES[case]).items()}
    attended = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    theirs = create_causal_mask(
        config=config,
        inputs_embeds=torch.zeros(*attended.shape, 4),
        attention_mask=inputs.get("attention_mask"),
        past_key_values=None,
        position_ids=inputs.get("position_ids"),
    )
    allowed = (theirs == 0)[:, 0].numpy()
    real = attended.numpy()  # what padding looks at is nobody's business, and differs
    assert np.array_equal(allowed[real], picture.mask[real])
    assert case not in ("left", "right") or not real.all()


def test_a_padded_text_gets_what_it_gets_alone(models: dict[str, Llama]) -> None:
    llm = models["reference"]
    alone = llm.attention_mask(ROWS[1], attention=True, head=1).rows[0]
    for side, place in (("left", slice(3, 6)), ("right", slice(0, 3))):
        row = llm.attention_mask(ROWS, padding_side=side, attention=True, head=1).rows[1]
        assert row.positions[place] == alone.positions
        assert np.array_equal(row.mask[place, place], alone.mask)
        assert not row.mask[place, [not flag for flag in row.attended]].any()
        assert np.allclose(row.heats[0].weights[place, place], alone.heats[0].weights, atol=1e-6)


# attention weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_heat_is_the_attention_of_the_layer_and_head(models: dict[str, Llama], backend: str) -> None:
    llm = models[backend]
    wanted = llm.forward([ROWS[0]], output_attentions=True).numpy()["attentions"]
    (row,) = llm.attention_mask(ROWS[0], attention=True, layer="all", head="all").rows
    assert [(h.layer, h.head) for h in row.heats] == [(layer, head) for layer in range(3) for head in range(6)]
    for heat in row.heats:
        assert np.allclose(heat.weights, wanted[heat.layer][0, heat.head], atol=1e-6)  # type: ignore[index]
    (last,) = llm.attention_mask(ROWS[0], attention=True).rows[0].heats
    assert (last.layer, last.head) == (2, "mean")
    assert np.allclose(last.weights, wanted[2][0].mean(axis=0), atol=1e-6)
    assert llm.attention_mask(ROWS[0], attention=True, layer=-3, head=-1).rows[0].heats[0].name == "layer 0, head 5"


def test_a_backend_without_attention_weights_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend="reference")
    forward = llm.model.forward

    def without(*args: Any, **options: Any) -> Any:
        return forward(*args, **{**options, "output_attentions": False})

    monkeypatch.setattr(llm.model, "forward", without)  # as a backend that fuses everything would
    with pytest.raises(PolyllamaError, match="backend 'reference' gives no attention weights"):
        llm.attention_mask([1, 2], attention=True)


def test_weights_are_loaded_only_for_attention(tmp_path: Path) -> None:
    """A folder whose weights are rubbish shows its masks all the same."""
    tiny_folder = resolve_checkpoint_folder("tiny")
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    visualizer = AttentionMaskVisualizer(tmp_path, backend="reference")
    assert visualizer.picture("The sun").mask.tolist() == [[[True, False, False], [True, True, False], [True] * 3]]
    with pytest.raises(PolyllamaError, match=r"model\.safetensors"):
        visualizer.picture("The sun", attention=True)


def test_a_model_that_carries_its_tokenizer(tiny: AttentionMaskVisualizer, tmp_path: Path) -> None:
    import polyllama

    file = tmp_path / "tiny.gguf"
    polyllama.convert("tiny", file, to="gguf")
    wanted = tiny.picture("Once upon a time")
    for source in (file, Llama.load(file, backend="reference")):
        found = AttentionMaskVisualizer(source).picture("Once upon a time")
        assert found.rows[0].labels == wanted.rows[0].labels and np.array_equal(found.mask, wanted.mask)


def test_showing_a_mask_imports_no_framework_and_no_picture_library() -> None:
    code = (
        "import sys; from polyllama.__main__ import main; main(['mask', 'tiny', 'The sun'])\n"
        "bad = ('torch', 'mlx', 'jax', 'transformers', 'PIL', 'huggingface_hub', 'tokenizers')\n"
        "print([name for name in bad if name in sys.modules], file=sys.stderr)"
    )
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]" and "▁sun" in done.stdout


# labels --------------------------------------------------------------------------------------------------------------


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


# in a terminal -------------------------------------------------------------------------------------------------------

PADDED = """\
tiny, text 1 of 2: 5 tokens
  pos             0 1 2 3 4
0   0 <s>         ■ · · · ·
1   1 ▁Once       ■ ■ · · ·
2   2 ▁upon       ■ ■ ■ · ·
3   3 ▁a          ■ ■ ■ ■ ·
4   4 ▁time       ■ ■ ■ ■ ■

tiny, text 2 of 2, 2 of padding on the left: 5 tokens
  pos             0 1 2 3 4
0   0 (padding)   ■ - · · ·
1   0 (padding)   - ■ · · ·
2   0 <s>         - - ■ · ·
3   1 ▁The        - - ■ ■ ·
4   2 ▁sun        - - ■ ■ ■
■ looks at it   · comes later   - padding
a padding token sees itself, so that its softmax has something to run over; nobody sees it"""

PACKED = """\
tiny, 2 texts packed into one row: 8 tokens
  pos             0 1 2 3 4 5 6 7
0   0 <s>         ■ · · · · · · ·
1   1 ▁The        ■ ■ · · · · · ·
2   2 ▁sun        ■ ■ ■ · · · · ·
3   0 <s>         x x x ■ · · · ·
4   1 ▁           x x x ■ ■ · · ·
5   2 <0xE4> 你   x x x ■ ■ ■ · ·
6   3 <0xBD>      x x x ■ ■ ■ ■ ·
7   4 <0xA0>      x x x ■ ■ ■ ■ ■
■ looks at it   · comes later   x another text"""


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


# SVG and PNG ---------------------------------------------------------------------------------------------------------

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


# mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ([], {}, "there is no text; give at least one"),
        ("", {"add_special_tokens": False}, "text 1 has no tokens"),
        (["a", ""], {"add_special_tokens": False}, "text 2 has no tokens"),
        (7, {}, "not a int"),
        (b"a", {}, "not a bytes"),
        (["a", 7], {}, "text 2 is neither text nor a list of token ids"),
        ([[1, 5000]], {}, "outside the vocabulary of 1792"),
        ("a", {"padding_side": "top"}, "padding_side is 'top'; give 'left' or 'right'"),
        ("a", {"packed": True}, "one text cannot be packed; give two or more"),
        (["a", "b"], {"packed": True, "padding_side": "left"}, "packed texts are not padded"),
        ("a", {"layer": 1}, "pass attention=True too"),
        ("a", {"attention": True, "layer": 5}, "layer is 5, and the model has 5 layers, 0 to 4"),
        ("a", {"attention": True, "layer": -6}, "layer is -6"),
        ("a", {"attention": True, "layer": True}, "layer is True"),
        ("a", {"attention": True, "layer": "mean"}, "layer is 'mean'"),
        ("a", {"attention": True, "head": "first"}, "head is 'first', and the model has 4 heads"),
        ("a\ud800", {}, "surrogate"),
        ([[1] * 6000], {}, "too many for a picture"),
    ],
)
def test_mistakes_are_explained(tiny: AttentionMaskVisualizer, texts: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(PolyllamaError) as caught:
        tiny.picture(texts, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_mistakes_around_models() -> None:
    llm = Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend="reference")
    with pytest.raises(PolyllamaError, match="has no tokenizer; give token ids"):
        llm.attention_mask("text")
    with pytest.raises(PolyllamaError, match="backend: a loaded model takes no options of load"):
        AttentionMaskVisualizer(llm, backend="torch")
    with pytest.raises(PolyllamaError, match="no argument 'bakend'; did you mean 'backend'"):
        AttentionMaskVisualizer("tiny", bakend="torch")


def test_saving_leaves_nothing_half_done(tiny: AttentionMaskVisualizer, tmp_path: Path) -> None:
    picture = tiny.picture("a")
    with pytest.raises(PolyllamaError, match=r"'.*a\.gif' does not end in \.svg or \.png"):
        picture.save(tmp_path / "a.gif")
    with pytest.raises(PolyllamaError, match=r"nowhere/a\.svg' cannot be written: No such file"):
        picture.save(tmp_path / "nowhere" / "a.svg")
    (tmp_path / "b.svg").mkdir()
    with pytest.raises(PolyllamaError, match="cannot be written"):
        picture.save(tmp_path / "b.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.svg"]
    saved = picture.save(tmp_path / "A.SVG")
    assert saved.read_text(encoding="utf-8") == picture.svg()


def test_a_tokenizer_without_a_padding_token_pads_all_the_same(tiny: AttentionMaskVisualizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = tiny.picture(["The sun", "The"], padding_side="right", attention=True)
    assert picture.rows[1].labels == ("<s>", "▁The", "(padding)")


# the command ---------------------------------------------------------------------------------------------------------


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
    from polyllama.__main__ import main

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
