"""``polyllama bench``: backend cpu beside llama.cpp, transformers, OpenVINO and mlx-lm, on random models of a shape; or
any server of OpenAI's interface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ...cli.console import examples, json_file_option, print_json, print_pairs, print_table
from ...cli.options import ModelName
from ...core.errors import InputError
from ...core.messages import counted


@click.command(
    "bench",
    epilog=examples(
        "polyllama bench",
        "polyllama bench llama-3.2-1b --weights int4 --vs llama-cpp",
        "polyllama bench --weights bfloat16 --vs transformers,llama-cpp --json speed.json --plot speed.png",
        "polyllama bench tiny --serve http://127.0.0.1:8000 --streams 8",
    ),
)
@click.argument("model", type=ModelName(), required=False)
@click.option(
    "--weights", default="int4", show_default=True, metavar="KINDS", help="int4, int8, bfloat16 ..., by commas."
)
@click.option(
    "--vs",
    "peers",
    default="",
    metavar="NAMES",
    help="Contenders by commas: llama-cpp, transformers, openvino, mlx-lm.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 4096),
    metavar="N",
    help="For every contender; by default the physical cores; polyllama takes fewer for small models.",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="Turns that are counted."
)
@click.option("--long", "with_long", is_flag=True, help="Also decode after 2048 tokens.")
@json_file_option("Write every figure")
@click.option("--serve", metavar="URL", help="Measure a server of OpenAI's interface instead.")
@click.option(
    "--streams", type=click.IntRange(1), default=8, show_default=True, metavar="N", help="Requests at a time."
)
@click.option("--requests", type=click.IntRange(1), default=16, metavar="N", help="Requests in all; 16 by default.")
@click.option(
    "--tokens", type=click.IntRange(1), default=32, show_default=True, metavar="N", help="Tokens of an answer."
)
@click.option("--key", metavar="KEY", envvar="OPENAI_API_KEY", help="API key of the server; OPENAI_API_KEY.")
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Draw the medians.")
def bench(
    model: str | None,
    weights: str,
    peers: str,
    threads: int | None,
    rounds: int,
    with_long: bool,
    file: Path | None,
    plot: Path | None,
    serve: str | None,
    **serving: Any,
) -> None:
    """Measure backend cpu and its peers in turns, on random weights in the shape of MODEL (TinyLlama-1.1B by default).

    Prints tokens per second, ratios round by round, and how much of the memory's own speed decoding reaches.

    With --serve, MODEL is the name that the server knows; without one it chooses. What the client itself could measure
    at most is printed too.
    """
    if serve is not None:
        _measure_server(serve, model, file, serving)
        return
    from ..bench.run import check_destination, check_installed, draw, rows, run

    printed = file is not None and str(file) == "-"
    for path in (None if printed else file, plot):
        if path is not None:
            check_destination(path)
    if plot is not None:
        check_installed("plot")
    measures = ["prefill", "decode", "batch decode", *(["long decode"] if with_long else [])]
    result = run(
        _config(model),
        [kind.strip() for kind in weights.split(",")],
        [peer.strip() for peer in peers.split(",") if peer.strip()],
        threads=threads,
        rounds=rounds,
        measures=measures,
        report=lambda text: click.echo(text, err=True),
    )
    if printed:
        print_json(result)
    else:
        print_table(["weights", "what", "median", "ratio"], rows(result))
    if file is not None and not printed:
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        click.echo(f"written: {file}")
    if plot is not None:
        draw(result, plot)
        click.echo(f"drawn: {plot}")


def _measure_server(url: str, model: str | None, file: Path | None, serving: dict[str, Any]) -> None:
    from ..bench.serving import Load, measure, rows

    found = measure(Load(url, model, **serving), lambda text: click.echo(text, err=True))
    if file is not None and str(file) == "-":
        print_json(found)
        return
    print_pairs(rows(found))
    if file is not None:
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        click.echo(f"written: {file}")
    if found["errors"]:
        raise InputError(f"{counted(found['errors'], 'request')} of {found['requests']} failed: {found['error']}")


def _config(model: str | None) -> Any:
    from ...core.config.schema import LlamaConfig
    from ...core.loading.describe import describe
    from ..bench.random_models import TINYLLAMA

    sizes: dict[str, Any] = dict(TINYLLAMA)
    return LlamaConfig(**sizes) if model is None else describe(model, load_format="dummy").config
