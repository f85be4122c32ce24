"""Pictures of masks as shapes, which SVG and PNG are written from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..errors import InputError
from .rows import MEANING, PADDING_NOTE, Cell, Heat, MaskRows, Row
from .token_texts import fitted, width_of

INK, PAPER, LINE = "#1f2933", "#ffffff", "#ffffff"
FILL = {
    Cell.ITSELF: "#0b6e4f",
    Cell.LOOKS: "#3d8fd1",
    Cell.LATER: "#e9edf0",
    Cell.PADDING: "#c9c2d6",
    Cell.OTHER_TEXT: "#f7e3cf",
}
_Entries = list[tuple[tuple[str, ...], str]]
"""A line of the legend: swatches and what they mean."""
LEVELS = 33
MOST_HEAT_CELLS = 1 << 20
MOST_LABEL = 24
CHARACTER = 0.62
"""Width of a character of the monospaced font, in its sizes."""


@dataclass(frozen=True)
class Rectangle:
    """Filled, without a border."""

    x: float
    y: float
    width: float
    height: float
    fill: str


@dataclass(frozen=True)
class Label:
    """A line of text whose middle is at `y`; upright ones read upwards, their middle at `x`, from `y` on."""

    x: float
    y: float
    text: str
    size: float
    upright: bool = False


@dataclass
class Drawing:
    """Shapes in the order they are painted, by what a pointer over them is told (empty: nothing)."""

    width: float
    height: float
    title: str
    groups: list[tuple[str, list[Rectangle | Label]]] = field(default_factory=list)

    def shapes(self) -> Iterator[Rectangle | Label]:
        """All of them."""
        for _, shapes in self.groups:
            yield from shapes


@dataclass(frozen=True)
class Measures:
    """Sizes in pixels: a cell's side, the font's."""

    cell: float = 16
    font: float = 11

    @property
    def line(self) -> float:
        """Height of a line of text."""
        return self.font * 1.6

    @property
    def label_every(self) -> int:
        """Every how many tokens a label finds room."""
        return max(math.ceil(self.font * 1.25 / self.cell), 1)


def _as_it_is(text: str) -> str:
    return text


def draw(picture: MaskRows, measures: Measures | None = None, spell: Callable[[str], str] = _as_it_is) -> Drawing:
    """Every panel of a picture in a grid, with a legend below.

    Args:
        spell: how what comes from outside is written with the letters there are.

    Raises:
        InputError: more cells of attention weights than a picture shows.
    """
    m = measures if measures is not None else Measures()
    picture = picture.spelt(spell)
    panels = list(picture.panels())
    tokens = len(picture.rows[0])
    if panels[0][1] is not None and len(panels) * tokens**2 > MOST_HEAT_CELLS:
        raise InputError(
            f"{len(panels)} heat maps of {tokens} x {tokens} cells are too many for one picture "
            f"(at most {MOST_HEAT_CELLS:,} cells)",
            hint="take fewer tokens, or one layer and head",
        )
    margin = m.font
    labels = min(max(width_of(label) for row in picture.rows for label in row.labels), MOST_LABEL)
    numbered = (labels + len(str(picture.rows[0].total)) + 1) * m.font * CHARACTER
    above = labels * m.font * CHARACTER + m.line
    side = tokens * m.cell
    titles = [picture.title(row, heat) for row, heat in panels]
    width = max(numbered + side, max(map(width_of, titles)) * m.font * CHARACTER) + 2 * margin
    height = above + side + m.line + margin
    across = math.ceil(math.sqrt(len(panels)))
    legend = _legend(picture, m)
    total = max(across * width, max(_legend_width(line, m) for line in legend) + 2 * margin)
    down = math.ceil(len(panels) / across)
    drawing = Drawing(total, down * height + (len(legend) + 0.5) * m.line, "; ".join(titles))
    for index, (row, heat) in enumerate(panels):
        x, y = index % across * width + margin, index // across * height
        _panel(drawing, row, heat, titles[index], (x, y), (x + numbered + m.font * 0.5, y + m.line + above), m)
    for number, entries in enumerate(legend):
        _draw_legend(drawing, entries, margin, down * height + (number + 0.5) * m.line, m)
    return drawing


def _panel(
    drawing: Drawing,
    row: Row,
    heat: Heat | None,
    title: str,
    corner: tuple[float, float],
    origin: tuple[float, float],
    m: Measures,
) -> None:
    left, top = origin
    labels = [fitted(label, min(width_of(label), MOST_LABEL)) for label in row.labels]
    heading: list[Rectangle | Label] = [Label(corner[0], corner[1] + m.line / 2, title, m.font)]
    for index in range(0, len(row), m.label_every):
        middle = left + (index + 0.5) * m.cell
        heading.append(Label(middle, top - m.font * 0.4, labels[index], m.font, upright=True))
    drawing.groups.append(("", heading))
    fills = _fills(row, heat)
    digits = len(str(row.start + len(row) - 1))
    for index, runs in enumerate(fills):
        y = top + index * m.cell
        shapes: list[Rectangle | Label] = [
            Rectangle(left + first * m.cell, y, (last - first) * m.cell, m.cell, fill) for first, last, fill in runs
        ]
        if index % m.label_every == 0:
            number = f"{row.start + index:>{digits}} {labels[index]}"
            shapes.append(Label(corner[0], y + m.cell / 2, number, m.font))
        drawing.groups.append((_told(row, index, heat), shapes))
    drawing.groups.append(("", list(_lines(left, top, len(row), m))))


def _told(row: Row, index: int, heat: Heat | None) -> str:
    """What a pointer over a row is told."""
    looks = [i for i in range(len(row)) if row.mask[index, i]]
    ranges: list[list[int]] = []
    for i in looks:
        if ranges and i == ranges[-1][1] + 1:
            ranges[-1][1] = i
        else:
            ranges.append([i, i])
    spelt = ", ".join(f"{row.start + a}" if a == b else f"{row.start + a} to {row.start + b}" for a, b in ranges)
    told = (
        f"{row.start + index} {row.labels[index]} (position {row.positions[index]}) looks at {spelt or 'none of these'}"
    )
    if heat is None or not looks:
        return told
    most = max(looks, key=lambda i: float(heat.weights[index, i]))
    return f"{told}; most at {row.start + most} {row.labels[most]}: {float(heat.weights[index, most]):.3f}"


def _fills(row: Row, heat: Heat | None) -> Iterator[list[tuple[int, int, str]]]:
    """For each token the runs of equal colour: first, last (excluded), fill."""
    cells = row.cells()
    for index in range(len(row)):
        colours = [FILL[Cell(value)] for value in cells[index].tolist()]
        if heat is not None:
            colours = [
                shade(float(heat.weights[index, i])) if looks else colours[i]
                for i, looks in enumerate(row.mask[index].tolist())
            ]
        yield list(_runs(colours))


def _runs(colours: list[str]) -> Iterator[tuple[int, int, str]]:
    first = 0
    for index in range(1, len(colours) + 1):
        if index == len(colours) or colours[index] != colours[first]:
            yield first, index, colours[first]
            first = index


def shade(weight: float) -> str:
    """The colour of a weight from 0 to 1: its square root decides, so that small ones show.

    >>> shade(0.0), shade(1.0)
    ('#ffffff', '#08306b')
    """
    level = round(min(max(weight, 0.0), 1.0) ** 0.5 * (LEVELS - 1)) / (LEVELS - 1)
    stops = ((255, 255, 255), (107, 174, 214), (8, 48, 107))
    low, high = (stops[0], stops[1]) if level <= 0.5 else (stops[1], stops[2])
    share = level * 2 if level <= 0.5 else level * 2 - 1
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))


def _lines(left: float, top: float, count: int, m: Measures) -> Iterator[Rectangle]:
    """Thin lines between cells, where cells are large enough."""
    if m.cell < 6:
        return
    for index in range(1, count):
        yield Rectangle(left + index * m.cell - 0.5, top, 1, count * m.cell, LINE)
        yield Rectangle(left, top + index * m.cell - 0.5, count * m.cell, 1, LINE)


def _legend(picture: MaskRows, m: Measures) -> list[_Entries]:
    """Lines of (swatches, meaning)."""
    used = {Cell(v) for row in picture.rows for v in set(row.cells().ravel().tolist())}
    row = picture.rows[0]
    entries: _Entries = []
    if row.heats:
        scale = (0.0, 0.05, 0.2, 0.5, 1.0)
        entries.append((tuple(shade(weight) for weight in scale), "attention 0, 0.05, 0.2, 0.5, 1"))
    else:
        entries += [((FILL[Cell.ITSELF],), "looks at itself"), ((FILL[Cell.LOOKS],), MEANING[Cell.LOOKS])]
    entries += [
        ((FILL[cell],), meaning) for cell, meaning in MEANING.items() if cell in used and cell is not Cell.LOOKS
    ]
    lines: list[_Entries] = [entries, [((), "row: the token that looks; column: what it looks at")]]
    if Cell.PADDING in used:
        lines.append([((), PADDING_NOTE)])
    if m.label_every > 1:
        lines.append([((), f"one token in {m.label_every} is labelled")])
    return lines


def _legend_width(entries: _Entries, m: Measures) -> float:
    return sum(len(swatches) * m.font * 1.2 + (width_of(text) + 3) * m.font * CHARACTER for swatches, text in entries)


def _draw_legend(drawing: Drawing, entries: _Entries, x: float, y: float, m: Measures) -> None:
    shapes: list[Rectangle | Label] = []
    for swatches, text in entries:
        for fill in swatches:
            shapes.append(Rectangle(x - 1, y - m.font * 0.5 - 1, m.font + 2, m.font + 2, "#9aa5b1"))
            shapes.append(Rectangle(x, y - m.font * 0.5, m.font, m.font, fill))
            x += m.font * 1.2
        shapes.append(Label(x + m.font * 0.3, y, text, m.font))
        x += (width_of(text) + 3) * m.font * CHARACTER
    drawing.groups.append(("", shapes))
