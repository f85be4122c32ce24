"""Finding the reader for a path: the built-in one and those of plugins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from ..errors import CheckpointError, PolyllamaError, UnsupportedError, refuse_lfs_pointer, warn
from ..messages import did_you_mean, few, mention
from ..public import for_plugins
from .guarded import GuardedCheckpoint, blaming, format_label, is_foreign
from .huggingface.reader import HuggingFaceFormat
from .protocol import Checkpoint

_OTHERS = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".gguf", ".npz")


@for_plugins
class FormatReader(Protocol):
    """What a format descriptor loads: recognizes its own files and opens them."""

    def detect(self, path: Path) -> bool:
        """Whether this reader can open the path; looks at names and first bytes only."""
        ...

    def open(self, path: Path) -> Checkpoint:
        """Open it; ``CheckpointError`` names the file that is wrong."""
        ...


class FormatDescriptor(Protocol):
    """A named format whose reader is imported when it is needed."""

    @property
    def name(self) -> str: ...

    def load(self) -> Any:
        """Import the reader: an object (or class) with ``detect`` and ``open``."""
        ...


class _BuiltIn:
    name = HuggingFaceFormat.name

    def load(self) -> type[HuggingFaceFormat]:
        return HuggingFaceFormat


def open_checkpoint(
    path: str | Path,
    load_format: str = "auto",
    formats: Iterable[FormatDescriptor] | Mapping[str, FormatDescriptor] | None = None,
) -> Checkpoint:
    """Open a folder or file of weights with the one reader that recognizes it, or with the one named.

    ``formats`` are the descriptors of every installed reader; None means the built-in Hugging Face one alone.

    Raises:
        CheckpointError: nothing is there, no reader or several recognize it, or its reader finds it broken.
        PluginError: the reader of another package failed.
        UnsupportedError: no reader has the name ``load_format``.

    >>> try:
    ...     open_checkpoint("/nowhere")
    ... except CheckpointError as error:
    ...     print(error)
    /nowhere: there is no such file or folder
    """
    path = Path(path)
    offered = [_BuiltIn()] if formats is None else formats.values() if isinstance(formats, Mapping) else formats
    descriptors = {d.name: d for d in offered}
    if not path.exists():
        if path.is_symlink():
            raise CheckpointError(f"{path}: is a link to something that is not there", hint="download it again")
        raise CheckpointError(f"{path}: there is no such file or folder")
    if load_format != "auto":
        for descriptor in list(descriptors.values()):
            descriptors |= dict.fromkeys(getattr(descriptor, "aliases", ()), descriptor)
        if not isinstance(load_format, str) or load_format not in descriptors:
            words = {word: d.name for d in reversed(list(offered)) for word in getattr(d, "words", tuple)()}
            known = f"use auto or one of {', '.join(descriptors)}"
            meant = did_you_mean(load_format, ["auto", "dummy", *descriptors], spellings=words)
            hint = f"{meant} {known}" if meant else known
            raise UnsupportedError(f"no checkpoint format {load_format!r}", hint=hint)
        return _open(descriptors[load_format], path)
    found = [name for name, descriptor in descriptors.items() if _detects(descriptor, path)]
    if not found:
        raise _unrecognized(path, descriptors)
    if len(found) > 1:
        raise CheckpointError(
            f"{path}: could be read as {' or '.join(found)}", hint="choose one: " + mention("load_format", found[0])
        )
    return _open(descriptors[found[0]], path)


def _open(descriptor: FormatDescriptor, path: Path) -> Checkpoint:
    reader = descriptor.load()
    with blaming(descriptor, f"opening {path}"):
        opened = reader.open(path)
    return GuardedCheckpoint(opened, descriptor, path) if is_foreign(descriptor) else cast(Checkpoint, opened)


def _detects(descriptor: FormatDescriptor, path: Path) -> bool:
    """Whether a reader takes the path. A broken plugin must not keep the others from working, but it is named.

    A reader that says which files its folders have is imported only where there is one of them.
    """
    patterns: Sequence[str] = getattr(descriptor, "files", ())
    try:
        if patterns and path.is_dir() and not any(any(path.glob(pattern)) for pattern in patterns):
            return False
        return bool(descriptor.load().detect(path))
    except Exception as error:
        reason = str(error) if isinstance(error, PolyllamaError) else f"{type(error).__name__}: {error}"
        warn(f"{format_label(descriptor)} not tried on {path}: {reason}")
        return False


def _unrecognized(path: Path, formats: Mapping[str, FormatDescriptor]) -> CheckpointError:
    names = sorted(file.name for file in path.iterdir()) if path.is_dir() else [path.name]
    others = [name for name in names if name.endswith(_OTHERS)]
    unfinished = [name for name in names if name.endswith((".incomplete", ".part", ".partial", ".crdownload"))]
    where = f"{path}" if path.is_dir() else f"{path.parent}"
    for name in others:
        with contextlib.suppress(OSError), (path / name if path.is_dir() else path).open("rb") as file:
            refuse_lfs_pointer(file.read(64), file.name, CheckpointError)
    alone = [name for name in others if path.is_dir() and any(_detects(d, path / name) for d in formats.values())]
    if alone:
        files = "a file that is" if len(alone) == 1 else "files that are"
        return CheckpointError(
            f"{path}: holds {few(alone)}, {files} not called as a folder's weights are, so no reader takes the folder",
            hint=f"give the path of {'the' if len(alone) == 1 else 'one'} file: {path / alone[0]}",
        )
    if others:
        return CheckpointError(
            f"{where}: {few(others)} {'are files' if len(others) > 1 else 'is a file'} "
            f"that no installed reader knows (installed: {', '.join(formats)})",
            hint="the file may be cut off or of another kind than its name says; "
            + mention("load_format", shown="NAME")
            + " says why a reader does not take it",
        )
    if unfinished:
        return CheckpointError(f"{where}: the download of {few(unfinished)} was not finished", hint="run it again")
    if path.is_dir():
        below = sorted({str(file.parent) for file in path.glob("*/*.safetensors")})
        hint = f"did you mean {few(below, 3)}?" if below else "a model is config.json beside model.safetensors"
        return CheckpointError(
            f"{path}: holds no weights that an installed reader knows ({', '.join(formats)})", hint=hint
        )
    return CheckpointError(
        f"{path}: no installed reader knows this file ({', '.join(formats)})",
        hint="give a model's folder, or a file of weights",
    )
