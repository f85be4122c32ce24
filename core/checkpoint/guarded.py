"""Other people's readers and writers: what they raise is said to be theirs, with their format and their package.

An error of polyllama's own classes speaks for itself. Any other exception becomes a :class:`PluginError` that names the
format, its package, what it was doing and to what; the exception is its cause.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import PluginError, PolyllamaError
from ..plugin_system.hookspecs import describe_exception
from .delegating import DelegatingCheckpoint
from .protocol import TensorInfo

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig
    from .protocol import Array, Checkpoint

_OURS = __name__.partition(".")[0]
_READER = ("config", "tensors", "read")


def is_foreign(descriptor: Any) -> bool:
    """Whether a format comes from another package."""
    target = getattr(descriptor, "target", None)
    return isinstance(target, str) and not target.startswith(f"{_OURS}.")


def format_label(descriptor: Any) -> str:
    """A format as messages name it, with the package it comes from where that is another.

    >>> from polyllama.extend import CheckpointFormatDescriptor
    >>> format_label(CheckpointFormatDescriptor("npz", "my_npz:NpzFormat", "NumPy's", package="my-npz 1.0"))
    "checkpoint format 'npz' of package my-npz 1.0"
    """
    if not is_foreign(descriptor):
        return f"checkpoint format {descriptor.name!r}"
    package = getattr(descriptor, "package", "") or descriptor.target.partition(":")[0].partition(".")[0]
    return f"checkpoint format {descriptor.name!r} of package {package}"


@contextlib.contextmanager
def blaming(descriptor: Any, doing: str, *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Whatever goes wrong in here is the format's fault.

    Args:
        descriptor: the format's.
        doing: what it was about: "opening x.npz".
        but: exceptions that the caller explains better.

    Raises:
        PluginError: for any exception that is none of ours.
    """
    passed: tuple[type[BaseException], ...] = (PolyllamaError, MemoryError, *but)
    try:
        yield
    except passed:
        raise
    except Exception as error:
        if not is_foreign(descriptor):
            raise
        raise PluginError(
            f"{format_label(descriptor)} failed {doing}: {describe_exception(error)}",
            hint="tell its authors, or leave it out with the setting plugins_block",
        ) from error


class GuardedCheckpoint(DelegatingCheckpoint):
    """A checkpoint that another package's reader opened: each call is made in :func:`blaming`, each array looked at."""

    def __init__(self, inner: Checkpoint, descriptor: Any, path: Path) -> None:
        """Take what the reader gave.

        Raises:
            PluginError: it is no checkpoint.
        """
        super().__init__(inner)
        self._descriptor = descriptor
        self._listed: Mapping[str, TensorInfo] | None = None
        with blaming(descriptor, f"opening {path}"):
            self.path = Path(getattr(inner, "path", path))
            self.format = str(getattr(inner, "format", descriptor.name))
            lacking = [name for name in _READER if not callable(getattr(inner, name, None))]
        if lacking:
            raise PluginError(
                f"{format_label(descriptor)}: what it opened {path} as, a {type(inner).__name__}, "
                f"has no method {' nor '.join(lacking)}",
                hint="see polyllama.extend.Checkpoint",
            )

    def config(self, **overrides: Any) -> LlamaConfig:
        """The configuration, with fields overridden."""
        with self._blaming("reading the configuration"):
            return self._inner.config(**overrides)

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every stored tensor by its stored name."""
        if self._listed is None:
            with self._blaming("listing the tensors"):
                self._listed = dict(self._inner.tensors())
        return self._listed

    def read(self, name: str) -> Array:
        """One tensor by its stored name.

        Raises:
            PluginError: what is read is not what the list of tensors says.
        """
        from ..dtypes import dtype_name

        listed = self.tensors()
        with self._blaming(f"reading tensor {name!r}"):
            array = self._inner.read(name)
            said = listed[name]
            found = dtype_name(array.dtype), tuple(array.shape)
        if found != (said.dtype, tuple(said.shape)):
            raise PluginError(
                f"{format_label(self._descriptor)}: {self.path}: tensor {name!r} is listed as {said.dtype} "
                f"{list(said.shape)}, and read as {found[0]} {list(found[1])}",
                hint="tell its authors",
            )
        return array

    def _of_inner(self, name: str) -> Any:
        """The reader's attribute, its methods guarded too; what it has not is its to say."""
        with blaming(self._descriptor, f"in {name} of {self.path}", but=(AttributeError,)):
            found = getattr(self._inner, name)
        return self._guarded(name, found) if callable(found) else found

    def _guarded(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            with self._blaming(f"in {name}()"):
                return method(*args, **options)

        return call

    def _blaming(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return blaming(self._descriptor, f"{doing} of {self.path}")
