"""Every error and warning polyllama raises on purpose.

A message says what is wrong and where; ``hint`` says what to do about it. Both are part of ``str(error)``, so a
traceback, a log line and the command line all show the remedy.
"""

from __future__ import annotations


class PolyllamaError(Exception):
    """Base class of every error that is about the user's input or machine, never about a bug of ours.

    >>> str(PolyllamaError("no such model 'x'", hint="run `polyllama models`"))
    "no such model 'x'; run `polyllama models`"
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class ConfigError(PolyllamaError):
    """A model configuration that is wrong: names the field, its value and the remedy."""


class CheckpointError(PolyllamaError):
    """Weights that are corrupt, missing, unexpected or of the wrong shape: names the file and the tensor."""


class CheckpointConfigError(CheckpointError, ConfigError):
    """The configuration that a checkpoint brings is wrong: names the file, the field, its value and the remedy."""


class TokenizerError(PolyllamaError):
    """A tokenizer that cannot be loaded or asked for something it does not have."""


class SettingsError(PolyllamaError):
    """A wrong value in polyllama.yaml or in a POLYLLAMA_* variable."""


class RegistryError(PolyllamaError):
    """A model name that no registry knows, or a registry file that is wrong."""


class DownloadError(PolyllamaError):
    """Files that could not be fetched, or are not cached while offline."""


class BackendError(PolyllamaError):
    """A backend that does not exist or failed to realize a graph."""


class BackendUnavailableError(BackendError):
    """A known backend that cannot run on this machine: says why, and what can."""


class PluginError(PolyllamaError):
    """A plugin that is broken or clashes with another."""


class GenerationError(PolyllamaError):
    """Generation options that contradict each other or are out of range."""


class InputError(PolyllamaError):
    """Model inputs of the wrong shape, type or range."""


class UnsupportedError(PolyllamaError):
    """Something understood but not offered here."""


class PolyllamaWarning(UserWarning):
    """Said once, by name, when something is converted, defaulted or skipped."""
