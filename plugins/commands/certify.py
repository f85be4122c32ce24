"""``polyllama certify``: hold a backend to the float64 spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...cli.console import examples, json_file_option, print_table
from ...cli.options import PluginName, TypedText
from ...core.messages import counted

if TYPE_CHECKING:
    from ...testing.certificate import Certificate
    from ...testing.checks import Result


@click.command(
    "certify",
    epilog=examples(
        "polyllama certify torch",
        "polyllama certify torch:cuda --dtype bfloat16 --json torch-cuda.json",
        "polyllama certify mybackend --only rope --only cache.step",
    ),
)
@click.argument("backend", type=PluginName("backend"))
@click.option("--device", metavar="DEVICE", help="A device of the backend: cpu, cuda, cuda:1, mps ...")
@click.option("--dtype", "dtypes", metavar="DTYPE", multiple=True, help="Only this dtype. Repeatable.")
@click.option("--only", metavar="CHECK", multiple=True, help="Only this check or group of checks. Repeatable.")
@click.option("--thorough", is_flag=True, help="Further sizes too; takes several times as long.")
@click.option("--list", "list_only", is_flag=True, help="List the checks and what each means; try nothing.")
@json_file_option("Write the certificate")
@click.option(
    "--note",
    type=TypedText(),
    metavar="TEXT",
    default="",
    help="What to know of this machine; kept in the certificate.",
)
@click.pass_context
def certify(
    ctx: click.Context,
    backend: str,
    device: str | None,
    dtypes: tuple[str, ...],
    only: tuple[str, ...],
    thorough: bool,
    list_only: bool,
    file: Path | None,
    note: str,
) -> None:
    """Try every node, RoPE type, cache, padding, task head and dtype of BACKEND against the float64 spec.

    Each check has a bound derived from the dtype. The exit code is 0 when all pass and 1 when one fails. With
    --thorough, more lengths, heads, caches and packed widths are tried.
    """
    from ...core.errors import InputError
    from ...testing.certificate import certify as run
    from ...testing.certificate import select_checks

    if list_only:
        print_table(["check", "what passing it means"], [(c.name, c.summary) for c in select_checks(only, thorough)])
        return
    to_stdout = file is not None and str(file) == "-"
    if file is not None and not to_stdout and not file.absolute().parent.is_dir():
        raise InputError(f"--json {file}: there is no folder {file.parent}", hint="make it first")
    report = None if to_stdout else _show_failure
    certificate = run(
        backend, device=device, dtypes=dtypes or None, only=only, report=report, note=note, thorough=thorough
    )
    if to_stdout:
        from ...cli.console import print_json

        print_json(certificate.to_dict())
    else:
        if file is not None:
            certificate.write(file)
        _summarize(certificate)
    if not certificate.passed:
        ctx.exit(1)


def _show_failure(result: Result) -> None:
    if result.status != "passed":
        click.echo(str(result))


def _summarize(certificate: Certificate) -> None:
    rows = []
    for dtype in certificate.dtypes:
        results = [r for r in certificate.results if r.dtype == dtype]
        closest = max(results, key=lambda r: r.error / r.bound if r.bound else 0.0)
        passed = sum(r.status == "passed" for r in results)
        share = f"{closest.error / closest.bound:.0%} of its bound: {closest.check}" if closest.bound else "-"
        failed, skipped = (sum(r.status == status for r in results) for status in ("failed", "skipped"))
        rows.append((dtype, passed, failed, skipped, share))
    print_table(["dtype", "passed", "failed", "skipped", "largest error"], rows)
    verdict = "passes" if certificate.passed else "FAILS"
    name, where = certificate.backend["name"], certificate.device
    part = ("" if certificate.complete else ", a part of what it declares") + (
        ", further sizes among them," if certificate.thorough else ""
    )
    tried = sum(result.status != "skipped" for result in certificate.results)
    count = counted(tried, "check")
    click.echo(f"\n{name} on {where} {verdict}: {count}{part} in {certificate.seconds:.1f} s")
