"""``polyllama completion``: completion of commands, options and model names in the shell."""

from __future__ import annotations

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
    ),
)
@click.argument("shell", type=click.Choice(list(_HOW)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that teaches SHELL to complete polyllama's commands, options and model names."""
    from ...cli.console import COMPLETION_VARIABLE

    kind = get_completion_class(shell)
    assert kind is not None  # the choice above is among click's own
    source = kind(ctx.find_root().command, {}, "polyllama", COMPLETION_VARIABLE).source()
    click.echo(f"# To install, {_HOW[shell]}\n{source}")
