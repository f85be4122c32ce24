"""Output that suits who reads it: tables for a terminal, aligned text for a pipe, JSON for a program."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from ..core.errors import InputError
from ..core.messages import visible
from ..core.public import for_plugins

if TYPE_CHECKING:
    from rich.console import Console

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def json_file_option(what: str) -> Callable[[Decorated], Decorated]:
    """``--json FILE`` of a command that prints something else as well; given as `file`."""
    kind = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
    return click.option("--json", "file", metavar="FILE", type=kind, help=f"{what}; - for stdout.")


def examples(*lines: str) -> str:
    """The end of a command's help: examples, kept line by line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def on_terminal() -> bool:
    """Whether stdout is a terminal that can show more than plain text."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def standard_input() -> TextIO:
    """Standard input, for a command that cannot do without.

    Raises:
        InputError: it was closed (``<&-``).
    """
    if sys.stdin is None or getattr(sys.stdin, "name", None) == os.devnull:  # what the program's start put there
        raise InputError("standard input is closed", hint="give the text as an argument, or pipe it in")
    return sys.stdin


@for_plugins
def print_json(value: Any) -> None:
    """One JSON document on stdout; escaped to ASCII only where the output could not hold it otherwise."""
    click.echo(_dumped(value, indent=2))


def print_compact_json(value: Any) -> None:
    """JSON on one line: for many numbers."""
    click.echo(_dumped(value, separators=(",", ":")))


def _dumped(value: Any, **how: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=not _holds_all(), allow_nan=False, default=_plain, **how)
    except ValueError:
        raise InputError(
            "a number of the result is not finite, which JSON cannot hold", hint="leave --json out to see it"
        ) from None


def _holds_all() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} does not go into JSON")


def in_colour() -> bool:
    """Whether stdout is to be written to with colours and bold; NO_COLOR (https://no-color.org) says no."""
    return on_terminal() and not os.environ.get("NO_COLOR")


@for_plugins
def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: drawn on a terminal, else columns of plain text. The first column holds names, which are never cut.

    What is wider than the terminal wraps; where columns would become too narrow to read, each row is a block.
    """
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not on_terminal():
        _print_columns([[header.upper() for header in headers], *texts])
        return
    from rich.console import Console

    console = Console(highlight=False)
    columns = [[header, *(visible(row[index]) for row in texts)] for index, header in enumerate(headers)]
    if _readable_width(columns) <= console.width:
        _draw_table(console, headers, columns)
    else:
        _print_blocks(console, headers, columns)


LEAST_COLUMN = 10
"""Columns of a terminal that a column of a table needs, unless all it holds is narrower."""


def _readable_width(columns: Sequence[Sequence[str]]) -> int:
    """How wide a table must be for its names to be whole and the rest to be readable."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in columns]
    return widths[0] + sum(min(width, LEAST_COLUMN) for width in widths[1:]) + 3 * (len(widths) - 1) + 2


def _draw_table(console: Console, headers: Sequence[str], columns: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold" if in_colour() else "", pad_edge=False)
    for index, header in enumerate(headers):
        table.add_column(Text(header), no_wrap=index == 0, overflow="fold")
    for row in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*map(Text, row))  # Text: brackets in a cell are no markup
    console.print(table)


def _print_blocks(console: Console, headers: Sequence[str], columns: Sequence[Sequence[str]]) -> None:
    """Each row as its name and, below it, what is known of it, wrapped."""
    from rich.text import Text

    for row in zip(*(column[1:] for column in columns), strict=True):
        click.echo(click.style(row[0], bold=True) if in_colour() else row[0])
        for header, cell in zip(headers[1:], row[1:], strict=True):
            if cell:
                lines = Text(f"{header}: {cell}").wrap(console, max(console.width - 4, LEAST_COLUMN), overflow="fold")
                for index, line in enumerate(lines):
                    click.echo(f"{'    ' if index else '  '}{line.plain}")


@for_plugins
def print_pairs(pairs: Sequence[Sequence[object]]) -> None:
    """Names and values, aligned, without a header."""
    _print_columns([[visible(str(cell)) for cell in pair] for pair in pairs])


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


@for_plugins
@contextlib.contextmanager
def progress_bar(
    what: str, wanted: bool, *, names: bool = False, counts: str | None = None
) -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar on stderr with bytes, speed and the time that is left; None where nobody would see it.

    Args:
        what: the words beside it.
        names: show instead what is being done by its name, and at the end, where it has none, "writing".
        counts: the plural of what is counted, where that is not bytes.
    """
    if not wanted or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn()]
    if counts is None:
        columns += [DownloadColumn(), TransferSpeedColumn()]
    else:
        columns.append(TextColumn("{task.completed} of {task.total} " + counts))
    columns.append(TimeRemainingColumn())
    # Redirected, what a command prints meanwhile would go to the bar's stderr.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=None)

        def advance(name: str, done: int, total: int) -> None:
            bar.update(task, description=name or "writing" if names else what, completed=done, total=total)

        yield advance


def write_text(text: str) -> None:
    """A piece of generated text on stdout, at once; as it is for a pipe, harmless for a terminal."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def with_unit(count: float, unit: str = "") -> str:
    """A large number for people.

    >>> with_unit(1_100_048_384), with_unit(512), with_unit(2_200_000_000, "B")
    ('1.10 G', '512', '2.20 GB')
    """
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.2f} {letter}{unit}"
    return f"{count:g} {unit}".rstrip()


COMPLETION_VARIABLE = "_POLYLLAMA_COMPLETE"
