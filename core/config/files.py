"""Reading and writing the JSON file a configuration lives in. A file is somebody else's: nothing in it is trusted."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, refuse_lfs_pointer
from .problems import show

MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 64


def find_config(path: Path) -> Path:
    """The configuration file of a folder (``config.json``, else ``params.json``), or the path itself if a file."""
    if path.is_dir():
        for name in ("config.json", "params.json"):
            if (path / name).exists():
                return path / name
        raise ConfigError(
            f"{path}: holds neither config.json nor params.json", hint="give the folder of a Llama checkpoint"
        )
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder", hint="give the folder that holds config.json")
    return path


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ConfigError: missing, unreadable, larger than 16 MiB, not UTF-8, not JSON, not an object, a key twice, or nested
            deeper than 64; the message starts with the file's name.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: not a file", hint="a configuration is a JSON file")
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size  # reading takes the memory for all that is asked for
            content = stream.read(min(size, MAX_BYTES) + 1)
    except OSError as problem:
        raise ConfigError(f"{path}: cannot be read: {problem.strerror or problem}") from problem
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than 16 MiB", hint="a configuration is a few KiB of JSON: is this the file?")
    refuse_lfs_pointer(content[:64], path, ConfigError)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{path}: not UTF-8 text (byte {problem.start})", hint="is this a JSON file?") from problem
    try:
        raw = json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ConfigError(f"{path}: nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as problem:
        raise ConfigError(f"{path}: not valid JSON: {problem}", hint="is the file cut off?") from problem
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path}: must hold a JSON object, but holds a {type(raw).__name__}", hint='it starts with "{"'
        )
    return raw


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {show(twice)} appears twice")
    return found


def not_json(value: Any, ancestors: tuple[int, ...] = ()) -> str | None:
    """Why a value cannot be stored as JSON, or ``None`` if it can.

    >>> not_json({"a": [1, None, "x"]}), not_json(float("nan")), not_json({1})
    (None, 'nan is not a finite number', 'a set is no JSON value')
    """
    if isinstance(value, int) and value.bit_length() > 1024:
        return "the number is too large"  # Python itself refuses to write integers of some thousand digits
    if value is None or isinstance(value, bool | int | str):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value} is not a finite number"
    if not isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__} is no JSON value"
    if id(value) in ancestors:
        return "it contains itself"
    if len(ancestors) >= MAX_DEPTH:
        return f"it is nested deeper than {MAX_DEPTH} levels"
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                return f"the key {show(key)} is not text"
    for item in value.values() if isinstance(value, dict) else value:
        reason = not_json(item, (*ancestors, id(value)))
        if reason:
            return reason
    return None


def write_json(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Write a JSON file so that it appears under its name only when whole; the folder is made if need be."""
    target = folder / name
    part = folder / f".{name}.{secrets.token_hex(6)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("x", encoding="utf-8") as stream:
            json.dump(content, stream, indent=2, sort_keys=True, allow_nan=False)
            stream.write("\n")
        os.replace(part, target)
    except OSError as problem:
        raise ConfigError(f"{target}: cannot be written: {problem.strerror or problem}") from problem
    finally:
        with contextlib.suppress(OSError):  # gone after the rename; never made where the folder could not be
            part.unlink()
    return target
