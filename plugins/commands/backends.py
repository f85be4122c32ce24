"""``polyllama backends``: which can run here, on what, and which one ``auto`` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ...cli.console import examples, json_option, print_json, print_pairs, print_table
from ...core.errors import PolyllamaError
from ...core.plugin_system.hookspecs import describe_exception

if TYPE_CHECKING:
    from ...core.plugin_system.hookspecs import BackendDescriptor
    from ...core.plugin_system.manager import Plugins


@click.command("backends", epilog=examples("polyllama backends", "polyllama backends --json | jq .auto.backend"))
@json_option
def backends(as_json: bool) -> None:
    """List the backends: available or why not, their devices, and which one is taken by default."""
    from ...core.plugin_system.manager import plugin_manager
    from ...core.settings.listing import listing_settings

    settings = listing_settings()
    plugins = plugin_manager(settings)
    rows = [_describe(descriptor) for descriptor in plugins.backends().values()]
    auto = _auto(plugins)
    if as_json:
        wanted = {"backend": settings.backend, "device": settings.device, "from": settings.provenance["backend"]}
        print_json({"backends": rows, "auto": auto, "setting": wanted})
        return
    print_table(
        ["backend", "usable", "devices", "reason", "summary", "plugin"],
        [
            (r["name"], "yes" if r["usable"] else "no", " ".join(r["devices"]), r["reason"], r["summary"], r["plugin"])
            for r in rows
        ],
    )
    click.echo("\nauto, in the order in which it looks:")
    if auto["error"]:
        click.echo(f"  {auto['error']}")
    print_pairs([(f"  {'*' if c['taken'] else ' '} {c['name']}", c["reason"]) for c in auto["considered"]])
    if settings.backend != "auto":
        click.echo(f"\nWithout --backend, {settings.backend} is taken ({settings.provenance['backend']}).")


def _describe(descriptor: BackendDescriptor) -> dict[str, Any]:
    from ...core.backend.choice import load_backend

    row: dict[str, Any] = {
        "name": descriptor.name,
        "usable": False,
        "devices": [],
        "reason": None,
        "summary": descriptor.summary,
        "plugin": descriptor.plugin,
    }
    try:
        availability = load_backend(descriptor).availability()
        return row | {
            "usable": bool(availability.usable),
            "devices": list(availability.devices),
            "reason": availability.reason,
        }
    except PolyllamaError as error:
        return row | {"reason": str(error)}
    except Exception as error:  # a plugin's fault: the listing says so and goes on
        return row | {"reason": f"asking it failed with {describe_exception(error)}"}


def _auto(plugins: Plugins) -> dict[str, Any]:
    from ...core.backend.choice import choose_backend

    try:
        choice = choose_backend("auto", plugins.backends())
    except PolyllamaError as error:
        return {"backend": None, "device": None, "considered": [], "error": str(error)}
    considered = [{"name": c.name, "taken": c.taken, "reason": c.reason} for c in choice.considered]
    return {"backend": choice.backend.name, "device": choice.device, "considered": considered, "error": None}
