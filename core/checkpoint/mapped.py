"""A file mapped privately: arrays over its bytes that copy nothing and never change it."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import platform
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..dtypes import numpy_dtype
from ..errors import CheckpointError, refuse_lfs_pointer
from ..public import for_plugins

if TYPE_CHECKING:
    from .protocol import Array

INCOMPLETE = "the file is corrupt or incomplete: download or save it again"


@for_plugins
class MappedFile:
    """The bytes of one regular file, mapped copy-on-write; writing to an array over them never changes the file.

    Arrays stay valid after this object is gone. The file must not be shortened in place meanwhile (replacing it by a
    rename is fine).

    Args:
        path: the file.
        what: what it should be, for messages: "a GGUF file".
        least: fewer bytes than this cannot be one.

    Raises:
        CheckpointError: it is missing, no regular file, unreadable, too short or a Git LFS pointer.
    """

    def __init__(self, path: Path, what: str, least: int = 1) -> None:
        self.path = path
        try:
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode):  # opening a pipe would wait forever
                found = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
                raise CheckpointError(f"{path}: {found} where {what} is expected")
            with open(path, "rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                if self.size < least:
                    found = "is empty" if self.size == 0 else f"has only {self.size} bytes"
                    name = what.partition(" ")[2]
                    raise CheckpointError(f"{path}: {found}, so it is no {name}", hint=INCOMPLETE)
                self.data = _private_map(file.fileno())
        except (OSError, ValueError) as error:
            raise _cannot_be_read(path, error) from None
        refuse_lfs_pointer(self.data[:64], path, CheckpointError)

    def array(self, dtype: str, shape: tuple[int, ...], offset: int) -> Array:
        """Little-endian values at an offset that the caller has checked; copied only where they are not aligned."""
        import numpy as np

        element = numpy_dtype(dtype)
        if sys.byteorder == "big":
            element = element.newbyteorder("<")
        nbytes = int(np.prod(shape, dtype=np.int64)) * element.itemsize
        if nbytes == 0:
            return np.empty(shape, element)
        if offset % element.itemsize:  # unaligned arrays are slow, or refused further on
            unaligned: Array = np.ndarray((nbytes,), np.uint8, buffer=self.data, offset=offset)
            return unaligned.copy().view(element).reshape(shape)
        return np.ndarray(shape, element, buffer=self.data, offset=offset)

    def release(self, offset: int, nbytes: int) -> None:
        """Give back the memory that reading a span brought in.

        Arrays over it stay valid and are read from the file again, but changes made to them are lost; so this is for
        whoever has just written a tensor elsewhere and is done with it.
        """
        advice: int | None = getattr(mmap, "MADV_DONTNEED", None)
        start = offset - offset % mmap.PAGESIZE
        if advice is not None and sys.platform == "linux" and nbytes > 0:  # elsewhere the advice means something else
            with contextlib.suppress(OSError, ValueError):
                self.data.madvise(advice, start, min(offset + nbytes, self.size) - start)


def _private_map(descriptor: int) -> mmap.mmap:
    """A writable map whose changes stay in memory.

    Reserving no swap for it lets a file larger than the machine's memory be mapped, as nobody is going to write to
    all of it.
    """
    if sys.platform == "win32":
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    no_reserve: int = getattr(mmap, "MAP_NORESERVE", 0)
    if not no_reserve and sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64"):
        no_reserve = 0x4000  # Python names it only since 3.13
    return mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE | no_reserve, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _cannot_be_read(path: Path, error: OSError | ValueError) -> CheckpointError:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return CheckpointError(
            f"{path}: is a link to {os.readlink(path)}, which is not there", hint="download the model again"
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    hint = "the system refuses to map a file of this size: save it in smaller shards" if no_memory else None
    return CheckpointError(f"{path}: cannot be read ({reason})", hint=hint)
