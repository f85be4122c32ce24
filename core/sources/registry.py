"""Names for checkpoints: what "7b" or "llama-3.2-1b-instruct" stands for, and what is known about it before loading.

A registry file is YAML:

    models:
      my-model:
        source: hf:my-org/my-model      # or path:relative/to/this/file, or package:its_name/file.gguf
        revision: v1.0                  # branch, tag or commit; without it, the main branch
        parameters: 1100048384
        context: 2048
        dtype: float32                  # what it is computed in, where nothing else is asked for
        license: apache-2.0
        gated: false                    # true: the Hub asks to accept a licence first
        tasks: [text-generation]
        aliases: [mine]
        summary: one line for listings
        config: {vocab_size: 32000, hidden_size: 2048}      # sizes, to plan memory without downloading

Only ``source`` is required. It may be a list, of which the first is taken that is there: an installed package's file,
say, and else a repository. What ``package:`` names lies in an installed Python package, or in polyllama itself;
``install`` may give the command that brings the package. Names are compared without regard to case, and "_" and " "
count as "-". Three levels, each overriding the one before: the built-in file, plugins, the user's files
(``registry.yaml`` in the user's config folder and those named by the setting ``registries``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..errors import PluginError, RegistryError, warn
from ..messages import closest_few, did_you_mean
from ..public import for_plugins
from ..settings.yaml_files import read_yaml_mapping
from .entry import PlannedConfig, RegistryEntry, Source, normalize_name
from .packages import PACKAGE_FOLDER

if TYPE_CHECKING:
    from ..plugin_system.hookspecs import RegistryDescriptor
    from ..settings.schema import Settings

BUILTIN_REGISTRY = PACKAGE_FOLDER / "registry.yaml"
PARSED_REGISTRY = Path(__file__).resolve().with_name("registry.json")
FILE_NAME = "registry.yaml"


@for_plugins
@dataclass(frozen=True)
class Registry:
    """All entries by all their names.

    >>> registry = load_registry(descriptors={})
    >>> registry.find("LLAMA-7B").name
    '7b'
    """

    entries: tuple[RegistryEntry, ...]
    overridden: tuple[str, ...] = ()
    _by_name: Mapping[str, RegistryEntry] = field(default_factory=dict, repr=False)
    _clashes: Mapping[str, RegistryError] = field(default_factory=dict, repr=False, compare=False)

    def names(self) -> tuple[str, ...]:
        """The name of every entry, in the order of the files."""
        return tuple(entry.name for entry in self.entries)

    def get(self, name: str) -> RegistryEntry | None:
        """The entry of this name or alias, or None.

        Raises:
            RegistryError: two plugins claim the name.
        """
        clash = self._clashes.get(normalize_name(name))
        if clash is not None:
            raise RegistryError(clash.message, hint=clash.hint)
        return self._by_name.get(normalize_name(name))

    def find(self, name: str) -> RegistryEntry:
        """The entry of this name or alias.

        Raises:
            RegistryError: no such name (says which come close and how to list them all), or two plugins claim it.
        """
        entry = self.get(name)
        if entry is None:
            raise RegistryError(f"no registry knows the model {name!r}", hint=self.suggest(name))
        return entry

    def find_repo(self, repo_id: str) -> RegistryEntry | None:
        """The first entry that stands for this Hub repository, or None."""
        wanted = repo_id.lower()
        for entry in self.entries:
            if any(source.kind == "hf" and source.target.lower() == wanted for source in entry.sources):
                return entry
        return None

    def suggest(self, name: str) -> str:
        """What to try instead of an unknown name."""
        close = closest_few(normalize_name(name), self._by_name, 3)
        listing = "`polyllama models` lists all"
        return f"did you mean {' or '.join(repr(other) for other in close)}? {listing}" if close else listing


@for_plugins
def load_registry(
    settings: Settings | None = None, descriptors: Mapping[str, RegistryDescriptor] | None = None
) -> Registry:
    """Built-in, plugin and user registries in one.

    Args:
        settings: for ``registries``; ``load_settings()`` when not given.
        descriptors: the plugins' registries by name; asked of the plugin manager when not given.

    Raises:
        RegistryError: a file of the user's or a built-in one is wrong, or two of the user's files claim one name.

    Warns:
        PolyllamaWarning: an entry overrides one of a lower level; a plugin's registry is broken and skipped; two
            plugins claim one name, which is an error only for who looks that name up.
    """
    from ..settings.files import user_config_folder
    from ..settings.schema import load_settings

    settings = settings if settings is not None else load_settings()
    if descriptors is None:
        from ..plugin_system.manager import plugin_manager

        descriptors = plugin_manager(settings).registries()
    user_file = user_config_folder() / FILE_NAME
    user_files = list(settings.registries)
    if user_file.exists() and not any(path.exists() and path.samefile(user_file) for path in user_files):
        user_files.insert(0, user_file)
    return merge_registries(
        [
            read_registry_file(BUILTIN_REGISTRY),
            [entry for descriptor in descriptors.values() for entry in _read_descriptor(descriptor)],
            [entry for path in dict.fromkeys(user_files) for entry in read_registry_file(path)],
        ],
        lenient=(1,),
    )


def merge_registries(levels: Sequence[Iterable[RegistryEntry]], *, lenient: Sequence[int] = ()) -> Registry:
    """One registry out of levels, the later overriding the earlier; within a level a name may be claimed once.

    At the levels whose places are in ``lenient`` a name claimed twice is a warning, and stands for nothing until a
    later level says what it means.

    An entry that takes the name of a lower one replaces it: the lower one's aliases then lead to the new entry. One
    that takes an alias only takes that alias.
    """
    by_name: dict[str, RegistryEntry] = {}
    entries: list[RegistryEntry] = []
    said: list[str] = []
    clashes: dict[str, RegistryError] = {}
    for place, level_entries in enumerate(levels):
        level_unique = list(level_entries)
        claimed, clashing = _claims(level_unique)
        for clash in clashing.values():
            if place not in lenient:
                raise clash
            said.append(str(clash))
        clashes = {name: clash for name, clash in clashes.items() if name not in claimed} | clashing
        for entry in level_unique:
            said.extend(_override(entry, by_name, entries, clashing))
        # Aliases that followed a replaced entry give way to what this level itself says.
        by_name.update(claimed)
        entries.extend(level_unique)
    for text in said:
        warn(f"registry: {text}", general=True)
    return Registry(tuple(entries), tuple(said), by_name, clashes)


def _claims(entries: Sequence[RegistryEntry]) -> tuple[dict[str, RegistryEntry], dict[str, RegistryError]]:
    """Who of one level claims which name, and the names that two of them claim."""
    claimed: dict[str, RegistryEntry] = {}
    clashing: dict[str, RegistryError] = {}
    for entry in entries:
        for name in entry.lookup_names:
            if name in claimed:
                clashing.setdefault(name, _claimed_twice(name, claimed[name], entry))
            claimed.setdefault(name, entry)
    return {name: entry for name, entry in claimed.items() if name not in clashing}, clashing


def _override(
    entry: RegistryEntry, by_name: dict[str, RegistryEntry], entries: list[RegistryEntry], clashing: Container[str]
) -> list[str]:
    """Let ``entry`` take its names from lower levels, and say so, once for each entry it takes them from."""
    taken: dict[int, tuple[RegistryEntry, list[str]]] = {}
    for name in entry.lookup_names:
        if name in clashing:
            continue
        owner = by_name.get(name)
        if owner is not None:
            taken.setdefault(id(owner), (owner, []))[1].append(name)
    said: list[str] = []
    for owner, names in taken.values():
        if normalize_name(owner.name) in names:
            entries.remove(owner)
            by_name.update(dict.fromkeys((name for name, old in by_name.items() if old is owner), entry))
        quoted = ", ".join(repr(name) for name in names)
        said.append(
            f"{quoted} now {'means' if len(names) == 1 else 'mean'} {entry.source} (from {entry.origin}) "
            f"instead of {owner.source} (from {owner.origin})"
        )
    return said


def _claimed_twice(name: str, first: RegistryEntry, second: RegistryEntry) -> RegistryError:
    return RegistryError(
        f"the model name {name!r} is claimed twice: by {first.name!r} in {first.origin} and by {second.name!r} in "
        f"{second.origin}",
        hint="rename one of them, or leave one file or plugin out (settings registries and plugins_block)",
    )


def read_registry_file(path: Path) -> list[RegistryEntry]:
    """The entries of one YAML file; relative path: sources are relative to its folder.

    Raises:
        RegistryError: names the file, the model, the field and what is wrong.
    """
    content = _parsed_ahead() if path == BUILTIN_REGISTRY else None
    if content is None:
        content = read_yaml_mapping(path, RegistryError)
    return _read_entries(content, str(path), path.parent)


def _parsed_ahead() -> dict[str, Any] | None:
    """The built-in file as ``tools/registry_json.py`` parsed it; ``None`` where that was another file.

    YAML would take a tenth of the time to the first token of ``tiny``.
    """
    try:
        found = json.loads(PARSED_REGISTRY.read_bytes())
        made_from = hashlib.sha256(BUILTIN_REGISTRY.read_bytes()).hexdigest()
        content: dict[str, Any] = found["content"]
        return content if found["made_from"] == made_from else None
    except (OSError, ValueError, KeyError, TypeError):  # the file itself says what is wrong with it
        return None


def _read_descriptor(descriptor: RegistryDescriptor) -> list[RegistryEntry]:
    """A plugin's entries; what is wrong with them is said and must not take the other registries down."""
    origin = f"plugin {descriptor.plugin or descriptor.name}"
    try:
        loaded = descriptor.load()
        if isinstance(loaded, str | Path):
            if Path(loaded).resolve() == BUILTIN_REGISTRY:
                return []
            return read_registry_file(Path(loaded))
        if isinstance(loaded, Mapping):
            return _read_entries(loaded, origin, None)
        raise RegistryError(f"it gives a {type(loaded).__name__}, not the path of a YAML file or a mapping")
    except (RegistryError, PluginError) as error:
        warn(f"the registry {descriptor.name!r} of {origin} is skipped: {error}", general=True)
        return []


def _read_entries(content: Mapping[str, Any], origin: str, folder: Path | None) -> list[RegistryEntry]:
    for key in content:
        if key != "models":
            raise RegistryError(
                f"{origin}: unknown key {key!r}", hint="a registry has one key, 'models', with an entry each"
            )
    models = content.get("models")
    if models is None:
        return []
    if not isinstance(models, Mapping):
        raise RegistryError(f"{origin}: 'models' must be a mapping of names to entries, not a {type(models).__name__}")
    return [_read_entry(name, fields, origin, folder) for name, fields in models.items()]


def _read_entry(name: object, fields: object, origin: str, folder: Path | None) -> RegistryEntry:
    if not isinstance(name, str):
        raise RegistryError(f"{origin}: the model name {name!r} is read as a {type(name).__name__}", hint="quote it")
    if not isinstance(fields, Mapping):
        raise RegistryError(
            f"{origin}: model {name!r} must be a mapping with at least a source", hint="source: hf:org/name"
        )
    for reserved in ("name", "origin"):
        if reserved in fields:
            raise RegistryError(f"{origin}: model {name!r}: there is no field {reserved!r}")
    try:
        entry = RegistryEntry(name=name, origin=origin, **fields)
    except (ValidationError, TypeError) as error:
        raise _entry_error(name, origin, error) from error
    first, *others = [str(_absolute(source, entry, folder)) for source in entry.sources]
    return entry.model_copy(update={"source": first, "alternatives": tuple(others)})


def _absolute(source: Source, entry: RegistryEntry, folder: Path | None) -> Source:
    """The source with its path made absolute, from the folder of the registry's file."""
    if source.kind != "path":
        return source
    where = f"{entry.origin}: model {entry.name!r}"
    try:
        path = Path(source.target).expanduser()
    except RuntimeError as error:
        raise RegistryError(
            f"{where}: source = {str(source)!r}: {error}", hint="no such user? write the path out"
        ) from error
    if not path.is_absolute():
        if folder is None:
            raise RegistryError(f"{where}: the path in {str(source)!r} must be absolute")
        path = folder.absolute() / path
    return Source("path", str(path))


def _entry_error(name: str, origin: str, error: ValidationError | TypeError) -> RegistryError:
    if isinstance(error, TypeError):
        return RegistryError(f"{origin}: model {name!r}: field names must be text: {error}")
    problems: list[str] = []
    hint = None
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = PlannedConfig.model_fields if len(problem["loc"]) > 1 else RegistryEntry.model_fields
            problems.append(f"there is no field {where!r}")
            hint = did_you_mean(str(problem["loc"][-1]), known, f"known: {', '.join(known)}")
        elif problem["type"] == "missing":
            problems.append(f"{where} is missing")
        else:
            text = str(problem["msg"]).removeprefix("Value error, ")
            problems.append(f"{where} = {problem['input']!r}: {text[:1].lower()}{text[1:]}")
    return RegistryError(f"{origin}: model {name!r}: {'; '.join(problems)}", hint=hint)
