"""Every error and warning polyllama raises on purpose.

A message says what is wrong and where; ``hint`` says what to do about it. Both are part of ``str(error)``, so a
traceback, a log line and the command line all show the remedy. What an error is about is not only in its text:
``argument``, ``value`` and ``field`` name it.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

from .messages import UNSAID, Message, in_quotes
from .public import for_plugins, public


@public
class PolyllamaError(Exception):
    """Base class of every error that is about the user's input or machine, never about a bug of ours.

    Args:
        message: what is wrong and where; a :class:`~polyllama.core.messages.Message` where it mentions arguments.
        hint: what to do about it.
        field: the field of a file that it is about.

    Attributes:
        argument: the argument it is about, as Python calls it: the first that the message mentions; ``None`` for none.
        value: what that argument was given; ``None`` where the message does not say.
        field: the field of a file that it is about; ``None`` for none.

    >>> str(PolyllamaError("no such model 'x'", hint="run `polyllama models`"))
    "no such model 'x'; run `polyllama models`"
    """

    def __init__(self, message: str, *, hint: str | None = None, field: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint
        self.field = field

    def __str__(self) -> str:
        return self.message + "; " + self.hint if self.hint else self.message  # by +, so that a Message stays one

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), self.args), self.__dict__

    @property
    def argument(self) -> str | None:
        mentioned = self.message.arguments if isinstance(self.message, Message) else ()
        return mentioned[0].name if mentioned else None

    @property
    def value(self) -> Any:
        mentioned = self.message.arguments if isinstance(self.message, Message) else ()
        return mentioned[0].value if mentioned and mentioned[0].value is not UNSAID else None


def _remake(kind: type[PolyllamaError], args: tuple[Any, ...]) -> PolyllamaError:
    """An error as it comes out of a pickle, such as from another process: by its state, not by calling its class."""
    return kind.__new__(kind, *args)


@for_plugins
class ConfigError(PolyllamaError):
    """A model configuration that is wrong: names the field, its value and the remedy."""


@for_plugins
class CheckpointError(PolyllamaError):
    """Weights that are corrupt, missing, unexpected or of the wrong shape: names the file and the tensor."""


@for_plugins
class CheckpointConfigError(CheckpointError, ConfigError):
    """The configuration that a checkpoint brings is wrong: names the file, the field, its value and the remedy."""


@for_plugins
class TokenizerError(PolyllamaError):
    """A tokenizer that cannot be loaded or asked for something it does not have."""


@for_plugins
class SettingsError(PolyllamaError):
    """A wrong value in polyllama.yaml or in a POLYLLAMA_* variable."""


@for_plugins
class RegistryError(PolyllamaError):
    """A model name that no registry knows, or a registry file that is wrong."""


@for_plugins
class DownloadError(PolyllamaError):
    """Files that could not be fetched, or are not cached while offline."""


@for_plugins
class BackendError(PolyllamaError):
    """A backend that does not exist or failed to realize a graph."""


@for_plugins
class BackendUnavailableError(BackendError):
    """A known backend that cannot run on this machine: says why, and what can."""


@for_plugins
class PluginError(PolyllamaError):
    """A plugin that is broken or clashes with another."""


@for_plugins
class GenerationError(PolyllamaError):
    """Generation options that contradict each other or are out of range."""


@for_plugins
class InputError(PolyllamaError):
    """Model inputs of the wrong shape, type or range."""


def refuse_lfs_pointer(start: bytes, file: object, kind: type[PolyllamaError]) -> None:
    """Raise an error of this kind where a file's first bytes are those of a Git LFS pointer.

    >>> try:
    ...     refuse_lfs_pointer(b"version https://git-lfs.github.com/spec/v1", "config.json", ConfigError)
    ... except ConfigError as error:
    ...     print(error)
    config.json is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder
    """
    if start.startswith(b"version https://git-lfs"):
        raise kind(f"{file} is a Git LFS pointer, not the file itself", hint="run `git lfs pull` in its folder")


@for_plugins
class UnknownArgumentError(InputError):
    """An argument that a function such as ``Llama.load`` does not take, nor is it a field of a configuration.

    Args:
        function: whose argument it would be.
        otherwise: the hint where nobody knows what to give instead.

    Attributes:
        advice: what to give instead, where that is known.
    """

    def __init__(
        self,
        name: str,
        *,
        function: str = "load",
        advice: str | None = None,
        otherwise: str = "it takes fields of LlamaConfig",
    ) -> None:
        super().__init__(f"{function} has no argument " + in_quotes(name), hint=advice or otherwise)
        self.advice = advice


@for_plugins
class UnsupportedError(PolyllamaError):
    """Something understood but not offered here."""


@for_plugins
class NoModuleError(UnsupportedError, AttributeError):
    """A part of a torch module, asked of a model that has none; ``hasattr`` finds it missing."""


@for_plugins
class NoTokenizerError(TokenizerError, AttributeError):
    """The tokenizer, asked of a torch module that was loaded without one; ``hasattr`` finds it missing."""


@public
class PolyllamaWarning(UserWarning):
    """Said once, by name, when something is converted, defaulted or skipped."""


_MODEL: ContextVar[str | None] = ContextVar("polyllama_model", default=None)
"""The model that warnings are about at the moment."""

_BETWEEN = frozenset({"polyllama", "pydantic", "contextlib", "functools", "pluggy", "concurrent", "threading"})
"""Packages whose lines a user did not write, and through which one part of polyllama calls another."""


@contextmanager
def about_model(name: str | None) -> Iterator[None]:
    """Have warnings say which model they are about."""
    token = _MODEL.set(name)
    try:
        yield
    finally:
        _MODEL.reset(token)


def model_at_hand() -> str | None:
    """The model that warnings are about at the moment, for who warns later."""
    return _MODEL.get()


def warn(message: str, *, general: bool = False) -> None:
    """Give a PolyllamaWarning at the line that called polyllama, with the name of the model that it is about.

    Args:
        message: what is converted, defaulted or skipped. The name is put behind it where it says none: filters of
            warnings go by how a message begins.
        general: it is about no model, whatever is being loaded.

    >>> with about_model("my-model"), warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always")
    ...     warn("the text was cut")
    >>> str(said[0].message)
    'the text was cut (model my-model)'
    """
    name = _MODEL.get()
    if name is not None and not general and not _names(message, name):
        message = message + f" (model {name})"
    frame, level = sys._getframe(1), 2
    while _is_between(frame) and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, PolyllamaWarning, stacklevel=level)


def _is_between(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN


def _names(message: str, name: str) -> bool:
    """Whether a message says a model's name as such, and not as a part or a word of something else."""
    after = r"[:/'\"`]"
    if not name.isalpha():  # `a` and `tiny` are words too
        after += r"|[\s,;)]|$"
    whole = re.escape(name)
    return re.search(rf"(?<![^\s'\"(`]){whole}(?={after})|\bmodel {whole}(?![\w./-])", message) is not None
