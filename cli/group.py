"""The group of all commands: built-in ones and those of plugins, imported when they are run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..core.errors import PluginError, SettingsError, warn
from ..core.messages import closest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..core.plugin_system.hookspecs import CommandDescriptor


EXAMPLES = """\b
Examples:
  polyllama run tiny "Once upon a time"
  polyllama chat llama-3.2-1b-instruct --backend torch
  polyllama show tiny --graph
  polyllama models
"""


class CommandGroup(click.Group):
    """Commands as plugins offer them; listing and completing them reads descriptors and imports none of them."""

    invoked: CommandDescriptor | None = None
    broken_settings: SettingsError | None = None

    def _offers(self) -> dict[str, CommandDescriptor]:
        """Every command; only the built-in ones where the settings are broken, as nothing says what is allowed then."""
        from ..core.plugin_system.manager import plugin_manager

        self.broken_settings = None
        try:
            return plugin_manager().commands()
        except SettingsError as error:
            from ..core.settings.schema import Settings

            self.broken_settings = error
            return plugin_manager(Settings(plugins_allow=())).commands()

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._offers())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        offers = self._offers()
        offer = offers.get(cmd_name) or next((o for o in offers.values() if cmd_name in o.aliases), None)
        if offer is None:
            return None
        self.invoked = offer
        command = offer.load()
        if not isinstance(command, click.Command):
            raise PluginError(
                f"command {offer.name!r} of plugin {offer.plugin!r}: {offer.target} is no click command but a "
                f"{type(command).__name__}"
            )
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            if self.broken_settings is not None:  # it may be a plugin's
                raise self.broken_settings
            close = closest(name, self._offers())
            guess = f" Did you mean '{close}'?" if close else ""
            raise click.UsageError(f"There is no command '{name}'.{guess}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, offer.summary) for name, offer in self._offers().items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        if self.broken_settings is not None:
            warn(f"only built-in commands are listed, because the settings are broken: {self.broken_settings}")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=offer.summary)
            for name, offer in self._offers().items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"polyllama {version('polyllama')}")
        ctx.exit()


@click.group(
    cls=CommandGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXAMPLES,
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="The version."
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Describe a Llama once, run it anywhere.

    MODEL is a name that `polyllama models` lists, the id of a repository on the Hugging Face Hub, or a folder.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
