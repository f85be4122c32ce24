"""``polyllama models``: the names that stand for checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import click

from ...cli.console import examples, json_option, print_json, print_table, with_unit

if TYPE_CHECKING:
    from ...core.plugin_system.hookspecs import TaskDescriptor


@click.command(
    "models", epilog=examples("polyllama models", "polyllama models classification", "polyllama models 70b --json")
)
@click.argument("query", required=False)
@json_option
def models(query: str | None, as_json: bool) -> None:
    """List the models known by name; with QUERY, those that have it in their name, aliases, source, task or summary.

    Several words must all be there. A task has every name that it goes by: ner finds token-classification.

    More names come from plugins, from registry.yaml in your config folder, and from the files that the setting
    registries lists.
    """
    from ...core.plugin_system.manager import plugin_manager
    from ...core.sources.registry import load_registry

    words = (query or "").lower().split()
    names = _task_names(plugin_manager().tasks()) if words else {}
    entries = []
    for entry in load_registry().entries:
        # The beginnings of a task's words alone: "ner" is in "generation".
        tasks = [part for task in entry.tasks for name in names.get(task, (task,)) for part in (name, *name.split("-"))]
        text = " ".join((entry.name, *entry.aliases, *map(str, entry.sources), entry.summary)).lower()
        if all(word in text or any(part.startswith(word) for part in tasks) for word in words):
            entries.append(entry)
    if as_json:
        print_json([entry.model_dump(mode="json", exclude={"config"}) for entry in entries])
        return
    if not entries:
        click.echo(f"No model has {query!r} in its name, aliases, source, task or summary.", err=True)
        return
    print_table(
        ["name", "parameters", "context", "license", "source", "aliases", "tasks", "summary"],
        [
            (
                entry.name,
                with_unit(entry.parameters) if entry.parameters else "",
                entry.context or "",
                f"{entry.license or ''}{' (gated)' if entry.gated else ''}".strip(),
                " or ".join(map(str, entry.sources)),
                " ".join(entry.aliases),
                " ".join(entry.tasks),
                entry.summary,
            )
            for entry in entries
        ],
    )


def _task_names(tasks: Mapping[str, TaskDescriptor]) -> dict[str, Iterable[str]]:
    """Every name that a task goes by, under each of them."""
    groups = [(name, *offer.aliases) for name, offer in tasks.items()]
    return {name: group for group in groups for name in group}
