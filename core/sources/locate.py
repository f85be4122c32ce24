"""From what a user typed to a folder on this machine: local paths, registry names, Hub repositories.

How a source is read, in this order:

1. ``hf:org/name``, ``path:folder``, ``registry:name`` say themselves what they are.
2. A path that exists: anything with a separator in it, starting with "." or "~", or lying in the working folder. Where
   a bare name is both a file or folder here and a name in the registry, the local one is taken, with a warning.
3. A name or alias in the registry.
4. The id of a Hub repository: ``organization/name``.

Importing this module is cheap; huggingface_hub is imported only when the Hub or its cache is really asked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import DownloadError, RegistryError, warn
from ..public import for_plugins
from .access import HubAccess, local_only, refuse_forced_offline, refuse_revision
from .entry import RegistryEntry, is_repo_id
from .naming import as_path, check_name, exists
from .packages import import_name, is_installed, package_name
from .registry import Registry, load_registry

if TYPE_CHECKING:
    from ..settings.schema import Settings
    from .download import Files

EXPLICIT = ("hf", "path", "registry")


@dataclass(frozen=True)
class Interpretation:
    """What a source means, before anything is looked up on the network.

    Attributes:
        asked: the source as it was given.
        kind: "path" (a file or folder of the user's), "package" (in an installed package, mostly polyllama) or "hf".
        path: where it lies, or should lie, for "path"; for "package" None where the package or its file is not there.
        repo_id: the Hub repository, for "hf".
        revision: what the registry pins, for "hf".
        entry: the registry's entry, where there is one.
    """

    asked: str
    kind: Literal["path", "package", "hf"]
    path: Path | None = None
    repo_id: str | None = None
    revision: str | None = None
    entry: RegistryEntry | None = None


@dataclass(frozen=True)
class Located:
    """A checkpoint on this machine.

    Attributes:
        path: the folder, or the single file, that holds it.
        origin: "path", "package" or "hf".
        asked: the source as it was given.
        entry: the registry's entry, where there is one.
        repo_id: the Hub repository, for origin "hf".
        revision: the branch, tag or commit that was asked for, for origin "hf".
        commit: the commit that it stands for, for origin "hf".
    """

    path: Path
    origin: Literal["path", "package", "hf"]
    asked: str
    entry: RegistryEntry | None = None
    repo_id: str | None = None
    revision: str | None = None
    commit: str | None = None


def locate(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    files: Files = "all",
    settings: Settings | None = None,
    registry: Registry | None = None,
    access: HubAccess | None = None,
) -> Located:
    """Find a checkpoint, downloading what is missing unless the settings say offline.

    Args:
        source: a path, a registry name, or a Hub repository id; see the head of this module.
        revision: branch, tag or commit on the Hub; overrides what the registry pins.
        files: "all", or only what a "config" or a "tokenizer" needs.
        settings: for ``offline``, ``cache_dir`` and ``registries``; ``load_settings()`` when not given.
        registry: where names are looked up; ``load_registry(settings)`` when not given, and only if it is needed.
        access: as whom the Hub is asked, in which folder of the repository to look, whether to fetch again.

    Raises:
        RegistryError: the source is nothing that is known.
        DownloadError: it could not be fetched, or is not cached while offline.

    >>> located = locate("tiny")
    >>> located.origin, located.path.name
    ('package', 'tiny')
    """
    from ..settings.schema import load_settings

    settings = settings if settings is not None else load_settings()
    meaning = at_revision(interpret(source, settings=settings, registry=registry), revision)
    access = access if access is not None else HubAccess()
    if meaning.path is not None and exists(meaning.path):
        return Located(access.local(meaning.path), meaning.kind, meaning.asked, meaning.entry)
    if meaning.repo_id is None:
        raise _not_there(meaning)
    refuse_forced_offline(access, settings)
    try:
        return _fetched(meaning, meaning.repo_id, revision, files, settings, access)
    except DownloadError as error:
        if access == HubAccess() and (instead := _after_the_hub(meaning)) is not None and revision is None:
            warn(f"{error.message}; {meaning.asked!r} is taken from {instead.path} instead, its next source")
            return instead
        raise _with_other_ways(error, meaning) from error


def _fetched(
    meaning: Interpretation,
    repo_id: str,
    revision: str | None,
    files: Files,
    settings: Settings,
    access: HubAccess,
) -> Located:
    from .download import fetch

    wanted = revision or meaning.revision
    folder = fetch(
        repo_id,
        revision=wanted,
        cache_dir=access.cache_dir or settings.cache_dir,
        offline=settings.offline,
        offline_because=settings.provenance["offline"],
        files=files,
        gated=meaning.entry is not None and meaning.entry.gated,
        access=access,
    )
    where = access.within(folder)
    return Located(where, "hf", meaning.asked, meaning.entry, repo_id, wanted or "main", commit=folder.name)


def at_revision(meaning: Interpretation, revision: str | None) -> Interpretation:
    """The entry's repository where a revision is asked for, as files on this machine have none but ``main``.

    Raises:
        RegistryError: there is no repository.
    """
    if meaning.kind == "hf" or revision is None:
        return meaning
    repos = [source.target for source in meaning.entry.sources if source.kind == "hf"] if meaning.entry else []
    if repos:
        return Interpretation(meaning.asked, "hf", repo_id=repos[0], revision=revision, entry=meaning.entry)
    if meaning.path is None:
        raise _not_there(meaning)
    refuse_revision(meaning.asked, meaning.path, revision)
    return meaning


def _after_the_hub(meaning: Interpretation) -> Located | None:
    """The first source that an entry names after its repository and that is on this machine."""
    if meaning.entry is None:
        return None
    sources = meaning.entry.sources
    for source in sources[[str(one) for one in sources].index(f"hf:{meaning.repo_id}") + 1 :]:
        path = source.path()
        if path is not None and path.exists():
            return Located(path, "package" if source.kind == "package" else "path", meaning.asked, meaning.entry)
    return None


def _with_other_ways(error: DownloadError, meaning: Interpretation) -> DownloadError:
    """The error with the packages that would have spared the download."""
    ways = _missing_packages(meaning.entry) if meaning.entry is not None else []
    if not ways:
        return error
    missing, remedy = " and ".join(what for what, _ in ways), " or ".join(how for _, how in ways)
    return DownloadError(
        error.message + f"; the model also {missing}", hint=f"{remedy}, or " + error.hint if error.hint else remedy
    )


def _missing_packages(entry: RegistryEntry) -> list[tuple[str, str]]:
    """For each package: source that is not there: what is missing, and what brings it."""
    found = []
    for source in entry.sources:
        if source.kind != "package" or source.path() is not None:
            continue
        name = package_name(source.target)
        if is_installed(name):
            lacking = f"should be {source.target!r}, which the installed package has not"
            found.append((lacking, f"install another version of {name}"))
        elif (brings := import_name(name)) is not None:
            lacking = f"names the package {name!r}, which is the name that it is installed by"
            found.append((lacking, f"write package:{brings + source.target.removeprefix(name)}, as it is imported"))
        else:
            command = entry.install or f"pip install {name}"
            found.append((f"comes with the package {name!r}, which is not installed", f"install it (`{command}`)"))
    return found


@for_plugins
def resolve_checkpoint_folder(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    offline: bool | None = None,
    files: Files = "all",
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    subfolder: str = "",
) -> Path:
    """The folder (or single file) of a checkpoint on this machine: ``locate`` with settings taken from around.

    Args:
        source, revision, files: as for ``locate``.
        offline, local_files_only: use only what is on this machine; two names for one thing.
        cache_dir, token, force_download, subfolder: see :class:`~polyllama.core.sources.access.HubAccess`.

    Raises:
        RegistryError: the source is nothing that is known.
        DownloadError: it could not be fetched, or is not cached while offline.
        InputError: an argument of the wrong type.
    """
    from ..settings.schema import load_settings

    access = HubAccess(token, force_download, subfolder, cache_dir=cache_dir)  # type: ignore[arg-type]
    settings = load_settings(offline=local_only(offline, local_files_only))
    return locate(source, revision=revision, files=files, settings=settings, access=access).path


def interpret(
    source: str | os.PathLike[str], *, settings: Settings | None = None, registry: Registry | None = None
) -> Interpretation:
    """What a source means; looks at local paths and the registry, never at the network.

    Raises:
        RegistryError: none of the readings fits; says which were tried.
    """
    check_name(source)
    if not isinstance(source, str):
        return _local(Path(source), str(source))
    prefix, separator, rest = source.partition(":")
    if separator and prefix in EXPLICIT:
        return _explicit(source, prefix, rest, settings, registry)
    path = as_path(source)
    looks_like_path = source.startswith((".", "~")) or os.sep in source or bool(os.altsep and os.altsep in source)
    if looks_like_path and exists(path):
        return _local(path, source)
    if looks_like_path and not is_repo_id(source):
        raise RegistryError(f"there is no file or folder {source!r} (looked at {path.absolute()})")
    registry = registry if registry is not None else load_registry(settings)
    if looks_like_path:
        return Interpretation(source, "hf", repo_id=source, entry=registry.find_repo(source))
    entry = registry.get(source)
    if exists(path) and (entry is None or _looks_like_a_model(path)):
        if entry is not None:
            warn(
                f"{source!r} is both {path.absolute()} and a registry name for {entry.source}; the local one is taken. "
                f"Write 'registry:{source}' or '.{os.sep}{source}' to choose"
            )
        return _local(path, source)
    if entry is None:
        raise RegistryError(
            f"{source!r} is no file or folder in {Path.cwd()}, no name in the registry, and no Hub repository id "
            "(organization/name)",
            hint=registry.suggest(source),
        )
    return _from_entry(source, entry)


def _looks_like_a_model(path: Path) -> bool:
    """Whether a file or folder that shares its name with a registry entry can be meant at all."""
    return path.is_file() or any((path / name).exists() for name in ("config.json", "params.json"))


def _explicit(
    source: str, prefix: str, rest: str, settings: Settings | None, registry: Registry | None
) -> Interpretation:
    if prefix == "path":
        if not rest.strip():
            raise RegistryError(f"{source!r} names no path")
        return _local(as_path(rest), source)
    registry = registry if registry is not None else load_registry(settings)
    if prefix == "registry":
        return _from_entry(source, registry.find(rest))
    if not is_repo_id(rest):
        raise RegistryError(f"{source!r}: {rest!r} is no Hub repository id", hint="it looks like hf:organization/name")
    return Interpretation(source, "hf", repo_id=rest, entry=registry.find_repo(rest))


def _from_entry(asked: str, entry: RegistryEntry) -> Interpretation:
    """The first source that is on this machine or on the Hub; where none is, the first."""
    for source in entry.sources:
        if source.kind == "hf":
            return Interpretation(asked, "hf", repo_id=source.target, revision=entry.revision, entry=entry)
        if (path := source.path()) is not None and path.exists():
            return Interpretation(asked, source.kind, path=path, entry=entry)
    first = entry.sources[0]
    return Interpretation(asked, "package" if first.kind == "package" else "path", path=first.path(), entry=entry)


def _local(path: Path, asked: str) -> Interpretation:
    return Interpretation(asked, "path", path=as_path(path))


def _not_there(meaning: Interpretation) -> RegistryError:
    entry = meaning.entry
    if entry is None:
        assert meaning.path is not None
        return RegistryError(f"there is no file or folder {meaning.asked!r} (looked at {meaning.path.absolute()})")
    ways = _missing_packages(entry)
    missing = [
        f"should lie in {source.target}, which does not exist" for source in entry.sources if source.kind == "path"
    ]
    return RegistryError(
        f"the model {entry.name!r} {' and '.join([*missing, *(what for what, _ in ways)])}",
        hint="; ".join([*(how for _, how in ways), f"its entry is in {entry.origin}"]),
    )
