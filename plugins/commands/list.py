"""``polyllama list``: the models on this machine, by what names they go and how big they are."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from ...cli.console import examples, json_option, print_json, print_table, with_unit
from ...core.messages import counted

if TYPE_CHECKING:
    from pathlib import Path

    from ...core.sources.cache import CachedModel
    from ...core.sources.registry import Registry


@click.command("list", epilog=examples("polyllama list", "polyllama list --json | jq -r '.[].path'"))
@json_option
def list_models(as_json: bool) -> None:
    """List the models on this machine: those downloaded, those that come with polyllama, and your registry's folders.

    Downloads are all models in the cache of the Hugging Face Hub, which other programs share. The first column is what
    MODEL can be called; polyllama rm removes what was downloaded, polyllama models lists what could be.
    """
    from ...core.settings.schema import load_settings
    from ...core.sources.cache import cached_models
    from ...core.sources.registry import load_registry

    settings = load_settings()
    registry = load_registry(settings)
    downloaded = cached_models(settings.cache_dir, registry)
    rows = [*map(_downloaded, downloaded), *_lying_here(registry)]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["name", "size", "revision", "last used", "where"],
        [
            (row["name"], _size(row), " ".join(map(_revision, row["revisions"])), _day(row["last_used"]), _where(row))
            for row in rows
        ],
    )
    total = sum(model.nbytes for model in downloaded)
    if downloaded:
        click.echo(f"\n{counted(len(downloaded), 'model')} downloaded, {with_unit(total, 'B')}")
    else:
        click.echo("\nnothing is downloaded")


def _downloaded(model: CachedModel) -> dict[str, Any]:
    return {
        "name": model.names[0] if model.names else model.repo_id,
        "aliases": list(model.names[1:]),
        "origin": "hf",
        "repo_id": model.repo_id,
        "path": model.path,
        "bytes": model.nbytes,
        "unfinished_bytes": model.unfinished,
        "revisions": [
            {"commit": revision.commit, "refs": list(revision.refs), "bytes": revision.nbytes}
            for revision in model.revisions
        ],
        "last_used": model.last_used,
    }


def _lying_here(registry: Registry) -> list[dict[str, Any]]:
    """The registry's models that are no downloads and exist."""
    from ...core.sources.packages import package_name

    rows = []
    for entry in registry.entries:
        here = entry.here()
        if here is None:
            continue
        source, folder = here
        rows.append(
            {
                "name": entry.name,
                "aliases": list(entry.aliases),
                "origin": source.kind,
                "package": package_name(source.target) if source.kind == "package" else None,
                "repo_id": None,
                "path": folder,
                "bytes": _bytes_in(folder),
                "unfinished_bytes": 0,
                "revisions": [],
                "last_used": None,
            }
        )
    return rows


def _bytes_in(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _size(row: dict[str, Any]) -> str:
    size = with_unit(row["bytes"], "B")
    return f"{size} (unfinished: {with_unit(row['unfinished_bytes'], 'B')})" if row["unfinished_bytes"] else size


def _revision(revision: dict[str, Any]) -> str:
    return "/".join(revision["refs"]) or str(revision["commit"])[:8]


def _day(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds).strftime("%Y-%m-%d")


def _where(row: dict[str, Any]) -> str:
    if row["origin"] == "hf":
        return f"hf:{row['repo_id']}"
    if row.get("package") == "polyllama":
        return "comes with polyllama"
    return f"in the package {row['package']}" if row.get("package") else str(row["path"])
