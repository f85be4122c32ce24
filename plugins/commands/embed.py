"""``polyllama embed``: texts as vectors."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...cli.console import examples, json_option, print_json, print_table
from ...cli.options import TypedText, adapter_of_call, load_model, load_options, model_argument
from ...cli.texts import read_texts
from ...core.errors import InputError
from ...core.messages import counted, shortened, visible

if TYPE_CHECKING:
    import numpy as np

SHOWN = 6
"""Numbers of a vector that are shown."""
MOST_COMPARED = 12
"""Texts that fit into a table of similarities."""


@click.command(
    "embed",
    epilog=examples(
        'polyllama embed tiny "The sun is warm" "It is hot today" "A fox ran away"',
        'polyllama embed tiny "The sun is warm" --pooling last --json',
        "polyllama embed tiny --file sentences.txt --output vectors.npy",
    ),
)
@model_argument
@click.argument("texts", type=TypedText(), nargs=-1)
@load_options
@click.option(
    "--file", metavar="FILE", type=click.Path(), help="Read texts from a file, one per line; - is standard input."
)
@click.option(
    "--pooling", type=click.Choice(["mean", "last"]), help="The mean of a text's tokens, or the last of them."
)
@click.option("--output", metavar="FILE.npy", type=click.Path(), help="Write the vectors there, as NumPy's float32.")
@click.option("--batch-size", type=int, metavar="N", help="Texts that run at once.")
@click.option("--truncation", is_flag=True, help="Cut texts that are too long, instead of an error.")
@json_option
def embed(
    model: str,
    texts: tuple[str, ...],
    file: str | None,
    pooling: str | None,
    output: str | None,
    batch_size: int | None,
    truncation: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Turn TEXTS into vectors of length 1 with MODEL, any Llama.

    Texts are also read from --file, or from standard input, one per line. Several are compared: 1 is the same
    direction.
    """
    if output is not None and not output.endswith(".npy"):
        raise click.UsageError(f"--output {output!r} must end in .npy")
    if output is not None and not Path(output).parent.is_dir():  # said before a model runs
        raise InputError(f"{output!r} cannot be written: there is no folder {str(Path(output).parent)!r}")
    found = read_texts(texts, file)
    options["task"] = options["task"] or "embedding"
    if pooling is not None:
        options["overrides"] = (*options["overrides"], f"pooling={pooling}")
    llm = load_model(model, options)
    if llm.task_head.texts != ("text",):
        raise InputError(f"task {llm.task!r} does not turn a text into a vector", hint="leave --task out")
    chosen: dict[str, Any] = adapter_of_call(options)
    if batch_size is not None:
        chosen["batch_size"] = batch_size
    vectors = llm.predict(found, truncation=truncation, **chosen)
    if getattr(vectors, "ndim", None) != 2:
        raise InputError(f"task {llm.task!r} does not turn a text into a vector", hint="leave --task out")
    if output is not None:
        write_array(Path(output), vectors)
    if as_json:
        rows = [{"text": text, "embedding": vector} for text, vector in zip(found, vectors.tolist(), strict=True)]
        where = {"backend": llm.backend, "device": llm.device, "dtype": llm.dtype}
        print_json({"model": model, "task": llm.task, "size": int(vectors.shape[1]), "results": rows, **where})
    elif output is not None:
        click.echo(f"{vectors.shape[0]} x {vectors.shape[1]} numbers in {output}")
    else:
        _show(found, vectors)


def _show(texts: list[str], vectors: np.ndarray) -> None:
    """The beginning of each vector; of several, their cosines too."""
    rows = [
        (number, visible(_short(text)), f"{' '.join(f'{x:.3f}' for x in vector[:SHOWN].tolist())} ...")
        for number, (text, vector) in enumerate(zip(texts, vectors, strict=True), start=1)
    ]
    print_table(["#", "text", counted(vectors.shape[1], "number")], rows)
    if len(texts) == 1:
        return
    click.echo()
    if len(texts) > MOST_COMPARED:
        click.echo(f"Similarities are shown for up to {MOST_COMPARED} texts; --output has all vectors.")
        return
    cosines = (vectors @ vectors.T).tolist()
    table = [(number, *(f"{value:.3f}" for value in row)) for number, row in enumerate(cosines, start=1)]
    print_table(["similarity", *map(str, range(1, len(texts) + 1))], table)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return shortened(line, 40)


def write_array(path: Path, array: np.ndarray) -> None:
    """An ``.npy`` file, under its name only once it is whole."""
    import numpy as np

    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            np.save(file, array)
        os.replace(beside, path)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
