"""A lock that says one process is writing to a place; it is gone when the process is, however it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import CheckpointError


@contextlib.contextmanager
def locked(destination: Path, *, inside: bool = False) -> Iterator[None]:
    """Hold the lock of a file or folder, which need not be there; its parent must be.

    The lock is an empty hidden file beside it, or `inside` it, locked through the system and removed at the end.

    Raises:
        CheckpointError: another process holds it.
        OSError: the lock cannot be made there.
    """
    path = destination / ".saving.lock" if inside else destination.with_name(f".{destination.name}.lock")
    descriptor = _acquire(path)
    if descriptor is None:
        raise CheckpointError(
            f"{destination}: another process is writing there", hint="wait for it, or choose another place"
        )
    try:
        yield
    finally:
        if os.name == "posix":  # while it is still held, so that nobody locks a file that is about to go
            path.unlink(missing_ok=True)
            os.close(descriptor)
        else:
            os.close(descriptor)
            with contextlib.suppress(OSError):  # another process may have opened it at once
                path.unlink()


def _acquire(path: Path) -> int | None:
    """A descriptor that holds the lock; None where another process does."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            if not _lock(descriptor):
                os.close(descriptor)
                return None
            if os.name != "posix" or _is_still_there(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it removed the file after it was opened here


def _lock(descriptor: int) -> bool:
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_still_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
