"""``polyllama quantize``: a checkpoint in, a smaller one out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ...cli.console import examples, json_option, print_json, print_table, progress_bar, with_unit
from ...cli.options import ModelName, ignore_option, source_options
from .pack import packer

if TYPE_CHECKING:
    from ...core.export.quantize_report import Report


@click.command(
    "quantize",
    epilog=examples(
        "polyllama quantize tiny ./tiny-int4 --group-size 32 --pack cpu",
        "polyllama quantize llama-3.2-1b ./small --embeddings int8 --module '*.down_proj=int8'",
        "polyllama quantize ./my-model ./small --method calibrated --calibration texts.jsonl",
    ),
)
@click.argument("source", type=ModelName())
@click.argument("target", type=click.Path())
@click.option("--bits", type=int, default=4, show_default=True, metavar="N", help="2, 3, 4, 5, 6 or 8.")
@click.option("--group-size", type=int, metavar="N", help="32, 64 or 128; by default 64, or 32 where 64 is too much.")
@click.option(
    "--module",
    "modules",
    metavar="PATTERN=HOW",
    multiple=True,
    help="Another setting for modules whose name matches: int8, int4-g32 ... or none. Repeatable; the last counts.",
)
@click.option("--embeddings", metavar="HOW", help="Another setting for the embedding: int8, int4-g32 ... or none.")
@click.option("--head", metavar="HOW", help="Another setting for the head: int8, int4-g32 ... or none.")
@click.option(
    "--method",
    type=click.Choice(["round", "calibrated"]),
    default="round",
    show_default=True,
    help="Plain rounding, or by what each matrix is given on the text of --calibration (GPTQ).",
)
@click.option("--calibration", metavar="FILE", help="Text to calibrate by: a .jsonl with text in each line, or plain.")
@click.option(
    "--pack", metavar="BACKEND", help="Also write the weights as this backend reads them (cpu), to load at once."
)
@click.option("--max-shard-size", default="5GB", show_default=True, metavar="SIZE", help="Largest file of weights.")
@click.option("--overwrite", is_flag=True, help="Replace the model that is in TARGET.")
@ignore_option
@source_options
@json_option
def quantize(
    source: str, target: str, modules: tuple[str, ...], pack: str | None, as_json: bool, **options: Any
) -> None:
    """Write SOURCE with quantized weights into the new folder TARGET, and say what each matrix lost.

    One matrix is in memory at a time. The layout is MLX's, so every backend here and mlx-lm read the result. With
    --method calibrated, weights are rounded so that what layers give on the text of --calibration changes least.
    """
    from ...core.export.quantize_checkpoint import quantize_checkpoint

    given = {name: value for name, value in options.items() if value is not None}
    write_packed = None if pack is None else packer(pack)
    with progress_bar("quantizing", not as_json, names=True) as progress:
        report = quantize_checkpoint(source, target, modules=_patterns(modules), progress=progress, **given)
    packed = None if write_packed is None else write_packed(report.folder)
    if as_json:
        print_json(report.to_dict() | ({} if packed is None else {"packed": str(packed)}))
        return
    _show(report)
    if packed is not None:
        click.echo(f"{packed}: as backend {pack} reads it")


def _patterns(modules: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in modules:
        pattern, separator, how = text.rpartition("=")
        if not separator or not pattern or not how:
            raise click.UsageError(f"--module {text!r} is not PATTERN=HOW")
        found.pop(pattern, None)  # the last one counts, so it goes to the end
        found[pattern] = how
    return found


def _show(report: Report) -> None:
    calibrated = any(module.output_error is not None for module in report.modules)
    headers = ["module", "shape", "as", "relative rms", "largest", "method"]
    rows = []
    for module in report.modules:
        row = [
            module.name,
            "x".join(map(str, module.shape)),
            str(module.quantization),
            f"{module.relative_rms:.3%}",
            f"{module.max_error:.3%}",
            module.method,
        ]
        if calibrated:
            row += [_share(module.output_error), _share(module.rounded_output_error)]
        rows.append(row)
    print_table([*headers, "output", "output rounded"] if calibrated else headers, rows)
    worst = report.worst
    click.echo(f"\nworst: {worst.name}, {worst.relative_rms:.3%} of its weights' size (root mean square)")
    if report.left:
        click.echo(f"not quantized: {', '.join(report.left)}")
    sizes = f"{with_unit(report.bytes_before, 'B')} -> {with_unit(report.bytes_after, 'B')}"
    click.echo(f"{report.folder}: {sizes}, {report.bits_per_weight:.2f} bits per weight")


def _share(error: float | None) -> str:
    """A mean squared error of outputs as the share of their size that it is."""
    return "-" if error is None else f"{error**0.5:.3%}"
