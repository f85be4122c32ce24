"""``polyllama completion``: completion of commands, options and model names in the shell."""

from __future__ import annotations

import os

import click
from click.shell_completion import get_completion_class

from ...cli.console import examples

_HOW = {
    "bash": 'add to ~/.bashrc:                  eval "$(polyllama completion bash)"',
    "zsh": 'add to ~/.zshrc, after compinit:   eval "$(polyllama completion zsh)"',
    "fish": "run once:                          polyllama completion fish > ~/.config/fish/completions/polyllama.fish",
}


@click.command(
    "completion",
    epilog=examples(
        'eval "$(polyllama completion bash)"                                         # in ~/.bashrc',
        'eval "$(polyllama completion zsh)"                                          # in ~/.zshrc',
        "polyllama completion fish > ~/.config/fish/completions/polyllama.fish",
        "polyllama completion                                                        # for the shell of $SHELL",
    ),
)
@click.argument("shell", type=click.Choice(list(_HOW)), required=False)
@click.pass_context
def completion(ctx: click.Context, shell: str | None) -> None:
    """Print the script that teaches SHELL to complete polyllama's commands, options and model names.

    SHELL is bash, zsh or fish; without it, the one that the variable SHELL names.
    """
    from ...cli.console import COMPLETION_VARIABLE

    if shell is None:
        shell = _own_shell()
        click.echo(f"# For {shell}, your shell by the variable SHELL.")
    kind = get_completion_class(shell)
    assert kind is not None  # the choice above is among click's own
    source = kind(ctx.find_root().command, {}, "polyllama", COMPLETION_VARIABLE).source()
    click.echo(f"# To install, {_HOW[shell]}\n{source}")


def _own_shell() -> str:
    """The user's shell, by the variable that login sets."""
    path = os.environ.get("SHELL", "")
    name = path.replace("\\", "/").rpartition("/")[2]
    if name in _HOW:
        return name
    found = f"SHELL is {path!r}, for which there is no script" if path else "the variable SHELL is not set"
    raise click.UsageError(f"Name a shell, {', '.join(_HOW)}: {found}.")
