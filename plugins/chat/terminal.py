"""Messages typed on a terminal: an editor with several lines, and a history that outlives the chat."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.defaults import create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

PROMPT = FormattedText([("ansicyan", "> ")])
HISTORY_LENGTH = 1000


class Editor:
    """Reads messages: Enter sends, Alt-Enter begins a new line, Tab completes commands.

    Args:
        commands: what completes.
        history: the file of earlier messages.
    """

    def __init__(self, commands: Iterable[str], history: Path) -> None:
        keys = KeyBindings()
        keys.add("enter")(_send)
        keys.add("escape", "enter")(_begin_line)
        messages = MessageHistory(history)
        messages.shorten()
        output = create_output(always_prefer_tty=True)
        if isinstance(output, Vt100_Output):
            output.enable_cpr = False  # a terminal that does not say where its cursor is would be warned of
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            multiline=True,
            prompt_continuation=lambda width, *_: " " * width,
            key_bindings=keys,
            history=messages,
            completer=WordCompleter(list(commands), sentence=True),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            reserve_space_for_menu=0,
            enable_suspend=True,
            output=output,
        )

    def read(self) -> str:
        """The next message.

        Raises:
            EOFError: Ctrl-D was typed.
            KeyboardInterrupt: Ctrl-C was typed; what was typed before it is `abandoned`.
        """
        return self._session.prompt()

    @property
    def abandoned(self) -> str:
        """What was typed before the last interrupt."""
        return self._session.default_buffer.text


class PlainInput:
    """Reads messages from a terminal that shows nothing but lines (``TERM=dumb``), such as an editor's shell."""

    abandoned = ""
    """What was typed before an interrupt is not known."""

    def read(self) -> str:
        """The next line; EOFError and KeyboardInterrupt as for the other."""
        return input(PROMPT[0][1])


def _send(event: KeyPressEvent) -> None:
    event.current_buffer.validate_and_handle()


def _begin_line(event: KeyPressEvent) -> None:
    event.current_buffer.insert_text("\n")


class MessageHistory(History):
    """Messages in a file that only its owner can read, one a line, as JSON; lines that are none are older messages."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._failed = False

    def load_history_strings(self) -> Iterable[str]:
        """The messages, the latest first; none where there is no file, or it cannot be read."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        return [_read(line) for line in reversed(lines[-HISTORY_LENGTH:]) if line.strip()]

    def store_string(self, string: str) -> None:
        """Write one more; that it could not be is said once."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "ab") as file:
                file.write((json.dumps(string, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
            self.path.chmod(0o600)
        except OSError as error:
            if not self._failed:
                print(f"warning: the history of this chat is not kept: {error}", file=sys.stderr)
            self._failed = True

    def shorten(self) -> None:
        """Keep the latest messages only."""
        with contextlib.suppress(OSError):
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            if len(lines) > 2 * HISTORY_LENGTH:
                self.path.write_text("".join(lines[-HISTORY_LENGTH:]), encoding="utf-8")


def _read(line: str) -> str:
    if line.startswith('"'):
        with contextlib.suppress(ValueError):
            read = json.loads(line)
            return read if isinstance(read, str) else line
    return line
