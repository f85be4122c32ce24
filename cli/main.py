"""The command line's entry point: errors as one line, exit codes, closed streams."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import TextIO

import click
from click.shell_completion import shell_complete

from ..core.errors import PolyllamaError, PolyllamaWarning
from ..core.messages import visible
from .console import COMPLETION_VARIABLE
from .group import cli

FAILED, BUG, INTERRUPTED, BROKEN_PIPE = 1, 70, 130, 141


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
    from .spelling import error_as_typed

    return error_as_typed(error, _typed_names())


def _as_typed(message: str) -> str:
    """A message of the command that runs, with its options as the user types them."""
    from .spelling import as_typed

    return as_typed(message, _typed_names())


def _typed_names() -> dict[str, str]:
    if cli.invoked is None:
        return {}
    from .spelling import typed_names

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
        print(visible(" ".join(message.split("\n")) if code == 2 else message), file=sys.stderr)
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
            print(visible(f"warning: {_as_typed(str(message))}", in_line=True), file=sys.stderr)

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
