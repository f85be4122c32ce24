"""Pictures of masks in characters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .rows import MEANING, PADDING_NOTE, Cell, Heat, MaskRows, Row
from .token_texts import SPACE_SIGN, fitted, width_of

if TYPE_CHECKING:
    import numpy as np

SIGNS = {Cell.ITSELF: "■", Cell.LOOKS: "■", Cell.LATER: "·", Cell.PADDING: "-", Cell.OTHER_TEXT: "x"}
ASCII_SIGNS = {**SIGNS, Cell.ITSELF: "#", Cell.LOOKS: "#", Cell.LATER: "."}
COLOURS = {Cell.ITSELF: "32", Cell.LOOKS: "36", Cell.LATER: "90", Cell.PADDING: "90", Cell.OTHER_TEXT: "33"}
SHADES = (17, 18, 19, 25, 31, 37, 72, 107, 179, 220)
"""Of the 256-colour palette, dark to light; the lighter half is written on in black."""

MOST_LABEL, LEAST_LABEL = 20, 4


@dataclass(frozen=True)
class _Columns:
    """How a panel is laid out: how many tokens fit, how wide each part is."""

    shown: int
    index: int
    position: int
    label: int
    cell: int

    @property
    def before(self) -> int:
        """Columns before the first cell."""
        return self.index + 1 + (self.position + 1 if self.position else 0) + self.label + 1


def draw(
    picture: MaskRows, *, width: int | None = None, colour: bool = False, ascii_only: bool = False, more: str = ""
) -> str:
    """See :meth:`polyllama.core.attention_mask.picture.AttentionMask.text`."""
    picture = picture.spelt(_in_ascii) if ascii_only else picture
    panels = list(picture.panels())
    columns = _columns(picture.rows, width)
    signs = ASCII_SIGNS if ascii_only else SIGNS
    blocks, used = [], set()
    for row, heat in panels:
        part = row.window(row.start, row.start + columns.shown)
        if heat is not None:
            heat = part.heats[row.heats.index(heat)]
        cells = part.cells()
        used |= {Cell(value) for value in set(cells.ravel().tolist())}
        lines = [picture.title(part, heat), *_header(part, columns)]
        for index in range(len(part)):
            line = _before(part, index, columns, ascii_only)
            weights = None if heat is None else heat.weights[index]
            lines.append(line + _cells(cells[index], weights, columns.cell, signs, colour))
        blocks.append("\n".join(lines))
    legend = _legend(used, panels[0][1], signs, colour)
    text = "\n\n".join(blocks) + "\n" + "\n".join(legend)
    row = picture.rows[0]
    if columns.shown < len(row):
        left_out = f"tokens {row.start + columns.shown} to {row.start + len(row) - 1}"
        note = f"{left_out} are left out: {width} columns hold no more"
        text += f"\n{note}; {more}" if more else f"\n{note}"
    return text


def _columns(rows: tuple[Row, ...], width: int | None) -> _Columns:
    row = rows[0]
    moved = any(row.positions[i] != row.start + i for row in rows for i in range(len(row)))
    index = len(str(row.start + len(row) - 1))
    position = max(3, *(len(str(p)) for row in rows for p in row.positions)) if moved else 0
    label = min(max(width_of(label) for row in rows for label in row.labels), MOST_LABEL) + 2
    if width is None:
        return _Columns(len(row), index, position, label, 2)
    label = min(label, max(LEAST_LABEL, width // 4))
    room = width - _Columns(0, index, position, label, 1).before
    cell = 2 if 2 * len(row) - 1 <= room else 1
    return _Columns(max(min(len(row), room), 1), index, position, label, cell)


def _header(row: Row, columns: _Columns) -> list[str]:
    """The numbers of the columns, written downwards."""
    numbers = [str(row.start + index).rjust(columns.index) for index in range(len(row))]
    lines = []
    for digit in range(columns.index):
        cells = "".join(number[digit].ljust(columns.cell) for number in numbers)
        lines.append((" " * columns.before + cells).rstrip())
    if columns.position:
        start = columns.index + 1
        lines[-1] = lines[-1][:start] + "pos".rjust(columns.position) + lines[-1][start + columns.position :]
    return lines


def _before(row: Row, index: int, columns: _Columns, ascii_only: bool) -> str:
    """Number, position and label of a token."""
    number = str(row.start + index).rjust(columns.index)
    position = f"{row.positions[index]:>{columns.position}} " if columns.position else ""
    return f"{number} {position}{fitted(row.labels[index], columns.label, '~' if ascii_only else '…')} "


def _in_ascii(text: str) -> str:
    return text.replace(SPACE_SIGN, "_").encode("ascii", "backslashreplace").decode()


def _cells(cells: np.ndarray, weights: np.ndarray | None, width: int, signs: Mapping[Cell, str], colour: bool) -> str:
    """A line of the picture; equal colours in a row share one escape sequence."""
    parts: list[tuple[str, str]] = []
    for index, value in enumerate(cells.tolist()):
        cell = Cell(value)
        if weights is not None and cell in (Cell.ITSELF, Cell.LOOKS):
            weight = float(weights[index])
            text, code = tenths(weight), _shade(weight)
        else:
            text, code = signs[cell], COLOURS[cell]
        parts.append((text.ljust(width), code))
    if not colour:
        return "".join(text for text, _ in parts).rstrip()
    line, previous = "", ""
    for text, code in parts:
        line += text if code == previous else f"\x1b[0m\x1b[{code}m{text}"
        previous = code
    return line + "\x1b[0m"


def tenths(weight: float) -> str:
    """A weight from 0 to 1 as one digit, rounded down; 9 for all of it too.

    >>> tenths(0.05), tenths(0.39), tenths(1.0)
    ('0', '3', '9')
    """
    return str(min(max(int(weight * 10), 0), 9))


def _shade(weight: float) -> str:
    level = min(int(min(max(weight, 0.0), 1.0) ** 0.5 * 10), 9)
    return f"{'97' if level < 6 else '30'};48;5;{SHADES[level]}"


def _legend(used: set[Cell], heat: Heat | None, signs: Mapping[Cell, str], colour: bool) -> list[str]:
    entries = []
    if heat is not None:
        by_colour = ", colour by the square root" if colour else ""
        entries.append(f"0 to 9 tenths of its attention, rounded down{by_colour}")
    else:
        used = used | {Cell.LOOKS}
    for cell, meaning in MEANING.items():
        if cell in used and not (heat is not None and cell is Cell.LOOKS):
            sign = f"\x1b[{COLOURS[cell]}m{signs[cell]}\x1b[0m" if colour else signs[cell]
            entries.append(f"{sign} {meaning}")
    if colour and heat is None and Cell.ITSELF in used:
        entries.insert(1, f"\x1b[{COLOURS[Cell.ITSELF]}m{signs[Cell.ITSELF]}\x1b[0m at itself")
    lines = ["   ".join(entries)]
    return [*lines, PADDING_NOTE] if Cell.PADDING in used else lines
