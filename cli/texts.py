"""Texts from the command line, a file or standard input."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import click

from ..core.errors import InputError, warn
from ..core.messages import few
from ..core.public import for_plugins
from .console import standard_input

_DEEPEST = 200
_TOO_DEEP = f"lists and objects are nested more than {_DEEPEST} deep"


@for_plugins
def read_prompt(prompt: str | None) -> str:
    """One text from the command line or from standard input."""
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None:
        refuse_silence()
    return read_all("-").removesuffix("\n")


@for_plugins
def read_texts(texts: tuple[str, ...], file: str | None) -> list[str]:
    """Texts of the command line, else one per line of a file, else of standard input; ``-`` is standard input."""
    if texts and file is not None:
        raise click.UsageError("Texts are given twice: on the command line and with --file.")
    if texts and texts != ("-",):
        return list(texts)
    if not texts and file is None:
        refuse_silence()
    return read_lines("-" if file is None else file)


def refuse_silence() -> None:
    """Standard input is a terminal, so nobody gave a text."""
    if standard_input().isatty():
        raise click.UsageError("There is no prompt: give PROMPT, or pipe text in.")


def read_lines(file: str) -> list[str]:
    """The lines of a file that are not empty; how many were is said."""
    lines = read_all(file).removesuffix("\n").split("\n")
    texts = [line for line in lines if line.strip()]
    name = "standard input" if file == "-" else file
    if not texts:
        raise InputError(f"{name} has no text", hint="one text per line")
    if len(texts) < len(lines):
        warn(f"{name}: empty lines are left out ({len(lines) - len(texts)} of {len(lines)})")
    return texts


def is_jsonl(file: str | None, form: str | None) -> bool:
    """Whether a file holds a JSON document on each line: as `form` says, else by its name."""
    if form is None:
        return file is not None and file.lower().endswith((".jsonl", ".ndjson"))
    return form == "jsonl"


def read_rows(file: str, names: Sequence[str], taken: Container[str] = ()) -> list[dict[str, Any]]:
    """What a file of JSON documents, one a line, has: the texts of each by name, and whatever else is beside them.

    Args:
        file: ``-`` is standard input.
        names: of the texts that each must have; a document that is a text is the first of them.
        taken: further names that mean something to the command, so that they would be misunderstood in the file.

    Raises:
        InputError: names the line and what is wrong with it.
    """
    name = "standard input" if file == "-" else file
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(read_all(file).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        row = parse_json(line, where, hint="one document per line")
        row = {names[0]: row} if isinstance(row, str) else row
        if not isinstance(row, dict):
            raise InputError(f"{where}: wanted a text or an object with {names[0]!r}, not {line.strip()[:40]}")
        rows.append(_checked(row, names, taken, where))
    if not rows:
        raise InputError(f"{name} has no text", hint="one JSON document per line")
    return rows


def _checked(row: dict[str, Any], names: Sequence[str], taken: Container[str], where: str) -> dict[str, Any]:
    for wanted in names:
        if wanted not in row:
            raise InputError(f"{where}: there is no {wanted!r}", hint=f"it has {few([repr(key) for key in row])}")
        if not isinstance(row[wanted], str):
            raise InputError(f"{where}: {wanted!r} is no text but {row[wanted]!r:.40}")
    for key in row:
        if key not in names and key in taken:
            hint = "options are given once, on the command line; another name is handed through to the results"
            raise InputError(f"{where}: {key!r} means something to polyllama and would be passed over here", hint=hint)
    return row


def read_all(file: str) -> str:
    """A UTF-8 file, or standard input for ``-``, with ``\\n`` at the ends of lines and no byte order mark."""
    name = "standard input" if file == "-" else file
    return decoded(standard_input().buffer.read() if file == "-" else Path(file).read_bytes(), name)


def decoded(data: bytes, name: str) -> str:
    """UTF-8 as text with ``\\n`` at the ends of lines; what is none is an InputError with `name`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 text (byte {error.start} is 0x{data[error.start]:02x})",
            hint="convert it first, for example with iconv",
        ) from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def parse_json(text: str, where: str, *, hint: str | None = None) -> Any:
    """A JSON document as the standard has it: no NaN, no number beyond a float, no key twice, no endless nesting.

    Raises:
        InputError: names what is wrong, and `where`.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_number, parse_float=_finite, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        reason = _TOO_DEEP if isinstance(error, RecursionError) else error
        raise InputError(f"{where}: no JSON ({reason})", hint=hint) from None
    if _is_deep(text, value):
        raise InputError(f"{where}: {_TOO_DEEP}")
    return value


def json_or_text(text: str, where: str) -> Any:
    """The value that is typed for an option: what it is as JSON, else the text itself.

    >>> json_or_text("3", "--set"), json_or_text("gelu", "--set")
    (3, 'gelu')
    """
    try:
        value = json.loads(text)
    except ValueError:
        return text
    except RecursionError:
        raise InputError(f"{where}: {_TOO_DEEP}") from None
    if _is_deep(text, value):
        raise InputError(f"{where}: {_TOO_DEEP}")
    return value


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is no number there")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_number(text[:40])


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} is there twice")
    return found


def _is_deep(text: str, value: Any) -> bool:
    """Whether lists and objects are nested so deep that writing or showing them would fail."""
    if text.count("[") + text.count("{") <= _DEEPEST:
        return False
    level, depth = [value], 0
    while level:
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level, depth = [item for items in inner for item in items], depth + 1
    return depth > _DEEPEST
