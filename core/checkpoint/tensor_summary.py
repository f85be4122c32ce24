"""Many tensor names in few lines: repeated layers become one entry with a range."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..messages import counted, shortened, visible

MAX_LINES = 20
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")


def bytes_text(count: int) -> str:
    """A size of files or memory.

    >>> bytes_text(13_476_839_424), bytes_text(2_345_000)
    ('13.48 GB', '2.35 MB')
    """
    return f"{count / 1e9:.2f} GB" if count >= 10**9 else f"{count / 1e6:.2f} MB"


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as ranges.

    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def grouped(entries: Iterable[tuple[str, str]]) -> list[str]:
    """One line for all names that differ only in their numbers and share a detail; at most ``MAX_LINES`` lines.

    >>> grouped([(f"layers.{i}.up_proj.weight", ": stored [2, 4]") for i in range(3)])
    ['layers.{0-2}.up_proj.weight (3 tensors): stored [2, 4]']
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name, detail in entries:
        groups.setdefault((_NUMBER.sub("{}", name), detail), []).append(name)
    lines = []
    for (pattern, detail), names in groups.items():
        if len(names) == 1:
            lines.append(f"{_printable(names[0])}{detail}")
            continue
        columns = zip(*(map(int, _NUMBER.findall(name)) for name in names), strict=True)
        for column in columns:
            values = ranges(column)
            pattern = pattern.replace("{}", values if values.isdigit() else "{" + values + "}", 1)
        lines.append(f"{_printable(pattern)} ({counted(len(names), 'tensor')}){detail}")
    if len(lines) > MAX_LINES:
        lines[MAX_LINES:] = [f"... and {len(lines) - MAX_LINES} more of this kind"]
    return lines


def _printable(name: str) -> str:
    """Names come from files: nothing in them may break a line or a terminal."""
    return shortened(visible(name, in_line=True), 200)
