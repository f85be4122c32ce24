"""Fetching a checkpoint from the Hub, and only the files of it that are needed.

huggingface_hub does the transfer, the resuming and the cache; this module decides what to fetch and turns what can go
wrong into one sentence and a remedy. Weights come as safetensors: pickled ones (.bin, .pth) are not fetched, because
other programs that open them run what is in them. Only "config.json"-style files, the tokenizer and one set of weights
are asked for.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from ..errors import DownloadError, warn
from ..messages import few
from .access import HubAccess

Files = Literal["all", "config", "tokenizer"]

CONFIG_FILES = ("config.json", "generation_config.json", "params.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
TEMPLATE_FOLDER = "additional_chat_templates/"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLED = (".bin", ".pth", ".pt", ".ckpt")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class _Incomplete(Exception):
    """The cache does not hold what is wanted; the message says what is missing."""


def fetch(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    offline: bool = False,
    offline_because: str = "argument",
    files: Files = "all",
    gated: bool = False,
    access: HubAccess | None = None,
) -> Path:
    """The cached snapshot folder of a Hub repository, complete for ``files``.

    Args:
        repo_id: "organization/name".
        revision: branch, tag or commit; "main" when not given.
        cache_dir: the cache; huggingface_hub's own when not given.
        offline: look into the cache only.
        offline_because: what made it offline, for the message.
        files: everything, or only what a config or a tokenizer needs.
        gated: the registry knows that a licence has to be accepted first.
        access: as whom to ask, which folder or file of the repository is meant, whether to fetch again.

    Raises:
        DownloadError: says what is wrong (gated, not found, no network, not cached, only pickled weights ...) and what
            to do.

    Warns:
        PolyllamaWarning: the Hub did not answer, and the cached copy is used as it is.
    """
    job = _Job(repo_id, revision or "main", cache_dir, files, gated, access or HubAccess())
    if offline:
        try:
            return job.cached()
        except _Incomplete as missing:
            raise DownloadError(
                f"{repo_id} ({job.revision}) cannot be loaded offline ({offline_because}): {missing}",
                hint=f"load it once while online, or run `hf download {repo_id}`, or give the path of a local copy",
            ) from missing
    if _COMMIT.fullmatch(job.revision) and not job.access.force_download:
        try:
            return job.cached()  # a commit never changes, so the Hub has nothing to add
        except _Incomplete:
            pass
    return job.download()


class _Job:
    """One repository at one revision; keeps the arguments together."""

    def __init__(
        self, repo_id: str, revision: str, cache_dir: Path | None, files: Files, gated: bool, access: HubAccess
    ) -> None:
        self.repo_id = repo_id
        self.revision = revision
        self.files: Files = files
        self.gated = gated
        self.access = access
        self.where: dict[str, Any] = {"repo_id": repo_id, "revision": revision, "cache_dir": cache_dir}

    def cached(self) -> Path:
        """The snapshot as it lies in the cache, checked to be complete."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(**self.where, local_files_only=True, allow_patterns=[]))
        except LocalEntryNotFoundError as error:
            raise _Incomplete("it is not in the cache") from error
        except HFValidationError as error:
            raise DownloadError(f"{self.repo_id!r} is no repository id: {error}") from error
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        complete_listing = names | self._listing_in_cache()
        wanted = self._select(complete_listing, lambda name: _read_index(_existing(folder, name)))
        missing = [name for name in wanted if not (folder / name).is_file()]
        if missing:
            raise _Incomplete(f"the cache has it only in part ({few(missing, 3)} missing)")
        return folder

    def download(self) -> Path:
        """Bring the cache up to date with the Hub."""
        from huggingface_hub import HfApi, hf_hub_download, snapshot_download

        failures = (_http_library_error(), OSError, ValueError)
        try:
            api = HfApi(library_name="polyllama", token=self.access.token)
            info = api.model_info(self.repo_id, revision=self.revision)
            names = {sibling.rfilename for sibling in info.siblings or ()}
        except failures as error:
            return self._use_cache_after(error)

        asked = {**self.where, "token": self.access.token, "force_download": self.access.force_download}

        def fetch_index(name: str) -> list[str]:
            return _read_index(Path(hf_hub_download(filename=name, **asked)))

        try:
            wanted = self._select(names, fetch_index)
            folder = Path(snapshot_download(**asked, allow_patterns=[glob.escape(name) for name in wanted]))
            # When the network goes away meanwhile, snapshot_download returns whatever the cache holds.
            missing = [name for name in wanted if not (folder / name).is_file()]
            if missing:
                raise _Incomplete(f"only a part arrived ({few(missing, 3)} missing); run it again")
            return folder
        except _Incomplete as problem:
            raise DownloadError(f"{self.repo_id} ({self.revision}): {problem}") from problem
        except failures as error:
            raise explain(error, self.repo_id, self.revision, self.gated, started=True) from error

    def _use_cache_after(self, error: Exception) -> Path:
        from huggingface_hub.errors import RevisionNotFoundError

        explained = explain(error, self.repo_id, self.revision, self.gated)
        if isinstance(error, RevisionNotFoundError) or self.access.force_download:
            raise explained from error
        try:
            folder = self.cached()
        except (_Incomplete, DownloadError):
            raise explained from error
        warn(f"{explained.message}; using the copy in the cache (commit {folder.name[:12]}), which may be out of date")
        return folder

    def _select(self, names: Iterable[str], read_index: Callable[[str], list[str]]) -> list[str]:
        """The needed files by their names in the repository, of the folder or the file that is meant."""
        prefix, whose = self.access.prefix, f"{self.repo_id} ({self.revision})"
        inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        if prefix:
            whose += f", folder {self.access.subfolder!r},"
            if not inside:
                raise DownloadError(f"{whose} has no files", hint=_what_there_is(set(names)))
        if self.access.file is not None:
            if self.access.file not in inside:
                raise DownloadError(f"{whose} has no file {self.access.file!r}", hint=_what_there_is(set(inside)))
            return [prefix + self.access.file]
        chosen = select_files(inside, self.files, lambda name: read_index(prefix + name), whose=whose)
        return [prefix + name for name in chosen]

    def _listing_in_cache(self) -> set[str]:
        """What the repository holds according to an earlier download; newer versions of huggingface_hub keep that."""
        try:
            from huggingface_hub import get_cached_repo_tree
            from huggingface_hub.errors import CachedRepoTreeNotFoundError
        except ImportError:
            return set()
        try:
            return {file.path for file in get_cached_repo_tree(**self.where)}
        except CachedRepoTreeNotFoundError:
            return set()


def select_files(
    names: Iterable[str], files: Files, read_index: Callable[[str], list[str]], *, whose: str = "the repository"
) -> list[str]:
    """Which of a repository's files are needed.

    Args:
        names: every file there, "/"-separated.
        files: "all", "config" or "tokenizer".
        read_index: given the name of the index of sharded weights, the names of the shards.
        whose: for messages.

    Raises:
        DownloadError: what is needed is not there; says what there is instead.

    >>> names = ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "original/params.json"]
    >>> select_files(names, "all", lambda index: [])
    ['config.json', 'tokenizer.json', 'model.safetensors']
    """
    available = set(names)
    configs = [name for name in CONFIG_FILES if name in available]
    tokenizers = [name for name in TOKENIZER_FILES if name in available]
    templates = sorted(name for name in available if name.startswith(TEMPLATE_FOLDER) and name.endswith(".jinja"))
    if files == "config":
        if not configs or configs == ["generation_config.json"]:
            raise DownloadError(f"{whose} has no config.json", hint=_what_there_is(available))
        return configs
    if files == "tokenizer":
        if not {"tokenizer.json", "tokenizer.model"} & available:
            raise DownloadError(
                f"{whose} has neither tokenizer.json nor tokenizer.model", hint=_what_there_is(available)
            )
        return tokenizers + templates
    return configs + tokenizers + templates + _select_weights(available, read_index, whose)


def _select_weights(available: set[str], read_index: Callable[[str], list[str]], whose: str) -> list[str]:
    """One complete set of weights: a repository often holds the same ones several times over."""
    top = {name for name in available if "/" not in name}
    if SINGLE_FILE in top:
        return [SINGLE_FILE]
    if INDEX_FILE in top:
        shards = read_index(INDEX_FILE)
        absent = [shard for shard in shards if shard not in available]
        if absent:
            raise _Incomplete(f"{INDEX_FILE} names files that are not there ({few(absent, 3)})")
        return [INDEX_FILE, *shards]
    tensors = sorted(name for name in top if name.endswith(".safetensors"))
    models = [name for name in tensors if not name.startswith("adapter_")]
    # Some repositories keep a second copy in another layout under this name.
    plain = [name for name in models if not name.startswith("consolidated")]
    if models:
        return plain or models
    gguf = sorted(name for name in top if name.endswith(".gguf"))
    if len(gguf) == 1:
        return gguf
    if gguf:
        raise DownloadError(
            f"{whose} holds {len(gguf)} GGUF files: {few(gguf, 3)}",
            hint="name one with gguf_file=, or fetch one with `hf download` and give its path",
        )
    if tensors:
        raise DownloadError(
            f"{whose} is an adapter ({few(tensors, 3)}), not a model", hint="name the model it was made for"
        )
    pickled = sorted(name for name in available if name.endswith(_PICKLED))
    if pickled:
        raise DownloadError(
            f"{whose} has its weights only as pickles ({few(pickled, 3)}), which are not downloaded",
            hint="fetch them with `hf download` and give the folder (they are read without being run), or choose "
            "another repository or revision",
        )
    raise _Incomplete("there are no weights")


def explain(
    error: Exception, repo_id: str, revision: str, gated: bool = False, *, started: bool = False
) -> DownloadError:
    """What a failure of huggingface_hub means for the user, and what to do.

    Args:
        error: what huggingface_hub, or the file system below it, raised.
        repo_id: which repository.
        revision: which revision.
        gated: the registry knows that a licence has to be accepted first.
        started: some files may have arrived already.
    """
    from huggingface_hub import errors as hub

    page = f"https://huggingface.co/{repo_id}"
    gated_hint = f"accept its licence at {page}, then log in with `hf auth login` (or set HF_TOKEN) as that user"
    if isinstance(error, hub.GatedRepoError):
        return DownloadError(
            f"{repo_id} is gated: the Hub gives it only to users who accepted its licence", hint=gated_hint
        )
    if isinstance(error, hub.RepositoryNotFoundError):
        if gated:
            return DownloadError(f"the Hub does not give {repo_id} to this user; it is gated", hint=gated_hint)
        return DownloadError(
            f"the Hub has no public model {repo_id!r}",
            hint="check the spelling; if it is private, log in with `hf auth login` (or set HF_TOKEN)",
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return DownloadError(f"{repo_id} has no revision {revision!r}", hint=f"its branches and tags are at {page}")
    if isinstance(error, hub.HFValidationError):
        return DownloadError(f"{repo_id!r} is no repository id: {_one_line(error)}")
    again = "run it again: files that arrived whole are kept" if started else "try again later"
    if isinstance(error, hub.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return DownloadError(
                f"the Hub refused {repo_id} (HTTP {status})", hint="log in with `hf auth login` (or set HF_TOKEN)"
            )
        return DownloadError(f"the Hub answered HTTP {status} for {repo_id}", hint=again)
    lost = (_http_library_error(), hub.LocalEntryNotFoundError, hub.FileMetadataError, ConnectionError, TimeoutError)
    if isinstance(error, lost):
        return DownloadError(
            f"the Hub cannot be reached for {repo_id} ({type(error).__name__})",
            hint="check the network and the proxy (HTTPS_PROXY), "
            + (f"then {again}" if started else "or give the path of a local copy"),
        )
    if isinstance(error, OSError):
        return DownloadError(
            f"{repo_id} cannot be stored: {_one_line(error)}",
            hint="free some space, or choose another folder with the setting cache_dir (POLYLLAMA_CACHE_DIR)",
        )
    return DownloadError(f"{repo_id} cannot be fetched: {type(error).__name__}: {_one_line(error)}", hint=again)


def _http_library_error() -> type[Exception]:
    """What the HTTP library below huggingface_hub derives its errors from; it differs between versions."""
    from huggingface_hub.errors import HfHubHTTPError

    ours = ("builtins", "huggingface_hub.errors")
    return [c for c in HfHubHTTPError.__mro__ if issubclass(c, Exception) and c.__module__ not in ours][-1]


def _read_index(path: Path) -> list[str]:
    """The files that the index of sharded weights names, in order, each once."""
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8-sig"))["weight_map"]
        shards = sorted(set(weight_map.values()))
        if not shards or not all(isinstance(shard, str) and shard.endswith(".safetensors") for shard in shards):
            raise ValueError("weight_map names no safetensors files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DownloadError(
            f"{path}: not a usable index of sharded weights: {type(error).__name__}: {_one_line(error)}",
            hint="delete it to fetch it again",
        ) from error
    return shards


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise _Incomplete(f"the cache has it only in part ({name} missing)")
    return folder / name


def _what_there_is(available: set[str]) -> str:
    return f"it holds {few(sorted(available), 3)}" if available else "it is empty"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
