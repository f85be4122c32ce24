"""What a caller may name a model by: text or a path. Anything else is an error before it is looked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import InputError, RegistryError
from ..messages import mention, subject


def check_name(source: object) -> None:
    """Raise an error for what cannot name a model.

    Raises:
        InputError: no text and no path.
        RegistryError: the empty text.
    """
    if source is None:
        raise InputError("no model was named", hint="give a name, a Hub repository or a folder")
    if not isinstance(source, str | os.PathLike) or not isinstance(os.fspath(source), str):
        raise InputError(f"a model is named by text or a path, not by a {type(source).__name__}")
    if isinstance(source, str) and not source.strip():
        raise RegistryError(
            "no model was named", hint="`polyllama models` lists the names; a path or org/name works too"
        )


def as_path(source: Any) -> Path:
    """The path that a source would be, with a home folder in the place of ``~``; checked as a name first.

    Raises:
        RegistryError: whose home it is, nobody knows.
    """
    check_name(source)
    try:
        return Path(source).expanduser()
    except RuntimeError as error:
        raise RegistryError(f"{str(source)!r:.80}: {error}") from None


def path_given(name: str, value: Any) -> Path:
    """The path of an argument that is one, with a home folder in the place of ``~``.

    Args:
        name: what the argument is called.

    Raises:
        InputError: it is no path.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str) or not str(value):
        raise InputError(subject(name, value) + f" is {value!r:.60}, wanted a path")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise InputError(mention(name, str(value)) + f": {error}") from None


def exists(path: Path) -> bool:
    """Whether there is such a file or folder.

    Raises:
        RegistryError: the system will not say, as of a name that is too long for it.
    """
    try:
        return path.exists()
    except OSError as error:
        raise RegistryError(f"{str(path)[:80]!r} cannot be looked up: {error.strerror or error}") from None
