"""``polyllama download``: fetch now, load later, also offline."""

from __future__ import annotations

import click

from ...cli.console import examples, json_option, print_json, with_unit
from ...cli.options import model_argument, source_options
from ...core.messages import counted


@click.command(
    "download",
    epilog=examples("polyllama download tinyllama", "polyllama download meta-llama/Llama-3.2-1B --revision main"),
)
@model_argument
@click.option("--only", type=click.Choice(["all", "config", "tokenizer"]), default="all", help="Which files to fetch.")
@source_options
@json_option
def download(model: str, only: str, revision: str | None, offline: bool | None, as_json: bool) -> None:
    """Fetch MODEL's files into the cache and print the folder they lie in; what is there already is not fetched again.

    With --offline it tells whether everything is in the cache. Only what is needed is fetched: safetensors, never
    pickled weights.
    """
    from ...core.settings.schema import load_settings
    from ...core.sources.locate import locate

    settings = load_settings(offline=offline)
    located = locate(model, revision=revision, files=only, settings=settings)  # type: ignore[arg-type]
    folder = located.path
    files = sorted(file for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else [folder]
    size = sum(file.stat().st_size for file in files)
    if as_json:
        print_json(
            {
                "model": model,
                "path": folder,
                "origin": located.origin,
                "repo_id": located.repo_id,
                "revision": located.revision,
                "commit": located.commit,
                "files": {
                    str(file.relative_to(folder)) if file != folder else file.name: file.stat().st_size
                    for file in files
                },
                "bytes": size,
            }
        )
        return
    click.echo(str(folder))
    note = "" if located.origin == "hf" else f"; {model!r} lies on this machine, so there was nothing to download"
    click.echo(f"{counted(len(files), 'file')}, {with_unit(size, 'B')}{note}", err=True)
