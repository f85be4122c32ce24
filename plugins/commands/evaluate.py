"""``polyllama evaluate``: how well a model predicts a text, and how fast, on one backend or on several."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from ...cli.console import examples, json_option, print_json, print_table, progress_bar
from ...cli.options import load_model, load_options, model_argument
from ...cli.texts import read_all, refuse_silence
from ...core.messages import counted

if TYPE_CHECKING:
    from ...core.api.llama import Llama
    from ...core.prediction.perplexity import Perplexity


@click.command(
    "evaluate",
    epilog=examples(
        "polyllama evaluate tiny story.txt",
        "polyllama evaluate llama-3.2-1b wiki.txt --context 1024 --stride 512",
        "polyllama evaluate ./my-model story.txt --backends cpu,torch --dtype float32",
        "polyllama evaluate ./my-model story.txt --quantize int4 --json | jq '.results[0].perplexity'",
    ),
)
@model_argument
@click.argument("file", required=False)
@load_options
@click.option("--backends", metavar="A,B", help="Several backends, one after the other, each with a device if wanted.")
@click.option("--context", type=int, metavar="N", help="Most tokens of a window; the model's context, at most 2048.")
@click.option("--stride", type=int, metavar="N", help="Tokens from one window to the next; half of the context.")
@json_option
def evaluate(model: str, file: str | None, as_json: bool, **options: Any) -> None:
    """Measure MODEL's perplexity on the text in FILE (UTF-8; - or none: standard input), and its speed.

    The text is read in overlapping windows of --context tokens, each --stride after the one before, and every token is
    predicted once, from what its window holds before it. Perplexity is exp of the mean loss over these tokens: the
    smaller the better, and comparable between models that cut texts into the same tokens. Tokens per second count all
    that went through the model, those that overlap too; the first window of a backend that compiles is slow.

    With --backends a table shows several backends side by side, loaded one after the other.
    """
    names = _backends(options.pop("backends"), options["backend"])
    if options["adapters"]:
        raise click.UsageError("--adapters is for calls that choose one; evaluate takes --adapter FOLDER.")
    if file is None:
        refuse_silence()
    text = read_all("-" if file is None else file)
    if len(names) > 1:
        _check_all(names, options["device"])
    results = [_evaluated(model, text, {**options, "backend": name}, not as_json) for name in names]
    if as_json:
        print_json({"model": model, "file": file or "-", "results": results})
        return
    headers = ["backend", "device", "dtype", "perplexity", "loss", "tokens/s", "seconds"]
    print_table(headers, [_row(result) for result in results])
    first = results[0]
    count = counted(len(first["windows"]), "window")
    sizes = f"{count} of at most {first['context']}, {first['stride']} apart"
    click.echo(f"\n{model}: {first['predicted']:,} of {counted(first['tokens'], 'token')} predicted, in {sizes}")


def _backends(several: str | None, one: str | None) -> list[str | None]:
    if several is None:
        return [one]
    if one is not None:
        raise click.UsageError("The backend is given twice: --backend and --backends.")
    names = [name.strip() for name in several.split(",")]
    if not all(names):
        raise click.UsageError(f"--backends {several!r} names an empty backend; give them as A,B.")
    if len(set(names)) < len(names):
        raise click.UsageError(f"--backends {several!r} names a backend twice.")
    return list(names)


def _check_all(names: list[str | None], device: str | None) -> None:
    """Refuse a backend that is none or cannot run before the first one takes its time."""
    from ...core.backend.choice import choose_backend
    from ...core.plugin_system.manager import plugin_manager

    for name in names:
        choose_backend(name, plugin_manager().backends(), device)


def _evaluated(model: str, text: str, options: dict[str, Any], shown: bool) -> dict[str, Any]:
    """Load the model, measure, and let go of it before the next backend loads it."""
    llm = load_model(model, options)
    with progress_bar(f"evaluating on {llm.backend}", shown, counts="windows") as advance:
        tell = None if advance is None else lambda done, total: advance("", done, total)
        found = llm.perplexity(text, context=options["context"], stride=options["stride"], progress=tell or False)
    return _as_data(llm, found)


def _as_data(llm: Llama, found: Perplexity) -> dict[str, Any]:
    return {
        **{"backend": llm.backend, "device": llm.device, "dtype": llm.dtype},
        **{"perplexity": found.perplexity, "loss": found.loss},
        **{"tokens": found.tokens, "predicted": found.predicted},
        **{"context": found.context, "stride": found.stride},
        "windows": [
            {"begin": window.begin, "end": window.end, "predicted": window.predicted, "loss": window.loss}
            for window in found.windows
        ],
        **{"processed": found.processed, "seconds": found.seconds, "tokens_per_second": found.tokens_per_second},
    }


def _row(result: dict[str, Any]) -> list[str]:
    perplexity = result["perplexity"]
    shown = "more than 1e308" if math.isinf(perplexity) else f"{perplexity:.4f}"
    numbers = (shown, f"{result['loss']:.6f}", f"{result['tokens_per_second']:,.1f}", f"{result['seconds']:.2f}")
    return [result["backend"], result["device"], result["dtype"], *numbers]
