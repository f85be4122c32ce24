"""``polyllama models``: the names that stand for checkpoints."""

from __future__ import annotations

import click

from ...cli.console import examples, json_option, print_json, print_table, with_unit


@click.command(
    "models", epilog=examples("polyllama models", "polyllama models instruct", "polyllama models 70b --json")
)
@click.argument("query", required=False)
@json_option
def models(query: str | None, as_json: bool) -> None:
    """List the models known by name; with QUERY, those that have it in their name, aliases, source or summary.

    More names come from plugins, from registry.yaml in your config folder, and from the files that the setting
    registries lists.
    """
    from ...core.sources.registry import load_registry

    words = (query or "").lower().split()
    entries = [
        entry
        for entry in load_registry().entries
        if all(word in " ".join((entry.name, *entry.aliases, entry.source, entry.summary)).lower() for word in words)
    ]
    if as_json:
        print_json([entry.model_dump(mode="json", exclude={"config"}) for entry in entries])
        return
    if not entries:
        click.echo(f"No model has {query!r} in its name, aliases, source or summary.", err=True)
        return
    print_table(
        ["name", "parameters", "context", "license", "source", "aliases", "summary"],
        [
            (
                entry.name,
                with_unit(entry.parameters) if entry.parameters else "",
                entry.context or "",
                f"{entry.license or ''}{' (gated)' if entry.gated else ''}".strip(),
                entry.source,
                " ".join(entry.aliases),
                entry.summary,
            )
            for entry in entries
        ],
    )
