"""``polyllama rm``: remove downloaded models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ...cli.console import examples, json_option, print_json, standard_input, with_unit
from ...cli.options import ModelName

if TYPE_CHECKING:
    from ...core.sources.registry import Registry


@click.command(
    "rm",
    epilog=examples(
        "polyllama rm tinyllama",
        "polyllama rm meta-llama/Llama-3.2-1B --revision 4e20de36",
        "polyllama rm tinyllama 7b --yes",
    ),
)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=ModelName())
@click.option("--revision", metavar="REV", help="Only this branch, tag or commit; all that is downloaded by default.")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@json_option
def rm(models: tuple[str, ...], revision: str | None, yes: bool, as_json: bool) -> None:
    """Remove each MODEL from the cache of downloads: a name, or the id of a repository (polyllama list shows both).

    Only what was downloaded from the Hub is removed, through huggingface_hub, and other programs lose it too. What lies
    in a folder of yours stays. It asks first; without anybody to ask it wants --yes.
    """
    from ...core.settings.schema import load_settings
    from ...core.sources.cache import cached_models, find_cached, plan_removal
    from ...core.sources.registry import load_registry

    settings = load_settings()
    registry = load_registry(settings)
    cached = cached_models(settings.cache_dir, registry)
    for name in models:
        if not any(model.answers_to(name) for model in cached):
            _refuse_what_lies_here(name, registry)
    chosen = list({found.repo_id: found for found in (find_cached(cached, name) for name in models)}.values())
    removal = plan_removal(settings.cache_dir, chosen, revision)
    room = with_unit(removal.nbytes, "B")
    if not yes:
        for path in removal.paths:
            click.echo(str(path), err=True)
        if not standard_input().isatty():
            raise click.UsageError("There is nobody to ask whether to remove this; give --yes.")
        if not click.confirm(f"Remove {', '.join(model.repo_id for model in chosen)} ({room})?", err=True):
            click.echo("nothing is removed", err=True)
            raise click.exceptions.Exit(1)
    removal.execute()
    if as_json:
        removed = [model.repo_id for model in chosen]
        print_json({"removed": removed, "revision": revision, "paths": removal.paths, "bytes": removal.nbytes})
    else:
        click.echo(f"removed {', '.join(model.repo_id for model in chosen)}: {room}")


def _refuse_what_lies_here(name: str, registry: Registry) -> None:
    """A model that exists and was never downloaded has its own answer."""
    from ...core.errors import DownloadError, RegistryError
    from ...core.sources.locate import interpret
    from ...core.sources.packages import package_name

    try:
        meaning = interpret(name, registry=registry)
    except RegistryError:  # nothing is called so; what is downloaded says more
        return
    if meaning.path is None:
        return
    what = "is a file of yours" if meaning.path.is_file() else "is a folder of yours"
    here = None if meaning.entry is None else meaning.entry.here()
    if here is not None and here[0].kind == "package":
        package = package_name(here[0].target)
        what = "comes with polyllama" if package == "polyllama" else f"is in the installed package {package}"
    raise DownloadError(f"{name!r} {what}, no download", hint=f"it is {meaning.path}")
