"""Texts from the command line, a file or standard input."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from ..core.errors import InputError, PolyllamaWarning
from ..core.public import for_plugins
from .console import standard_input


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
        warnings.warn(
            f"{name}: empty lines are left out ({len(lines) - len(texts)} of {len(lines)})",
            PolyllamaWarning,
            stacklevel=2,
        )
    return texts


def read_all(file: str) -> str:
    """A UTF-8 file, or standard input for ``-``, with ``\\n`` at the ends of lines."""
    name = "standard input" if file == "-" else file
    data = standard_input().buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 text (byte {error.start} is 0x{data[error.start]:02x})",
            hint="convert it first, for example with iconv",
        ) from None
    return text.replace("\r\n", "\n")
