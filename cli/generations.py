"""Many prompts on the command line: each result as soon as it is whole, for people or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import InputError
from ..core.messages import shortened, visible
from .console import in_colour, print_compact_json, print_json, progress_bar, write_text
from .options import GENERATION_NAMES
from .texts import is_jsonl, read_rows, read_texts

if TYPE_CHECKING:
    from ..core.api.llama import Llama
    from ..core.generation.outputs import Generation

Rows = list[dict[str, Any]]

BATCH = 8
"""Prompts that run together where nobody says how many, as for ``predict``."""
RESULT_KEYS = (
    "text",
    "token_ids",
    "prompt_token_ids",
    "finish_reason",
    "stop_reason",
    "seed",
    "stats",
    "model",
    "parse_error",
)
"""Keys of a result, which a line of a file cannot have too."""
SHOWN = 100
"""Characters of a prompt above what follows it."""


def read_prompts(prompts: tuple[str, ...], file: str | None, form: str | None) -> Rows:
    """The prompts of the command line or of a file, each with what else its line has."""
    if file is None or not is_jsonl(file, form):
        return [{"prompt": text} for text in read_texts(prompts, file)]
    if prompts:
        raise click.UsageError("Texts are given twice: on the command line and with --file.")
    return read_rows(file, ["prompt"], {*GENERATION_NAMES, *RESULT_KEYS, "batch_size"})


def adapters_of(rows: Rows, chosen: str | None) -> dict[str, list[str | None]]:
    """What each row says of its ``"adapter"``; those that say nothing have the one that is `chosen` for all.

    Raises:
        InputError: a row that names something else than a text.
    """
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("adapter", ""), str | None):
            raise InputError(f"line {number}: adapter is {row['adapter']!r:.80}", hint="give the name of one, or null")
    if not any("adapter" in row for row in rows):
        return {}
    return {"adapter": [row.get("adapter", chosen) for row in rows]}


def generate_all(llm: Llama, rows: Rows, options: Mapping[str, Any], shown: bool) -> Iterator[Generation]:
    """The result of each row, in order, as soon as it is whole; a bar on a terminal says how far it is."""
    with progress_bar("generating", shown, counts="prompts") as advance:
        if advance is not None:
            advance("", 0, len(rows))
        prompts = [row["prompt"] for row in rows]
        for number, result in enumerate(llm.generate_each(prompts, **options), start=1):
            yield result
            if advance is not None:
                advance("", number, len(rows))


def result_data(row: Mapping[str, Any], result: Generation) -> dict[str, Any]:
    """A row with its result, as JSON holds it."""
    return {
        **row,
        "text": result.text,
        "token_ids": list(result.token_ids),
        "prompt_token_ids": list(result.prompt_token_ids),
        "finish_reason": result.finish_reason,
        "stop_reason": result.stop_reason,
        "seed": result.seed,
        **parse_data(result),
    }


def parse_data(result: Generation) -> dict[str, Any]:
    """What a text under a constraint lacks, where it was cut off, as JSON holds it."""
    return {} if result.parse_error is None else {"parse_error": result.parse_error}


def show_lines(rows: Rows, results: Iterator[Generation]) -> Generation:
    """One JSON document a line, each as soon as it is there; returns the last result."""
    for row, result in zip(rows, results, strict=True):
        print_compact_json(result_data(row, result))
        sys.stdout.flush()
    return result


def show_document(model: str, rows: Rows, results: Sequence[Generation], where: Mapping[str, Any]) -> None:
    """One JSON document with all results."""
    found = [result_data(row, result) for row, result in zip(rows, results, strict=True)]
    print_json({"model": model, "results": found, **where})


def show_texts(rows: Rows, results: Iterator[Generation], echo: bool) -> Generation:
    """Each text below its prompt, for people; returns the last result."""
    for number, (row, result) in enumerate(zip(rows, results, strict=True)):
        if number:
            write_text("\n")
        if echo:
            write_text(row["prompt"])
        else:
            head = "> " + visible(shortened(" ".join(row["prompt"].split()), SHOWN))
            click.echo(click.style(head, bold=True) if in_colour() else head)
        write_text(result.text + "\n")
    return result
