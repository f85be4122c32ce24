"""What is downloaded: the models in the Hub's cache, how big they are, and removing them.

huggingface_hub looks through the cache and removes from it; this module gives each model the names that it has here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DownloadError, warn
from ..messages import did_you_mean, few
from .entry import normalize_name

if TYPE_CHECKING:
    from .registry import Registry


@dataclass(frozen=True)
class CachedRevision:
    """One commit of a repository, as far as it is downloaded.

    Attributes:
        commit: its 40 hexadecimal digits; `refs` are the branches and tags that stand for it.
        nbytes: what its files take, those that it shares with other commits included.
    """

    commit: str
    refs: tuple[str, ...]
    nbytes: int


@dataclass(frozen=True)
class CachedModel:
    """One repository in the cache.

    Attributes:
        repo_id: "organization/name"; `names` are the registry's for it.
        path: the folder that holds it.
        nbytes: what it takes on the disk; of these `unfinished` are of downloads that were cut off.
        revisions: the newest first; none where the folder is no whole repository, so that all of it is `unfinished`.
        last_used: when a file of it was read or written last, in seconds since 1970, as far as the disk keeps that.
    """

    repo_id: str
    names: tuple[str, ...]
    path: Path
    nbytes: int
    unfinished: int
    revisions: tuple[CachedRevision, ...]
    last_used: float

    def answers_to(self, name: str) -> bool:
        """Whether it is meant by the name of a registry or by the id of its repository."""
        wanted = name.removeprefix("hf:")
        return wanted.lower() == self.repo_id.lower() or normalize_name(name) in map(normalize_name, self.names)


@dataclass(frozen=True)
class Removal:
    """What would be removed.

    Attributes:
        nbytes: how much room that makes; files that stay in use by other commits do not count.
        paths: folders that go.
        execute: removes them.
    """

    nbytes: int
    paths: tuple[Path, ...]
    execute: Callable[[], None]


def cached_models(cache_dir: Path | None, registry: Registry) -> list[CachedModel]:
    """The models in the Hub's cache, the largest first.

    Args:
        cache_dir: the cache; huggingface_hub's own when not given.
        registry: knows the names of repositories.

    Raises:
        DownloadError: the cache is no folder, or cannot be read.

    Warns:
        PolyllamaWarning: parts of the cache that are no whole repository.
    """
    found = _scan(cache_dir)
    if found is None:
        return []
    models = [_model(repo, registry) for repo in found.repos if repo.repo_type == "model"]
    broken = _broken(cache_dir, {model.path for model in models}) if found.warnings else []
    for problem in found.warnings:
        if not any(str(path) in str(problem) for path in broken):
            warn(f"left out, as it is no repository: {problem}")
    models += [_broken_model(path, registry) for path in broken]
    return sorted(models, key=lambda model: (-model.nbytes, model.repo_id))


def find_cached(models: Sequence[CachedModel], name: str) -> CachedModel:
    """The model that is meant by a registry's name or the id of a repository.

    Raises:
        DownloadError: none is.
    """
    for model in models:
        if model.answers_to(name):
            return model
    known = [name for model in models for name in (*model.names, model.repo_id)]
    downloaded = f"downloaded are {few([model.repo_id for model in models])}" if models else "nothing is downloaded"
    raise DownloadError(f"{name!r} is not downloaded", hint=did_you_mean(name, known, downloaded))


def plan_removal(cache_dir: Path | None, models: Sequence[CachedModel], revision: str | None = None) -> Removal:
    """What goes with these models, or with one revision of each.

    Args:
        revision: a branch, a tag, or a commit or its first digits (4 at least); by default all.

    Raises:
        DownloadError: a model has no such revision.
    """
    found = _scan(cache_dir)
    assert found is not None  # the models are from there
    strategies = []
    for model in models:
        # A fork has the commits of its original, and huggingface_hub takes the first repository that has a commit.
        own = frozenset(repo for repo in found.repos if repo.repo_path == model.path)
        strategies.append(replace(found, repos=own).delete_revisions(*_commits(model, revision)))
    whole = {path for strategy in strategies for path in strategy.repos}
    broken = {model.path for model in models if not model.revisions}
    snapshots = {path for strategy in strategies for path in strategy.snapshots}
    paths = tuple(sorted(whole | broken | snapshots))
    unfinished = sum(model.unfinished for model in models if model.path in whole | broken)

    def execute() -> None:
        for strategy in strategies:
            strategy.execute()
        for path in broken:
            shutil.rmtree(path, ignore_errors=True)
        left = [str(path) for path in paths if path.exists()]
        if left:  # huggingface_hub only logs what it could not remove
            raise DownloadError(f"not removed: {few(left)}", hint="is it another user's, or in use?")

    return Removal(sum(strategy.expected_freed_size for strategy in strategies) + unfinished, paths, execute)


def _scan(cache_dir: Path | None) -> Any:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return scan_cache_dir(cache_dir)
    except CacheNotFound:
        return None
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())
        raise DownloadError(
            f"the cache of downloads cannot be read: {text}", hint="see the setting cache_dir"
        ) from None


def _broken(cache_dir: Path | None, whole: set[Path]) -> list[Path]:
    """Folders of models that huggingface_hub cannot make sense of, such as after a download that was cut off."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(cache_dir or HF_HUB_CACHE).expanduser().resolve()
    return [path for path in folder.glob("models--*--*") if path.is_dir() and path not in whole]


def _broken_model(path: Path, registry: Registry) -> CachedModel:
    repo_id = path.name.removeprefix("models--").replace("--", "/")
    files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    size = sum(file.stat().st_size for file in files)
    used = max(file.stat().st_mtime for file in (path, *files))
    return CachedModel(repo_id, _names(repo_id, registry), path, size, size, (), used)


def _names(repo_id: str, registry: Registry) -> tuple[str, ...]:
    """What the registry calls a repository, the name of an entry before its aliases."""
    wanted = ("hf", repo_id.lower())
    entries = [entry for entry in registry.entries if any((s.kind, s.target.lower()) == wanted for s in entry.sources)]
    return tuple(dict.fromkeys(name for entry in entries for name in (entry.name, *entry.aliases)))


def _model(repo: Any, registry: Registry) -> CachedModel:
    unfinished = sum(os.stat(path).st_size for path in repo.repo_path.glob("blobs/*.incomplete"))
    revisions = sorted(repo.revisions, key=lambda revision: -revision.last_modified)
    return CachedModel(
        repo.repo_id,
        _names(repo.repo_id, registry),
        repo.repo_path,
        repo.size_on_disk + unfinished,
        unfinished,
        tuple(CachedRevision(r.commit_hash, tuple(sorted(r.refs)), r.size_on_disk) for r in revisions),
        max(repo.last_accessed, repo.last_modified),
    )


def _commits(model: CachedModel, revision: str | None) -> list[str]:
    if revision is None:
        return [found.commit for found in model.revisions]
    for found in model.revisions:
        if revision in found.refs or (len(revision) >= 4 and found.commit.startswith(revision)):
            return [found.commit]
    known = [name for found in model.revisions for name in (*found.refs, found.commit[:8])]
    raise DownloadError(
        f"{model.repo_id} has no downloaded revision {revision!r}",
        hint=f"there are {few(known)}" if known else "leave it out",
    )
