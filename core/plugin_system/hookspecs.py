"""What a plugin may offer: seven hooks, and the descriptors they return.

A plugin is a module (or any object) with functions named like the hooks below, marked with ``@polyllama.hookimpl``, and
found through an entry point of the group ``polyllama``:

    # my_plugin.py
    from polyllama.extend import BackendDescriptor, hookimpl

    @hookimpl
    def polyllama_backends():
        return [BackendDescriptor("mine", "my_plugin.backend:MyBackend", "runs on my accelerator")]

    # pyproject.toml
    [project.entry-points.polyllama]
    my-plugin = "my_plugin"

A descriptor names what it offers and where the code is, so that listing everything imports nothing heavy.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import pluggy

from ..errors import PluginError, PolyllamaError
from ..messages import closest
from ..public import for_plugins

PROJECT = "polyllama"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
_TARGET = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Descriptor:
    """A name, where the code behind it is, and one line about it.

    Attributes:
        name: lower-case letters, digits, ".", "_" and "-"; what users type.
        target: "package.module:attribute"; imported by ``load`` only.
        summary: one line for listings.
        plugin: which plugin offers it, and from which package; filled in by the plugin manager.
        clash: set by the plugin manager where two plugins claim the name: the error ``load`` then raises.
    """

    kind: ClassVar[str] = "descriptor"
    needs_summary: ClassVar[bool] = True
    name_pattern: ClassVar[re.Pattern[str]] = _NAME
    name_rule: ClassVar[str] = "use lower-case letters, digits, '.', '_' and '-'"

    name: str
    target: str
    summary: str = ""
    plugin: str = field(default="", kw_only=True, compare=False, repr=False)
    package: str = field(default="", kw_only=True, compare=False, repr=False)
    clash: str = field(default="", kw_only=True, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name_pattern.fullmatch(self.name):
            raise PluginError(f"{type(self).__name__}: {self.name!r} is no name for a {self.kind}", hint=self.name_rule)
        if not isinstance(self.target, str) or not _TARGET.fullmatch(self.target):
            raise PluginError(
                f"{self.kind} {self.name!r}: the target {self.target!r} does not say where the code is",
                hint='write it as "package.module:attribute"',
            )
        if not isinstance(self.summary, str) or "\n" in self.summary:
            raise PluginError(f"{self.kind} {self.name!r}: the summary must be one line of text, not {self.summary!r}")
        if self.needs_summary and not self.summary:
            raise PluginError(f"{self.kind} {self.name!r} has no summary", hint="say in one line what it is")

    def load(self) -> Any:
        """Import the target and return it.

        Raises:
            PluginError: two plugins claim the name, a library is missing, or importing the target failed; names the
                plugin, the target and the library.

        >>> RegistryDescriptor("mine", "string:digits").load()
        '0123456789'
        """
        if self.clash:
            raise PluginError(self.clash, hint="block one of them with the setting plugins_block")
        module_name, _, attributes = self.target.partition(":")
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise self._module_missing(module_name, error) from error
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{self._whence()}: importing {module_name} failed with {describe_exception(error)}"
            ) from error
        for attribute in attributes.split("."):
            try:
                found = getattr(found, attribute)
            except AttributeError as error:
                close = closest(attribute, dir(found))
                raise PluginError(
                    f"{self._whence()}: {module_name} has no {attribute!r}",
                    hint=f"did they mean {close!r}?" if close else None,
                ) from error
        return found

    def offered_by(self, plugin: str, package: str = "") -> Self:
        """The same descriptor, knowing which plugin of which package offers it."""
        return replace(self, plugin=plugin, package=package)

    def names(self) -> tuple[str, ...]:
        """Every name a user may type for it."""
        return (self.name,)

    def _whence(self) -> str:
        by = f" of plugin {self.plugin!r}" if self.plugin else ""
        return f"{self.kind} {self.name!r}{by} cannot be loaded from {self.target!r}"

    def _module_missing(self, module_name: str, error: ModuleNotFoundError) -> PluginError:
        missing = error.name or str(error)
        if module_name == missing or module_name.startswith(missing + "."):
            return PluginError(f"{self._whence()}: there is no module {missing!r}")
        library = missing.partition(".")[0]
        return PluginError(
            f"{self._whence()}: it needs the library {library!r}, which is not installed",
            hint=f"pip install {library}",
        )


def _as_strings(descriptor: Descriptor, attribute: str) -> None:
    """Turn a list into a tuple, and reject what is not a sequence of strings."""
    value = getattr(descriptor, attribute)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise PluginError(
            f"{descriptor.kind} {descriptor.name!r}: {attribute} must be a tuple of strings, not {value!r}",
            hint=f"write ({value!r},)" if isinstance(value, str) else None,
        )
    object.__setattr__(descriptor, attribute, tuple(value))


def _check_aliases(descriptor: Descriptor, aliases: tuple[str, ...]) -> None:
    for alias in aliases:
        if not _NAME.fullmatch(alias) or alias == descriptor.name:
            raise PluginError(
                f"{descriptor.kind} {descriptor.name!r}: {alias!r} is no alias for it",
                hint="use another name of lower-case letters, digits, '.', '_' and '-'",
            )


@for_plugins
@dataclass(frozen=True)
class BackendDescriptor(Descriptor):
    """A backend; its target is a class that follows ``extend.Backend``. ``requires``: the libraries it needs."""

    kind: ClassVar[str] = "backend"

    requires: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _as_strings(self, "requires")


@for_plugins
@dataclass(frozen=True)
class TaskDescriptor(Descriptor):
    """A task head, and the ``architectures`` of a config.json that it answers to."""

    kind: ClassVar[str] = "task"

    architectures: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _as_strings(self, "architectures")
        _as_strings(self, "aliases")
        _check_aliases(self, self.aliases)

    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


@for_plugins
@dataclass(frozen=True)
class NodeDescriptor(Descriptor):
    """A node type; its name is the class's, by which a serialized graph names it, and its target the class.

    >>> NodeDescriptor("LowRank", "my_plugin.nodes:LowRank").names()
    ('LowRank',)
    """

    kind: ClassVar[str] = "node"
    needs_summary: ClassVar[bool] = False
    name_pattern: ClassVar[re.Pattern[str]] = re.compile(r"[^\W\d]\w*")
    name_rule: ClassVar[str] = "use the name of its class"

    def __post_init__(self) -> None:
        super().__post_init__()
        if re.split("[:.]", self.target)[-1] != self.name:
            raise PluginError(
                f"node {self.name!r}: the target {self.target!r} is a class of another name",
                hint="serialized graphs name a node by its class: give the descriptor that name",
            )


@for_plugins
@dataclass(frozen=True)
class RegistryDescriptor(Descriptor):
    """A registry of models; its target is the ``pathlib.Path`` of a YAML file, or a mapping of the same content."""

    kind: ClassVar[str] = "registry"
    needs_summary: ClassVar[bool] = False


@for_plugins
@dataclass(frozen=True)
class CommandDescriptor(Descriptor):
    """A command of the command line; its target is a ``click.Command``."""

    kind: ClassVar[str] = "command"

    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _as_strings(self, "aliases")
        _check_aliases(self, self.aliases)

    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


@for_plugins
@dataclass(frozen=True)
class CheckpointFormatDescriptor(Descriptor):
    """A format of weights on disk; its target reads it into a ``polyllama.extend.Checkpoint``.

    ``writes``: the target writes it too (``polyllama.extend.FormatWriter``), so ``polyllama convert --to`` its
    name works. ``aliases``: other names for it there. ``files``: patterns of the files by which a folder of it is
    known; where a folder has none of them, the reader is neither asked nor imported. Without patterns it always is.
    """

    kind: ClassVar[str] = "checkpoint format"

    writes: bool = False
    aliases: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _as_strings(self, "aliases")
        _as_strings(self, "files")
        _check_aliases(self, self.aliases)

    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    def words(self) -> tuple[str, ...]:
        """What somebody may call the format who knows its files: the ends of their names.

        >>> CheckpointFormatDescriptor("numpy", "package.module:Reader", "NumPy's archives", files=("*.npz",)).words()
        ('npz',)
        """
        return tuple(pattern[2:] for pattern in self.files if pattern.startswith("*.") and "." not in pattern[2:])


@for_plugins
@dataclass(frozen=True)
class RoutesDescriptor(Descriptor):
    """An interface of ``polyllama serve``; its target is a ``polyllama.extend.HttpInterface``: paths and handlers.

    >>> RoutesDescriptor("count", "my_plugin.http:INTERFACE", "counts tokens").kind
    'routes'
    """

    kind: ClassVar[str] = "routes"


@hookspec
def polyllama_backends() -> list[BackendDescriptor]:
    """The backends a plugin offers."""
    return []


@hookspec
def polyllama_tasks() -> list[TaskDescriptor]:
    """The task heads a plugin offers."""
    return []


@hookspec
def polyllama_nodes() -> list[NodeDescriptor]:
    """The node types a plugin's heads and transforms put into graphs."""
    return []


@hookspec
def polyllama_registries() -> list[RegistryDescriptor]:
    """The model registries a plugin offers."""
    return []


@hookspec
def polyllama_commands() -> list[CommandDescriptor]:
    """The commands a plugin adds to ``polyllama``."""
    return []


@hookspec
def polyllama_checkpoint_formats() -> list[CheckpointFormatDescriptor]:
    """The checkpoint formats a plugin can read or write."""
    return []


@hookspec
def polyllama_routes() -> list[RoutesDescriptor]:
    """The HTTP interfaces a plugin adds to ``polyllama serve``."""
    return []


HOOKS: Mapping[str, type[Descriptor]] = {
    "polyllama_backends": BackendDescriptor,
    "polyllama_tasks": TaskDescriptor,
    "polyllama_nodes": NodeDescriptor,
    "polyllama_registries": RegistryDescriptor,
    "polyllama_commands": CommandDescriptor,
    "polyllama_checkpoint_formats": CheckpointFormatDescriptor,
    "polyllama_routes": RoutesDescriptor,
}
"""Every hook, and what its implementations return (one, or a list)."""


def describe_exception(error: BaseException) -> str:
    """An exception in one line: its class and its message; an error of ours speaks for itself.

    >>> describe_exception(KeyError("x"))
    "KeyError: 'x'"
    """
    text = " ".join(str(error).split())
    if isinstance(error, PolyllamaError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
