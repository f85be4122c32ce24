"""``polyllama plan``: what a model would take, and whether it would load, before anything is loaded."""

from __future__ import annotations

from typing import Any

import click

from ...cli.console import examples, json_option, print_json, print_table
from ...cli.options import (
    PluginName,
    given,
    ignore_option,
    model_argument,
    overrides_option,
    parse_overrides,
    source_options,
)
from ...core.messages import visible


@click.command(
    "plan",
    epilog=examples(
        "polyllama plan 7b --context 8192 --batch 4",
        "polyllama plan ./my-model --backend torch:cuda --quantize int4",
        "polyllama plan llama-3.1-8b --json | jq .chosen.memory.peak",
    ),
)
@model_argument
@click.option("--backend", type=PluginName("backend"), help="Look at this backend only; by default at all.")
@click.option("--device", metavar="DEVICE", help="A device of the backend: cpu, cuda, cuda:1, mps ...")
@click.option("--dtype", metavar="DTYPE", help="float64, float32, bfloat16 or float16; by default several.")
@click.option("--quantize", metavar="HOW", help="int4, int8, int4-g32 ...; by default none, int8 and int4.")
@click.option("--batch", type=int, metavar="N", help="Rows that go through together (1).")
@click.option("--context", type=int, metavar="N", help="Tokens of a row, prompt and text; the model's, at most 4096.")
@click.option("--prompt", type=int, metavar="N", help="Tokens of the prompt; by default the whole context.")
@click.option("--prefill-chunk-size", type=int, metavar="N", help="Run a prompt so many tokens at a time.")
@click.option("--task", type=PluginName("task"), help="The task head; the checkpoint's own by default.")
@ignore_option
@source_options
@overrides_option
@json_option
def plan(model: str, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Say what MODEL would take on each backend here, what fits, and which backend would be taken and why.

    Tensors that are missing, too many or of the wrong shape are listed with likely causes. Only headers and
    configuration are read; a model on the Hub is not downloaded.
    """
    from ...core.planning.plan import plan as run
    from ...core.planning.result import HEADERS, head_lines, option_row, tail_lines

    made = run(model, config_overrides=parse_overrides(overrides), **given(options, tuple(options)))
    if as_json:
        print_json(made.to_dict())
        return
    for line in head_lines(made):
        click.echo(visible(line))
    click.echo()
    print_table(HEADERS, [option_row(option) for option in made.options])
    click.echo()
    for line in tail_lines(made):
        click.echo(visible(line))
