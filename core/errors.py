"""Every error and warning polyllama raises on purpose.

A message says what is wrong and where; ``hint`` says what to do about it. Both are part of ``str(error)``, so a
traceback, a log line and the command line all show the remedy. What an error is about is not only in its text:
``argument``, ``value`` and ``field`` name it.
"""

from __future__ import annotations

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


@for_plugins
class UnknownArgumentError(InputError):
    """An argument that ``Llama.load`` does not take and that is no field of a configuration.

    Attributes:
        advice: what to give instead, where that is known.
    """

    def __init__(self, name: str, *, advice: str | None = None) -> None:
        super().__init__("load has no argument " + in_quotes(name), hint=advice or "it takes fields of LlamaConfig")
        self.advice = advice


@for_plugins
class UnsupportedError(PolyllamaError):
    """Something understood but not offered here."""


@public
class PolyllamaWarning(UserWarning):
    """Said once, by name, when something is converted, defaulted or skipped."""
