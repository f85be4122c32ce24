"""How the Hub is asked for files: as whom, from which folder of a repository, and whether again."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from ..errors import InputError, RegistryError
from ..messages import mention, subject

if TYPE_CHECKING:
    from ..settings.schema import Settings

HUB_ARGUMENTS = ("cache_dir", "token", "force_download", "subfolder", "gguf_file")
"""What calls name the attributes of :class:`HubAccess`."""


@dataclass(frozen=True)
class HubAccess:
    """What a call says about fetching, beside the revision and the settings; names are huggingface_hub's.

    Attributes:
        token: an access token; ``True`` for the one that ``hf auth login`` stored, ``False`` for none; ``None``: the
            stored one where there is one.
        force_download: fetch files again that are in the cache already.
        subfolder: the folder of the repository, or below the local folder, that holds the model.
        file: the one file that holds the model, such as a GGUF file among several; ``gguf_file`` in calls.
        cache_dir: the folder for downloads, instead of the setting.

    Raises:
        InputError: a value of the wrong type, or a path that leaves the repository.
    """

    token: str | bool | None = field(default=None, repr=False)
    force_download: bool = False
    subfolder: str = ""
    file: str | None = None
    cache_dir: Path | None = None

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> Self:
        """Take the keywords that are about the Hub out of a call's options.

        >>> options = {"subfolder": "fp16", "num_labels": 3}
        >>> HubAccess.taken_from(options).subfolder, options
        ('fp16', {'num_labels': 3})
        """
        given = {name: options.pop(name) for name in HUB_ARGUMENTS if name in options}
        if "gguf_file" in given:
            given["file"] = given.pop("gguf_file")
        return cls(**{name: value for name, value in given.items() if value is not None})

    def __post_init__(self) -> None:
        if self.token is not None and not isinstance(self.token, str | bool):
            raise InputError(f"token is a {type(self.token).__name__}, wanted text, True, False or None")
        if not isinstance(self.force_download, bool):
            given = self.force_download
            raise InputError(subject("force_download", given) + f" is {given!r}, wanted True or False")
        object.__setattr__(self, "subfolder", _inside("subfolder", "" if self.subfolder is None else self.subfolder))
        if self.cache_dir is not None:
            object.__setattr__(self, "cache_dir", _folder(self.cache_dir))
        if self.file is not None:
            object.__setattr__(self, "file", _inside("gguf_file", self.file))

    @property
    def prefix(self) -> str:
        """What the names of the model's files in the repository begin with."""
        return f"{self.subfolder}/" if self.subfolder else ""

    def within(self, folder: Path) -> Path:
        """Where the model is in a folder that holds the repository's files."""
        found = folder / self.subfolder if self.subfolder else folder
        return found if self.file is None else found / self.file

    def local(self, path: Path) -> Path:
        """Where the model is below a path of the user's.

        Raises:
            RegistryError: nothing is there.
        """
        found = self.within(path)
        if found is not path and not found.exists():
            name = "subfolder" if self.subfolder and not (path / self.subfolder).exists() else "gguf_file"
            value = self.subfolder if name == "subfolder" else self.file
            raise RegistryError(mention(name, value) + f": there is no {found}")
        return found


def _folder(value: object) -> Path:
    """A folder as an absolute path, so that a later change of folder does not move it."""
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise InputError(subject("cache_dir", value) + f" is {value!r:.80}, wanted the path of a folder")
    try:
        return Path.cwd() / Path(value).expanduser()
    except RuntimeError as error:
        raise InputError(subject("cache_dir", value) + f": {error}") from None


def _inside(name: str, value: object) -> str:
    """A relative path as the Hub writes it."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{name} is a {type(value).__name__}, wanted the path of a folder or file in the model's")
    text = PurePosixPath(os.fspath(value).replace(os.sep, "/")).as_posix()
    parts = text.split("/")
    if text.startswith("/") or ".." in parts or ":" in parts[0]:
        raise InputError(mention(name, os.fspath(value)) + " leaves the model's folder", hint="give a path inside it")
    return "" if text == "." else text


def local_only(offline: bool | None, local_files_only: bool | None) -> bool | None:
    """``offline`` and ``local_files_only`` as one; ``local_files_only=False`` leaves it to the settings.

    Raises:
        InputError: one says so and the other says not.

    >>> local_only(None, True), local_only(None, False), local_only(True, None)
    (True, None, True)
    """
    if local_files_only is not None and not isinstance(local_files_only, bool):
        raise InputError(
            subject("local_files_only", local_files_only) + f" is {local_files_only!r}, wanted True or False"
        )
    if local_files_only and offline is False:
        raise InputError(mention("local_files_only", True) + " and offline=False contradict each other")
    return True if local_files_only else offline


def refuse_forced_offline(access: HubAccess, settings: Settings) -> None:
    """Raise an error where files are to be fetched again and nothing may be fetched."""
    if access.force_download and settings.offline:
        raise InputError(
            mention("force_download", True) + f" fetches, but this is offline ({settings.provenance['offline']})",
            hint="leave one of them out",
        )


def refuse_revision(asked: str, path: Path, revision: str | None) -> None:
    """Raise an error where a version of files is asked for that lie on this machine; they have none but ``main``."""
    if revision not in (None, "main"):
        raise RegistryError(
            mention("revision", revision)
            + f" was asked of {asked!r}, which lies on this machine ({path}) and has no revisions",
            hint="leave " + mention("revision") + " out, or name a Hub repository",
        )
