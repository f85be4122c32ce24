"""``polyllama plugins``: what was found, what each offers, what is wrong."""

from __future__ import annotations

import click

from ...cli.console import examples, json_option, print_json, print_table
from ...core.messages import visible


@click.command("plugins", epilog=examples("polyllama plugins", "polyllama plugins --json | jq '.plugins[].name'"))
@json_option
def plugins(as_json: bool) -> None:
    """List the plugins: where each comes from, what it offers, and what is wrong with it.

    A plugin is an installed package with an entry point in the group polyllama. The settings plugins_allow and
    plugins_block (POLYLLAMA_PLUGINS_BLOCK=a,b) decide which are loaded.
    """
    from ...core.plugin_system.manager import plugin_manager

    found = plugin_manager()
    if as_json:
        rows = [
            {
                "name": plugin.name,
                "distribution": plugin.distribution or None,
                "version": plugin.version or None,
                "origin": plugin.origin,
                "state": plugin.state,
                "reason": plugin.reason or None,
                "problems": list(plugin.problems),
                "offers": {kind: list(names) for kind, names in plugin.offers.items()},
            }
            for plugin in found.plugins()
        ]
        print_json({"plugins": rows, "problems": [str(problem) for problem in found.problems]})
        return
    print_table(
        ["plugin", "package", "state", "offers"],
        [
            (
                plugin.name,
                f"{plugin.distribution} {plugin.version}".strip() or "registered at run time",
                plugin.state if plugin.state != "blocked" else f"blocked: {plugin.reason}",
                "; ".join(f"{kind} {', '.join(names)}" for kind, names in plugin.offers.items()),
            )
            for plugin in found.plugins()
        ],
    )
    for problem in found.problems:
        click.echo(visible(f"! {problem}"))
