"""Loading plugins, each on its own, so that a broken one costs only itself.

pluggy marks, validates and holds the implementations. Finding them and calling them is done here, one plugin at a time:
pluggy's own entry-point loading stops at the first package that fails to import, and a hook call at the first
implementation that raises.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pluggy

from ..errors import PluginError, warn
from ..messages import closest, did_you_mean, shortened
from ..public import for_plugins
from ..settings.listing import listing_settings
from . import hookspecs
from .entry_points import EntryPoint, find_entry_points, normalized
from .hooks import as_list, stray_hooks
from .hookspecs import (
    HOOKS,
    PROJECT,
    BackendDescriptor,
    CheckpointFormatDescriptor,
    CommandDescriptor,
    Descriptor,
    NodeDescriptor,
    RegistryDescriptor,
    RoutesDescriptor,
    TaskDescriptor,
    describe_exception,
)
from .info import CLASH_HINT, PluginInfo, PluginProblem, Record, describe_clash

if TYPE_CHECKING:
    from ..settings.files import Defaults
    from ..settings.schema import Settings

__all__ = ["PluginInfo", "PluginProblem", "Plugins", "plugin_manager", "reset_plugins"]

BUILTIN = EntryPoint("polyllama-builtin", "polyllama.plugins.builtin", "polyllama", "")
"""Where the built-ins come from, for a checkout on sys.path that was never installed and so has no entry points."""

D = TypeVar("D", bound=Descriptor)


class Plugins:
    """Every plugin that was found, and everything they offer.

    Args:
        entry_points: what to load; each fails on its own.
        allow: if given, only these third-party plugins are loaded (by entry point or distribution name). The built-ins
            always are.
        block: plugins that are not loaded; the built-ins cannot be blocked, which is a warning.
        runtime: plugins registered at run time, by name; ``register`` adds to it.

    Warns:
        PolyllamaWarning: once per problem, naming the plugin.
    """

    def __init__(
        self,
        entry_points: Iterable[EntryPoint],
        *,
        allow: Sequence[str] | None = None,
        block: Sequence[str] = (),
        runtime: dict[str, object] | None = None,
    ) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._records: dict[str, Record] = {}
        self._list_problems: list[PluginProblem] = []
        self._runtime = {} if runtime is None else runtime
        self._allow = None if allow is None else {normalized(name) for name in allow}
        self._block = {normalized(name) for name in block}

        points = sorted(entry_points, key=lambda point: (point.value != BUILTIN.value, point.name, point.distribution))
        if not any(point.value == BUILTIN.value for point in points):
            points.insert(0, BUILTIN)
        for point in points:
            self._load(point)
        for name, plugin in self._runtime.items():
            record = self._new_record(name, origin=_origin(plugin))
            self._isolated_register(record, plugin)
        self._check_list("plugins_allow", allow or (), points)
        self._check_list("plugins_block", block, points)
        self._settle()
        for problem in self.problems:
            warn(str(problem), general=True)

    # What the plugins offer ------------------------------------------------------------------------------------------

    def backends(self) -> dict[str, BackendDescriptor]:
        """Backends by name. A name that two plugins claim is here too; its ``load`` is the error that names both."""
        return self._of_kind(BackendDescriptor)

    def tasks(self) -> dict[str, TaskDescriptor]:
        """Task heads by name (``find`` knows their aliases as well)."""
        return self._of_kind(TaskDescriptor)

    def nodes(self) -> dict[str, NodeDescriptor]:
        """Node types by the name of their class."""
        return self._of_kind(NodeDescriptor)

    def registries(self) -> dict[str, RegistryDescriptor]:
        """Model registries by name."""
        return self._of_kind(RegistryDescriptor)

    def commands(self) -> dict[str, CommandDescriptor]:
        """Commands of the command line by name."""
        return self._of_kind(CommandDescriptor)

    def checkpoint_formats(self) -> dict[str, CheckpointFormatDescriptor]:
        """Checkpoint formats by name."""
        return self._of_kind(CheckpointFormatDescriptor)

    def routes(self) -> dict[str, RoutesDescriptor]:
        """HTTP interfaces by name."""
        return self._of_kind(RoutesDescriptor)

    def find(self, kind: type[D], name: str) -> D:
        """What a user's name stands for, aliases included.

        Raises:
            PluginError: nothing has the name (says what there is), or two plugins claim it (names both).
        """
        claims = self._claims.get(kind.kind, {}).get(name, [])
        if len(claims) > 1:
            raise PluginError(describe_clash(kind.kind, name, claims), hint=CLASH_HINT)
        if claims:
            return cast(D, claims[0][1])
        offers = self._claims.get(kind.kind, {})
        known = sorted(offers)
        spellings = {
            word: offered
            for offered, others in reversed(offers.items())
            for _, offer in others
            for word in (offer.words() if isinstance(offer, CheckpointFormatDescriptor) else ())
        }
        hint = " ".join(
            filter(None, (did_you_mean(name, known, spellings=spellings), f"known: {', '.join(known) or 'none'}"))
        )
        raise PluginError(f"there is no {kind.kind} {name!r}", hint=hint)

    def task_for_architecture(self, architecture: str) -> TaskDescriptor | None:
        """The task that answers to an entry of a config's ``architectures``, or None where no task does.

        Capitals do not count: the first conversions of LLaMA say ``LLaMAForCausalLM``.

        Raises:
            PluginError: two plugins claim the architecture.
        """
        known = self._claims.get("architecture", {})
        alike = next((name for name in known if name.lower() == architecture.lower()), architecture)
        claims = known.get(architecture) or known.get(alike, [])
        if len(claims) > 1:
            raise PluginError(describe_clash("architecture", architecture, claims), hint=CLASH_HINT)
        return cast(TaskDescriptor, claims[0][1]) if claims else None

    # The plugins themselves ------------------------------------------------------------------------------------------

    @property
    def problems(self) -> list[PluginProblem]:
        """Everything wrong with any plugin or with the lists of plugins in the settings."""
        found = [PluginProblem(record.label, text) for record in self._records.values() for text in record.problems]
        return [*found, *self._clash_problems, *self._list_problems]

    def plugins(self) -> tuple[PluginInfo, ...]:
        """Every plugin that was found, built-ins first, blocked and failed ones included."""
        return tuple(record.info() for record in self._records.values())

    def register(self, plugin: object, name: str | None = None, *, replace: bool = False) -> str:
        """Add a plugin at run time: a module or object with hook functions, as in a notebook.

        Args:
            plugin: anything with functions marked ``@polyllama.hookimpl``.
            name: what to call it; the module's or class's name by default.
            replace: put it in place of a plugin registered earlier under this name.

        Returns:
            The name.

        Raises:
            PluginError: anything at all is wrong with it; nothing is registered then.
        """
        name = name or _origin(plugin)
        earlier = self._runtime.get(name)
        if name in self._records and (earlier is None or not replace):
            hint = "unregister it first, or pass replace=True" if earlier is not None else "choose another name"
            raise PluginError(f"there is already a plugin {name!r}", hint=hint)
        if normalized(name) in self._block:
            raise PluginError(f"plugin {name!r} is blocked by the setting plugins_block")
        if earlier is not None:
            self.unregister(name)
        record = self._new_record(name, origin=_origin(plugin))
        self._isolated_register(record, plugin)
        self._settle()
        if problems := (*record.problems, *record.clashes):
            self._forget(name)
            if earlier is not None:
                self.register(earlier, name)
            raise PluginError(f"plugin {name!r} was not registered: {'; '.join(problems)}")
        self._runtime[name] = plugin
        return name

    def unregister(self, name: str) -> None:
        """Take back what ``register`` added.

        Raises:
            PluginError: no plugin was registered at run time under this name.
        """
        if name not in self._runtime:
            raise PluginError(
                f"no plugin {name!r} was registered at run time",
                hint="an installed plugin is switched off with the setting plugins_block",
            )
        del self._runtime[name]
        self._forget(name)

    # Loading ---------------------------------------------------------------------------------------------------------

    def _load(self, point: EntryPoint) -> None:
        record = self._new_record(point.name, point.distribution, point.version, point.value)
        record.blocked = self._why_blocked(point)
        if record.blocked:
            return
        where = point.split_value()
        if where is None:
            record.failed = True
            record.problems.append(f"its entry point {point.value!r} does not name a module")
            return
        module_name, attributes = where
        try:
            plugin: Any = importlib.import_module(module_name)
            for attribute in attributes.split(".") if attributes else ():
                plugin = getattr(plugin, attribute)
        except (Exception, SystemExit) as error:
            record.failed = True
            record.problems.append(f"importing {point.value} failed with {describe_exception(error)}")
            return
        self._isolated_register(record, plugin)

    def _new_record(self, name: str, distribution: str = "", version: str = "", origin: str = "") -> Record:
        if name in self._records:  # two packages may choose the same name for their entry point
            name = f"{name} of {distribution or origin}"
        record = Record(name, distribution, version, origin)
        self._records[name] = record
        return record

    def _why_blocked(self, point: EntryPoint) -> str:
        names = {normalized(point.name), normalized(point.distribution)}
        if names & self._block:
            if point.value == BUILTIN.value:
                text = "the setting plugins_block names it, but polyllama's own parts cannot be blocked"
                self._list_problems.append(PluginProblem(repr(point.name), text))
                return ""
            return "blocked by the setting plugins_block"
        if self._allow is not None and not names & self._allow and point.value != BUILTIN.value:
            return "not among the setting plugins_allow"
        return ""

    def _isolated_register(self, record: Record, plugin: object) -> None:
        try:
            if plugin is None:
                raise PluginError("there is nothing to register: it is None")
            self._manager.register(plugin, record.name)
            record.problems += stray_hooks(self._manager, plugin)
        except (Exception, SystemExit) as error:
            record.failed = True
            record.problems.append(f"its hooks cannot be registered: {describe_exception(error)}")
            return
        for hook, kind in HOOKS.items():
            for implementation in getattr(self._manager.hook, hook).get_hookimpls():
                if implementation.plugin is plugin:
                    self._call(record, hook, kind, implementation)
        if not any(record.offers.values()) and not record.problems:
            record.problems.append("it offers nothing: none of its functions is a hook marked @polyllama.hookimpl")

    def _call(self, record: Record, hook: str, kind: type[Descriptor], implementation: pluggy.HookImpl) -> None:
        if implementation.hookwrapper or getattr(implementation, "wrapper", False):
            record.problems.append(f"{hook} is a hook wrapper, and these hooks cannot be wrapped")
            return
        try:
            offers = as_list(implementation.function())
        except (Exception, SystemExit) as error:
            record.problems.append(f"{hook} failed with {describe_exception(error)}")
            return
        for offer in offers:
            if isinstance(offer, kind):
                record.offers.setdefault(kind.kind, []).append(offer.offered_by(record.name, record.package))
            else:
                record.problems.append(f"{hook} must return {kind.__name__}s, not {shortened(repr(offer))}")

    def _forget(self, name: str) -> None:
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)
        self._records.pop(name, None)
        self._settle()

    # Who claims which name -------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Work out which plugin offers which name, and where two claim the same."""
        self._claims: dict[str, dict[str, list[tuple[Record, Descriptor]]]] = {}
        self._clash_problems: list[PluginProblem] = []
        for record in self._records.values():
            record.clashes.clear()
            for kind, offers in record.offers.items():
                for offer in offers:
                    for name in offer.names():
                        self._claims.setdefault(kind, {}).setdefault(name, []).append((record, offer))
                    for architecture in getattr(offer, "architectures", ()):
                        claims = self._claims.setdefault("architecture", {}).setdefault(architecture, [])
                        claims.append((record, offer))
        for kind, by_name in self._claims.items():
            for name, claims in by_name.items():
                if len(claims) > 1:
                    text = describe_clash(kind, name, claims)
                    self._clash_problems.append(PluginProblem(claims[-1][0].label, text))
                    for record in {id(record): record for record, _ in claims}.values():
                        record.clashes.append(text)

    def _of_kind(self, kind: type[D]) -> dict[str, D]:
        found: dict[str, D] = {}
        for name, claims in self._claims.get(kind.kind, {}).items():
            offer = next((offer for _, offer in claims if offer.name == name), None)
            if offer is not None:
                clash = describe_clash(kind.kind, name, claims) if len(claims) > 1 else ""
                found[name] = cast(D, replace(offer, clash=clash))
        return found

    def _check_list(self, setting: str, names: Sequence[str], points: Sequence[EntryPoint]) -> None:
        known = {normalized(name): name for point in points for name in (point.name, point.distribution)}
        known |= {normalized(name): name for name in self._runtime}
        for name in names:
            if normalized(name) not in known:
                close = closest(normalized(name), known)
                guess = f"; did you mean {known[close]!r}?" if close else ""
                self._list_problems.append(
                    PluginProblem(repr(name), f"the setting {setting} names it, but no such plugin is installed{guess}")
                )


def _origin(plugin: object) -> str:
    if isinstance(plugin, ModuleType | type):
        return plugin.__name__
    return type(plugin).__name__


_lock = threading.RLock()
_loading = False
_cache: dict[tuple[tuple[str, ...] | None, tuple[str, ...]], Plugins] = {}
_registered_at_run_time: dict[str, object] = {}


@for_plugins
def plugin_manager(settings: Settings | Defaults | None = None) -> Plugins:
    """The plugins of this process, loaded on first use.

    Args:
        settings: whose ``plugins_allow`` and ``plugins_block`` count; the effective settings by default.

    Raises:
        PluginError: called by a plugin while it is being loaded.
    """
    global _loading
    if settings is None:
        settings = listing_settings()
    allow = None if settings.plugins_allow is None else tuple(sorted(settings.plugins_allow))
    key = (allow, tuple(sorted(settings.plugins_block)))
    with _lock:
        if key not in _cache:
            if _loading:
                raise PluginError("plugin_manager() was called while plugins are being loaded")
            _loading = True
            try:
                _cache[key] = Plugins(
                    find_entry_points(PROJECT), allow=key[0], block=key[1], runtime=_registered_at_run_time
                )
            finally:
                _loading = False
        return _cache[key]


def reset_plugins() -> None:
    """Forget every loaded plugin, those registered at run time too; the next use loads them again."""
    with _lock:
        _cache.clear()
        _registered_at_run_time.clear()
