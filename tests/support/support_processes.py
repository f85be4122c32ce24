"""Child processes of the tests: an interrupt reaches them, they end within a time, and nothing they started stays.

Every test starts processes by :func:`run_process` and :func:`start_process`; ``test_support_processes.py`` sees to it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import Any

LONGEST = 180.0
"""Seconds that a process may take; a busy machine is no reason to fail, one that hangs is."""

_started: list[tuple[subprocess.Popen[Any], threading.Timer]] = []
_lasting: list[tuple[subprocess.Popen[Any], threading.Timer]] = []


def start_process(
    command: Sequence[str | os.PathLike[str]], *, timeout: float = LONGEST, lasting: bool = False, **options: Any
) -> subprocess.Popen[Any]:
    """Start a process that leads a group of its own; other `options` are those of ``subprocess.Popen``.

    After `timeout` seconds, and at the end of the test, the whole group is killed. So reading its output comes to an
    end too, whatever it does.

    Args:
        lasting: it outlives the test, and whoever starts it ends it by :func:`end_process`: for several tests.
    """
    with _interrupts_not_ignored():
        process = subprocess.Popen(command, start_new_session=True, **options)
    alarm = threading.Timer(timeout, _kill, (process,))
    alarm.daemon = True
    alarm.start()
    (_lasting if lasting else _started).append((process, alarm))
    return process


def run_process(
    command: Sequence[str | os.PathLike[str]],
    *,
    timeout: float = LONGEST,
    check: bool = False,
    input: str | bytes | None = None,
    capture_output: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a process to its end, as ``subprocess.run`` does; what it has left running is killed.

    Raises:
        subprocess.TimeoutExpired: it takes longer than `timeout` seconds.
        subprocess.CalledProcessError: `check`, and the exit code is not 0.
    """
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        options["stdin"] = subprocess.PIPE
    process = start_process(command, timeout=timeout + 30, **options)
    try:
        output, errors = process.communicate(input, timeout=timeout)
    finally:
        end_process(process)
    done = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
    if check and done.returncode:
        print(errors)  # pytest shows it; the exception's own message leaves it out
        done.check_returncode()
    return done


def end_process(process: subprocess.Popen[Any]) -> None:
    """Kill what is left of a process's group, and wait for the process."""
    _kill(process)
    process.wait(timeout=30)
    for known in (_started, _lasting):
        for place, (other, alarm) in enumerate(known):
            if other is process:
                alarm.cancel()
                del known[place]
                return


def end_processes() -> None:
    """End every process that :func:`start_process` has started; ``conftest.py`` calls it after each test."""
    while _started:
        process = _started[-1][0]
        end_process(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was written last may have nowhere to go
                    stream.close()


def _kill(process: subprocess.Popen[Any]) -> None:
    """Kill the group that a process leads, also where the process itself has ended."""
    if os.name != "posix":
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS forbids it for a group of the dead
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _interrupts_not_ignored() -> Iterator[None]:
    """Let a child begin with the usual SIGINT: one that is ignored here (``nohup``, a job of a script) is inherited."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if not ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)  # one that is handled becomes the default in a child
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
