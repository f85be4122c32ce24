"""``polyllama version``: what to put into a bug report."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import click

from ...cli.console import examples, json_option, print_json, print_pairs

LIBRARIES = ("numpy", "pydantic", "sentencepiece", "tokenizers", "huggingface-hub", "torch", "mlx", "jax")


@click.command("version", epilog=examples("polyllama version", "polyllama version --json"))
@json_option
def version(as_json: bool) -> None:
    """Show the versions of polyllama, of Python and of the libraries that matter, importing none of them."""
    found: dict[str, str | None] = {
        "polyllama": _installed("polyllama"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}".strip(),
    }
    found |= {name: _installed(name) for name in LIBRARIES}
    if as_json:
        print_json({**found, "executable": sys.executable})
        return
    print_pairs([(name, value or "not installed") for name, value in found.items()])


def _installed(name: str) -> str | None:
    try:
        return version_of(name)
    except PackageNotFoundError:
        return None
