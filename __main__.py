"""The command line: ``polyllama`` and ``python -m polyllama``.

Every command is a plugin's, built-in or not, and its module is imported when it is invoked. Exit codes: 0 success, 1 an
error that polyllama explains, 2 wrong usage, 70 a bug, 130 interrupted, 141 whoever read the output stopped reading.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

import click
from click.shell_completion import shell_complete

from .core.errors import PluginError, PolyllamaError, PolyllamaWarning, SettingsError
from .core.messages import closest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from .core.hookspecs import CommandDescriptor

FAILED, BUG, INTERRUPTED, BROKEN_PIPE = 1, 70, 130, 141
COMPLETION_VARIABLE = "_POLYLLAMA_COMPLETE"

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
        from .core.plugins import plugin_manager

        self.broken_settings = None
        try:
            return plugin_manager().commands()
        except SettingsError as error:
            from .core.settings import Settings

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
            warnings.warn(
                f"only built-in commands are listed, because the settings are broken: {self.broken_settings}",
                PolyllamaWarning,
                stacklevel=2,
            )

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; nothing the user can do wrong ends in a traceback.

    Args:
        arguments: without the program's name; those of the process by default.
    """
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        _write_anything(stream)
    code = 0
    with warnings.catch_warnings():
        _print_warnings_in_one_line()
        try:
            code = _invoke(arguments)
            sys.stdout.flush()
        except BrokenPipeError:
            code = BROKEN_PIPE
        except (OSError, ValueError) as error:  # such as a full disk; or a stream that was closed on the way
            code = code or _fail(f"error: standard output: {getattr(error, 'strerror', None) or error}", FAILED)
            _discard_stdout()
    if code == BROKEN_PIPE:
        _discard_stdout()
    return code


def _invoke(arguments: Sequence[str] | None) -> int:
    # click's own main() would turn a closed pipe into exit code 1 and an interrupt into "Aborted!"
    instruction = os.environ.get(COMPLETION_VARIABLE)
    cli.invoked = None
    try:
        if instruction:
            return shell_complete(cli, {}, "polyllama", COMPLETION_VARIABLE, instruction)
        with cli.make_context("polyllama", sys.argv[1:] if arguments is None else list(arguments)) as context:
            cli.invoke(context)
        return 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except BrokenPipeError:
        return BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):  # click's own prompts make an Abort of it
        return _fail("interrupted", INTERRUPTED)
    except EOFError:
        return _fail("error: the input ended before it was complete", FAILED)
    except click.ClickException as error:
        return _usage_error(error)
    except Exception as error:
        if os.environ.get("POLYLLAMA_DEBUG"):
            traceback.print_exc()
        return _explain(error)


def _explain(error: Exception) -> int:
    if isinstance(error, PolyllamaError):
        return _fail(f"error: {_error_as_typed(error)}", FAILED)
    if isinstance(error, MemoryError):
        return _fail("error: out of memory; take a smaller model, dtype or quantize", FAILED)
    if isinstance(error, OSError) and error.strerror:
        where = f": {os.fspath(error.filename)!r}" if error.filename is not None else ""
        return _fail(f"error: {error.strerror}{where}", FAILED)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    plugin = cli.invoked.plugin if cli.invoked else "polyllama-builtin"
    whose = "polyllama" if plugin == "polyllama-builtin" else f"the plugin {plugin!r}"
    return _fail(f"error: {what}; this is a bug in {whose}, please report it with what POLYLLAMA_DEBUG=1 shows", BUG)


def _error_as_typed(error: PolyllamaError) -> str:
    from .plugins.commands._spelling import error_as_typed

    return error_as_typed(error, _typed_names())


def _as_typed(message: str) -> str:
    """A message of the command that runs, with its options as the user types them."""
    from .plugins.commands._spelling import as_typed

    return as_typed(message, _typed_names())


def _typed_names() -> dict[str, str]:
    if cli.invoked is None:
        return {}
    from .plugins.commands._spelling import typed_names

    try:
        command = cli.invoked.load()
    except PolyllamaError:  # the message is about just that
        return {}
    return typed_names(getattr(command, "params", ()))


def _usage_error(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "polyllama"
    text = error.format_message()
    return _fail(f"error: {text}{'' if text.endswith(('.', '?')) else '.'} See `{command} --help`.", error.exit_code)


def _fail(message: str, code: int) -> int:
    if COMPLETION_VARIABLE not in os.environ:  # a shell that completes a line shows none of this
        print(" ".join(message.split("\n")) if code == 2 else message, file=sys.stderr)
    return code


def _print_warnings_in_one_line() -> None:
    """PolyllamaWarnings become one line each on stderr, said once; every other warning is left as it is."""
    shown_by_python = warnings.showwarning
    said: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, PolyllamaWarning):
            shown_by_python(message, category, filename, lineno, file, line)
        elif str(message) not in said and COMPLETION_VARIABLE not in os.environ:
            said.add(str(message))
            print(f"warning: {_as_typed(str(message))}", file=sys.stderr)

    warnings.showwarning = show
    if not sys.warnoptions:
        warnings.simplefilter("always", PolyllamaWarning)


def _replace_closed_streams() -> None:
    """A standard stream that was closed (``>&-``) is None in Python; what is written to it goes nowhere instead.

    It is opened in any case, so that no file of ours gets its number, and with it what others write there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (open as long as we run)


def _write_anything(stream: TextIO) -> None:
    """A character the terminal's encoding lacks is escaped, instead of ending the program."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _discard_stdout() -> None:
    """Nobody reads it any more: keep the interpreter from complaining about that when it flushes on its way out."""
    with contextlib.suppress(OSError, ValueError):  # not a real file, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def process() -> int:
    """``main`` for a process of its own, which starts and ends sooner: it seldom looks for garbage, not at its end.

    A command makes little garbage; most of what it has when the collector would run are modules, which stay.
    """
    gc.set_threshold(20_000, 20, 20)
    try:
        return main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(process())
