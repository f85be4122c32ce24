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
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import PolyllamaWarning, RegistryError
from ..messages import mention
from ..public import for_plugins
from .entry import RegistryEntry, is_repo_id
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
        kind: "path" (a file or folder of the user's), "package" (comes with polyllama) or "hf".
        path: where it lies, for the first two.
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
) -> Located:
    """Find a checkpoint, downloading what is missing unless the settings say offline.

    Args:
        source: a path, a registry name, or a Hub repository id; see the head of this module.
        revision: branch, tag or commit on the Hub; overrides what the registry pins.
        files: "all", or only what a "config" or a "tokenizer" needs.
        settings: for ``offline``, ``cache_dir`` and ``registries``; ``load_settings()`` when not given.
        registry: where names are looked up; ``load_registry(settings)`` when not given, and only if it is needed.

    Raises:
        RegistryError: the source is nothing that is known.
        DownloadError: it could not be fetched, or is not cached while offline.

    >>> located = locate("tiny")
    >>> located.origin, located.path.name
    ('package', 'tiny')
    """
    from ..settings.schema import load_settings

    settings = settings if settings is not None else load_settings()
    meaning = interpret(source, settings=settings, registry=registry)
    if meaning.path is not None:
        if revision is not None:
            raise RegistryError(
                mention("revision", revision)
                + f" was asked of {meaning.asked!r}, which lies on this machine ({meaning.path}) and has no revisions",
                hint="leave " + mention("revision") + " out, or name a Hub repository",
            )
        _check_exists(meaning)
        return Located(meaning.path, meaning.kind, meaning.asked, meaning.entry)
    assert meaning.repo_id is not None
    from .download import fetch

    wanted = revision or meaning.revision
    folder = fetch(
        meaning.repo_id,
        revision=wanted,
        cache_dir=settings.cache_dir,
        offline=settings.offline,
        offline_because=settings.provenance["offline"],
        files=files,
        gated=meaning.entry is not None and meaning.entry.gated,
    )
    return Located(folder, "hf", meaning.asked, meaning.entry, meaning.repo_id, wanted or "main", commit=folder.name)


@for_plugins
def resolve_checkpoint_folder(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    offline: bool | None = None,
    files: Files = "all",
) -> Path:
    """The folder (or single file) of a checkpoint on this machine: ``locate`` with settings taken from around."""
    from ..settings.schema import load_settings

    return locate(source, revision=revision, files=files, settings=load_settings(offline=offline)).path


def interpret(
    source: str | os.PathLike[str], *, settings: Settings | None = None, registry: Registry | None = None
) -> Interpretation:
    """What a source means; looks at local paths and the registry, never at the network.

    Raises:
        RegistryError: none of the readings fits; says which were tried.
    """
    if not isinstance(source, str):
        return _local(Path(source), str(source))
    if not source.strip():
        raise RegistryError(
            "no model was named", hint="`polyllama models` lists the names; a path or org/name works too"
        )
    prefix, separator, rest = source.partition(":")
    if separator and prefix in EXPLICIT:
        return _explicit(source, prefix, rest, settings, registry)
    path = _expand(source)
    looks_like_path = source.startswith((".", "~")) or os.sep in source or bool(os.altsep and os.altsep in source)
    if looks_like_path and path.exists():
        return _local(path, source)
    if looks_like_path and not is_repo_id(source):
        raise RegistryError(f"there is no file or folder {source!r} (looked at {path.absolute()})")
    registry = registry if registry is not None else load_registry(settings)
    if looks_like_path:
        return Interpretation(source, "hf", repo_id=source, entry=registry.find_repo(source))
    entry = registry.get(source)
    if path.exists() and (entry is None or _looks_like_a_model(path)):
        if entry is not None:
            warnings.warn(
                f"{source!r} is both {path.absolute()} and a registry name for {entry.source}; the local one is taken. "
                f"Write 'registry:{source}' or '.{os.sep}{source}' to choose",
                PolyllamaWarning,
                stacklevel=3,
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
        return _local(_expand(rest), source)
    registry = registry if registry is not None else load_registry(settings)
    if prefix == "registry":
        return _from_entry(source, registry.find(rest))
    if not is_repo_id(rest):
        raise RegistryError(f"{source!r}: {rest!r} is no Hub repository id", hint="it looks like hf:organization/name")
    return Interpretation(source, "hf", repo_id=rest, entry=registry.find_repo(rest))


def _from_entry(source: str, entry: RegistryEntry) -> Interpretation:
    if entry.source_kind == "hf":
        return Interpretation(source, "hf", repo_id=entry.source_target, revision=entry.revision, entry=entry)
    kind: Literal["path", "package"] = "package" if entry.source_kind == "package" else "path"
    return Interpretation(source, kind, path=entry.folder(), entry=entry)


def _local(path: Path, asked: str) -> Interpretation:
    return Interpretation(asked, "path", path=_expand(str(path)))


def _expand(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise RegistryError(f"{text!r}: {error}") from error


def _check_exists(meaning: Interpretation) -> None:
    assert meaning.path is not None
    if meaning.path.exists():
        return
    if meaning.entry is not None:
        raise RegistryError(
            f"the model {meaning.entry.name!r} should lie in {meaning.path}, which does not exist",
            hint=f"its entry is in {meaning.entry.origin}",
        )
    raise RegistryError(f"there is no file or folder {meaning.asked!r} (looked at {meaning.path.absolute()})")
