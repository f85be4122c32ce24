"""PNG through Pillow: drawing letters is its work, and it is imported only here."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError
from .drawing import INK, PAPER, Label, Measures, Rectangle, draw
from .rows import MaskRows
from .token_texts import SPACE_SIGN

if TYPE_CHECKING:
    from PIL import Image

FONTS = (
    "DejaVuSansMono.ttf",
    "Menlo.ttc",
    "consola.ttf",
    "NotoSansMonoCJKsc-Regular.otf",
    "NotoSansCJK-Regular.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "Arial Unicode.ttf",
)
"""Looked for where the system keeps its fonts, the first that has every letter of a label is taken; Pillow brings one
for Latin letters, so none of these has to be there."""
LARGEST_SIDE = 4096


def to_png(picture: MaskRows) -> bytes:
    """A PNG file, drawn twice as large as the SVG; cells shrink where it would pass some 4000 pixels a side.

    Raises:
        UnsupportedError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise UnsupportedError(
            "a PNG needs the library pillow, which is not installed",
            hint="pip install pillow, or save as .svg, which needs nothing",
        ) from None
    sizes = measures(picture)
    drawing = draw(picture, sizes, spell=lambda text: _readable(text, round(sizes.font))[0])
    image = Image.new("RGB", (round(drawing.width), round(drawing.height)), PAPER)
    brush = ImageDraw.Draw(image)
    for shape in drawing.shapes():
        if isinstance(shape, Rectangle):
            # Pillow paints the far corner too.
            corner = round(shape.x), round(shape.y)
            far = round(shape.x + shape.width) - 1, round(shape.y + shape.height) - 1
            brush.rectangle((*corner, max(far[0], corner[0]), max(far[1], corner[1])), fill=shape.fill)
        else:
            _write(image, shape)
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()


def measures(picture: MaskRows) -> Measures:
    """Sizes for a picture of bearable size, whole pixels so that cells are even."""
    across = math.ceil(math.sqrt(sum(1 for _ in picture.panels())))
    cell = max(min(32, LARGEST_SIDE // (across * len(picture.rows[0]))), 1)
    return Measures(cell=cell, font=22 if across < 4 else 16)


def _write(image: Image.Image, label: Label) -> None:
    from PIL import Image, ImageDraw

    text, font = _readable(label.text, round(label.size))
    if not text:
        return
    left, _, right, _ = font.getbbox(text)
    size = max(int(right - min(left, 0)) + 2, 1), int(label.size * 1.5)
    stencil = Image.new("L", size, 0)
    ImageDraw.Draw(stencil).text((-min(left, 0), size[1] / 2), text, fill=255, font=font, anchor="lm")
    if label.upright:
        stencil = stencil.rotate(90, expand=True)
        place = round(label.x - stencil.width / 2), round(label.y - stencil.height)
    else:
        place = round(label.x), round(label.y - stencil.height / 2)
    image.paste(INK, place, stencil)


def _readable(text: str, size: int) -> tuple[str, Any]:
    """A text and the font for it; letters that no font here has are written as escapes."""
    fonts = _fonts(size)
    for font in fonts:
        if all(_has(font, character) for character in text):
            return text, font
    return "".join(c if _has(fonts[0], c) else _instead(c) for c in text), fonts[0]


def _instead(character: str) -> str:
    return "_" if character == SPACE_SIGN else f"\\u{ord(character):04x}"


@lru_cache(maxsize=8)
def _fonts(size: int) -> tuple[Any, ...]:
    from PIL import ImageFont

    found: list[Any] = []
    for name in FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:  # not on this machine
            continue
    return (*found, ImageFont.load_default(size))


@lru_cache(maxsize=4096)
def _has(font: Any, character: str) -> bool:
    """Whether a font has a letter: one that it has not looks like one that no font can have."""
    if character == " ":
        return True
    missing, found = font.getmask("\uffff"), font.getmask(character)
    return bool(found.size != missing.size or bytes(found) != bytes(missing))
