"""Shared by the tests of cli: models and helpers."""

from __future__ import annotations

import codecs
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from support_processes import run_process, start_process

COMMANDS = [
    "run",
    "embed",
    "chat",
    "show",
    "plan",
    "quantize",
    "pack",
    "tokenize",
    "mask",
    "download",
    "convert",
    "models",
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


class Terminal:
    """A process on a terminal of its own, typed into and read from.

    With ``interrupts=False`` Ctrl-C does not reach it, and Python is not forked, which JAX's threads do not like.
    """

    def __init__(self, *arguments: str, interrupts: bool = True, **environment: str) -> None:
        import pty

        self.master, slave = pty.openpty()
        self.process = start_process(
            [sys.executable, "-m", "polyllama", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200", **environment},
            preexec_fn=_own_the_terminal if interrupts else None,
        )
        os.close(slave)
        self.seen = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end amid a character

    def read_until(self, text: str | None, timeout: float = 30) -> str:
        """What was printed since the last call, up to where a text appears (None: to the end)."""
        start, deadline = len(self.seen), time.monotonic() + timeout
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
        return self.seen[start:]

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def finish(self) -> tuple[int, str]:
        """Exit code and the rest of what is printed."""
        rest = self.read_until(None)
        code = self.process.wait(timeout=30)
        os.close(self.master)
        return code, rest


def _own_the_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that a typed Ctrl-C reaches the process


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
