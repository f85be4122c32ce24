"""SVG, written by hand: rectangles of a colour share a path, texts are escaped (SVG 2, https://www.w3.org/TR/SVG2/)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from xml.sax.saxutils import escape

from .drawing import INK, PAPER, Drawing, Label, Rectangle

FONT = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', 'Noto Sans Mono CJK SC', monospace"


def to_svg(drawing: Drawing) -> str:
    """A whole document; rows have a ``title``, which browsers show where the pointer rests."""
    width, height = _number(drawing.width), _number(drawing.height)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" font-family="{escape(FONT)}" fill="{INK}">',
        f"<title>{escape(drawing.title)}</title>",
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
    ]
    for told, shapes in drawing.groups:
        lines.append("<g>" + (f"<title>{escape(told)}</title>" if told else ""))
        lines += _elements(shapes)
        lines.append("</g>")
    return "\n".join([*lines, "</svg>\n"])


def _elements(shapes: list[Rectangle | Label]) -> Iterator[str]:
    for fill, run in groupby(shapes, key=lambda shape: shape.fill if isinstance(shape, Rectangle) else None):
        if fill is None:
            yield from (_text(shape) for shape in run if isinstance(shape, Label))
            continue
        path = "".join(
            f"M{_number(r.x)} {_number(r.y)}h{_number(r.width)}v{_number(r.height)}h{_number(-r.width)}z"
            for r in run
            if isinstance(r, Rectangle)
        )
        yield f'<path fill="{fill}" d="{path}"/>'


def _text(label: Label) -> str:
    x, y = _number(label.x), _number(label.y)
    # The baseline lies a third of a size below the middle; "dominant-baseline" is not understood everywhere.
    shift = _number(label.size * 0.35)
    turned = f' transform="rotate(-90 {x} {y})"' if label.upright else ""
    return (
        f'<text x="{x}" y="{y}" dy="{shift}" font-size="{_number(label.size)}"{turned} '
        f'xml:space="preserve">{escape(label.text)}</text>'
    )


def _number(value: float) -> str:
    """At most two digits after the point, and none where there are none."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
