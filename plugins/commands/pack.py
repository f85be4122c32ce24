"""``polyllama pack``: a model's weights as a backend reads them, beside the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from ...cli.console import examples, json_option, print_json, with_unit
from ...cli.options import PluginName


@click.command("pack", epilog=examples("polyllama pack ./my-model", "polyllama pack ./small --backend cpu"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--backend", type=PluginName("backend"), default="cpu", show_default=True, help="The one that will read it."
)
@json_option
def pack(folder: Path, backend: str, as_json: bool) -> None:
    """Write the weights of the model in FOLDER once more, as a backend reads them, into a file beside them.

    Loading then maps that file, at once. One matrix is in memory at a time. The file knows what it was made from: when
    the weights change, it is not used and a warning says so; pack them again, or remove it.
    """
    from ...core.errors import CheckpointError

    if not folder.is_dir():
        hint = "give a folder on this machine; `polyllama download` fetches models, `polyllama convert` copies them"
        raise CheckpointError(f"{folder}: is no folder", hint=hint)
    written = packer(backend)(folder)
    size = written.stat().st_size
    if as_json:
        print_json({"packed": str(written), "backend": backend, "bytes": size})
    else:
        click.echo(f"{written}: {with_unit(size, 'B')}, as backend {backend} reads it")


def packer(name: str) -> Callable[[Path], Path]:
    """What writes the weights in a folder as backend `name` reads them, and returns the file's path.

    Raises:
        BackendError: no backend has this name, it cannot run here, or it reads nothing but checkpoints.
    """
    from ...core.backend.choice import choose_backend
    from ...core.errors import BackendError
    from ...core.plugin_system.manager import plugin_manager

    backend = choose_backend(name, plugin_manager().backends()).backend
    found: Callable[[Path], Path] | None = getattr(backend, "pack", None)
    if found is None:
        raise BackendError(f"backend {name!r} has no format of its own to pack into", hint="backend cpu has one")
    return found
