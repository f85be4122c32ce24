"""``polyllama compare``: do two backends differ by a bug or by rounding?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ...cli.console import examples, json_option, print_json, print_table
from ...cli.options import PluginName, TypedText, given, model_argument, overrides_option, parse_overrides
from ...core.messages import counted

if TYPE_CHECKING:
    from ...testing.comparing import Comparison


@click.command(
    "compare",
    epilog=examples(
        "polyllama compare tiny --backends torch,reference",
        "polyllama compare ./my-model --backends mybackend,torch --dtype bfloat16 --prompt 'Hello'",
        "polyllama compare tiny --backends torch,reference --json | jq .verdict",
    ),
)
@model_argument
@click.option("--backends", required=True, metavar="A,B", help="The two backends, each with a device if wanted.")
@click.option("--prompt", type=TypedText(), metavar="TEXT", help='What to run; "Once upon a time" by default.')
@click.option("--dtype", default="auto", metavar="DTYPE", help="For each backend that computes in it.")
@click.option("--task", type=PluginName("task"), help="The task head; the checkpoint's own by default.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a Hub repository.")
@click.option("--load-format", metavar="FORMAT", help="Format of the weights; dummy makes random ones.")
@overrides_option
@json_option
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    model: str,
    backends: str,
    prompt: str | None,
    dtype: str,
    overrides: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Run MODEL on two backends and name the first node that differs by more than its dtype explains.

    Every node is computed again in float64 from what the backend itself gave it, so rounding that has piled up before
    does not count, and the answer says which backend is off. The exit code is 0 when the two are equal or differ by
    rounding, 1 when a node differs by more (or on an error, which is on stderr). It is one pass without a cache; what
    goes wrong from a cache only is found by polyllama certify BACKEND --only cache.
    """
    from ...testing.comparing import DIFFERS, compare_backends

    found = compare_backends(
        model,
        [name.strip() for name in backends.split(",")],
        prompt=prompt,
        dtype=dtype,
        config_overrides=parse_overrides(overrides),
        **given(options, ("task", "revision", "load_format")),
    )
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found)
    if found.verdict == DIFFERS:
        ctx.exit(1)


def _show(found: Comparison) -> None:
    rows = []
    for run in found.runs:
        closest = max(run.nodes, key=lambda node: node.measured.ratio)
        nodes = f"{len(run.nodes)}" if run.observed else f"{len(run.nodes)} (hidden states only)"
        share = f"{closest.measured.ratio:.0%} of its bound: {closest.node}"
        rows.append((run.name, run.device, run.dtype, nodes, share))
    print_table(["backend", "device", "dtype", "nodes", "largest error"], rows)
    tokens, apart = len(found.token_ids), f"{found.last_distance:.2g} of the largest value apart"
    click.echo(f"\n{found.model}, {counted(tokens, 'token')}; the last outputs are {apart}.")
    first = found.first
    if first is None:
        explained = "rounding: every node gives what its inputs and its dtype explain"
        click.echo("equal" if found.verdict == "equal" else explained)
        return
    error = f"is off by {first.measured.error:.3g} of its largest value, its bound is {first.measured.bound:.3g}"
    apart = "" if first.distance is None else f"; the two are {first.distance:.3g} apart there"
    click.echo(f"differs: {first.kind} {first.node} of {first.backend} {error}{apart} ({first.measured.detail})")
