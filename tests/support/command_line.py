"""Shared by the tests of cli: models and helpers."""

from __future__ import annotations

import codecs
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from support_processes import run_process, start_process

COMMANDS = [
    "run",
    "embed",
    "chat",
    "serve",
    "evaluate",
    "show",
    "plan",
    "quantize",
    "pack",
    "tokenize",
    "mask",
    "download",
    "convert",
    "models",
    "list",
    "rm",
    "backends",
    "certify",
    "compare",
    "bench",
    "plugins",
    "config",
    "completion",
    "version",
]


Outcome = tuple[int, str, str]


def spawn(*arguments: str, stdin: str | bytes | None = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = run_process(
        [sys.executable, "-m", "polyllama", *arguments],
        input=data,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=60,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


# In the new process, where no thread of JAX's dislikes it, and before Python becomes the program that is tested.
OWN_THE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that a typed Ctrl-C reaches the process
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Terminal:
    """A process on a terminal of its own, typed into and read from.

    With ``interrupts=False`` Ctrl-C does not reach it. `stdout` is where its standard output goes instead.
    """

    def __init__(
        self, *arguments: str, interrupts: bool = True, stdout: IO[str] | None = None, **environment: str
    ) -> None:
        import pty

        self.master, slave = pty.openpty()
        self.process = start_process(
            [sys.executable, *(["-c", OWN_THE_TERMINAL] if interrupts else []), "-m", "polyllama", *arguments],
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200", **environment},
        )
        os.close(slave)
        self.seen = ""
        self.read = 0  # characters of it that were given out: a read may bring more than what was waited for
        self.decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end amid a character

    def read_until(self, text: str | None, timeout: float = 30) -> str:
        """What was printed since the last call, up to and with the first appearance of a text (None: to the end)."""
        start, deadline = self.read, time.monotonic() + timeout
        while text is None or text not in self.seen[start:]:
            if not select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{text!r} did not come within {timeout} s; seen: {self.seen!r}")
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                data = b""
            if not data:
                if text is None:
                    break
                raise AssertionError(f"the program ended before {text!r}; seen: {self.seen!r}")
            self.seen += self.decoder.decode(data)
        self.read = len(self.seen) if text is None else self.seen.index(text, start) + len(text)
        return self.seen[start : self.read]

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def finish(self) -> tuple[int, str]:
        """Exit code and the rest of what is printed."""
        rest = self.read_until(None)
        code = self.process.wait(timeout=30)
        os.close(self.master)
        return code, rest


def python_path(folder: Path) -> str:
    """A PYTHONPATH with a folder in front."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def write_plugin(folder: Path, source: str, name: str = "my-plugin") -> None:
    import textwrap

    module = name.replace("-", "_")
    header = "import polyllama.extend as p\nhookimpl = p.hookimpl\n"
    (folder / f"{module}.py").write_text(header + textwrap.dedent(source))
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[polyllama]\n{name} = {module}\n")


REFERENCE = ("--backend", "reference")
