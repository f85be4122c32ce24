"""Names for checkpoints: what "7b" or "llama-3.2-1b-instruct" stands for, and what is known about it before loading.

A registry file is YAML:

    models:
      my-model:
        source: hf:my-org/my-model      # or path:relative/to/this/file, or package:folder/inside/polyllama
        revision: v1.0                  # branch, tag or commit; without it, the main branch
        parameters: 1100048384
        context: 2048
        license: apache-2.0
        gated: false                    # true: the Hub asks to accept a licence first
        tasks: [text-generation]
        aliases: [mine]
        summary: one line for listings
        config: {vocab_size: 32000, hidden_size: 2048}      # sizes, to plan memory without downloading

Only ``source`` is required. Names are compared without regard to case, and "_" and " " count as "-". Three levels,
each overriding the one before: the built-in file, plugins, the user's files (``registry.yaml`` in the user's config
folder and those named by the setting ``registries``).
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from ..errors import PluginError, PolyllamaWarning, RegistryError
from ..messages import closest_few, did_you_mean
from ..settings.yaml_files import read_yaml_mapping

if TYPE_CHECKING:
    from ..plugin_system.hookspecs import RegistryDescriptor
    from ..settings.schema import Settings

PACKAGE_FOLDER = Path(__file__).resolve().parents[2]
BUILTIN_REGISTRY = PACKAGE_FOLDER / "registry.yaml"
PARSED_REGISTRY = Path(__file__).resolve().with_name("registry.json")
FILE_NAME = "registry.yaml"

SourceKind = Literal["hf", "path", "package"]
SOURCE_KINDS: tuple[SourceKind, ...] = ("hf", "path", "package")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
_REPO_ID = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?/[A-Za-z0-9_](?:[\w.-]*[\w])?", re.ASCII)


def normalize_name(name: str) -> str:
    """The form in which names are compared.

    >>> normalize_name("Llama-2 7B_Chat")
    'llama-2-7b-chat'
    """
    return re.sub(r"[\s_]+", "-", name.strip().lower())


def is_repo_id(text: str) -> bool:
    """Whether a text can be the id of a repository on the Hub: "organization/name".

    >>> is_repo_id("meta-llama/Llama-2-7b-hf"), is_repo_id("tiny"), is_repo_id("../x")
    (True, False, False)
    """
    if len(text) > 96 or ".." in text or "--" in text or text.endswith(".git"):
        return False
    return bool(_REPO_ID.fullmatch(text))


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


_Strings = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
_Size = Annotated[int, Field(ge=1)]


class PlannedConfig(BaseModel):
    """The sizes of a model, enough to count its parameters and plan its memory without its config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    vocab_size: _Size
    hidden_size: _Size
    intermediate_size: _Size
    num_hidden_layers: _Size
    num_attention_heads: _Size
    num_key_value_heads: _Size | None = None
    head_dim: _Size | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    def as_fields(self) -> dict[str, Any]:
        """The fields that were given, by their names in config.json."""
        return self.model_dump(exclude_unset=True)


class RegistryEntry(BaseModel):
    """One named checkpoint and what is known about it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    source: str
    revision: str | None = None
    parameters: _Size | None = None
    context: _Size | None = None
    license: str | None = None
    gated: bool = False
    tasks: _Strings = ("text-generation",)
    aliases: _Strings = ()
    summary: str = ""
    config: PlannedConfig | None = None
    origin: str = Field("", description="the file or plugin it came from")

    @field_validator("source")
    @classmethod
    def _check_source(cls, source: str) -> str:
        kind, separator, target = source.partition(":")
        if not separator or kind not in SOURCE_KINDS or not target.strip():
            raise ValueError('must be "hf:organization/name", "path:folder" or "package:folder"')
        if kind == "hf" and not is_repo_id(target):
            raise ValueError(f"{target!r} is no id of a Hub repository; it looks like organization/name")
        if kind == "package" and (Path(target).is_absolute() or ".." in Path(target).parts):
            raise ValueError("a package: source must stay inside the package")
        return source

    @field_validator("name", "aliases")
    @classmethod
    def _check_names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (value,) if isinstance(value, str) else value
        for name in names:
            if not _NAME.fullmatch(normalize_name(name)):
                raise ValueError(f"{name!r} is no name; use letters, digits, '.', '_' and '-'")
        return value

    @property
    def source_kind(self) -> str:
        """ "hf", "path" or "package"."""
        return self.source.partition(":")[0]

    @property
    def source_target(self) -> str:
        """The repository id or the folder."""
        return self.source.partition(":")[2]

    @property
    def lookup_names(self) -> tuple[str, ...]:
        """Its name and aliases as they are compared, without repetitions."""
        return tuple(dict.fromkeys(normalize_name(name) for name in (self.name, *self.aliases)))

    def folder(self) -> Path | None:
        """Where a path: or package: source lies; None for the Hub."""
        if self.source_kind == "hf":
            return None
        return PACKAGE_FOLDER / self.source_target if self.source_kind == "package" else Path(self.source_target)


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
            if entry.source_kind == "hf" and entry.source_target.lower() == wanted:
                return entry
        return None

    def suggest(self, name: str) -> str:
        """What to try instead of an unknown name."""
        close = closest_few(normalize_name(name), self._by_name, 3)
        listing = "`polyllama models` lists all"
        return f"did you mean {' or '.join(repr(other) for other in close)}? {listing}" if close else listing


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
        warnings.warn(f"registry: {text}", PolyllamaWarning, stacklevel=3)
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
        warnings.warn(
            f"the registry {descriptor.name!r} of {origin} is skipped: {error}", PolyllamaWarning, stacklevel=4
        )
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
    if entry.source_kind != "path":
        return entry
    try:
        path = Path(entry.source_target).expanduser()
    except RuntimeError as error:
        raise RegistryError(
            f"{origin}: model {name!r}: source = {entry.source!r}: {error}", hint="no such user? write the path out"
        ) from error
    if not path.is_absolute():
        if folder is None:
            raise RegistryError(f"{origin}: model {name!r}: the path in {entry.source!r} must be absolute")
        path = folder.absolute() / path
    return entry.model_copy(update={"source": f"path:{path}"})


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
