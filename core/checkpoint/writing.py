"""What a format that writes is given, and how what it writes comes into place whole.

Everything is written into a hidden folder beside the destination, under a lock, and takes the final name only when it
is complete; so a conversion that is interrupted, or runs out of space, leaves nothing that looks like a model.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import CheckpointError, InputError
from ..messages import few
from ..public import for_plugins
from .locking import locked
from .tensor_summary import bytes_text

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig
    from ..tokenizer.tokenizer import Tokenizer
    from .weights import Weights

Progress = Callable[[str, int, int], None]
"""Called with a tensor's name, the bytes done before it and the bytes of all."""

_UNFINISHED = ".converting"
_OURS = (_UNFINISHED, ".saving.lock")
_MODEL_SUFFIXES = (".safetensors", ".json", ".gguf", ".pth", ".bin", ".model", ".jinja", ".chk", ".md", ".txt")
_PACKED = re.compile(r"polyllama-\w+\.packed")  # weights as a backend reads them: made from the model, and made again
_SPARE_BYTES = 32 << 20  # tokenizer, configuration, padding; a small model's are small


@for_plugins
@dataclass(frozen=True)
class ModelToWrite:
    """A model on its way into another format.

    Attributes:
        name: what to call it, where the format has a place for a name.
        config: the configuration; ``dtype`` is that of the weights.
        weights: parameter name -> array, read one at a time. Go through it once, in any order, and keep no array: the
            memory behind one is given back when the next is read.
        packed: module -> (group size, bits) of those whose ``weight``, ``scales`` and ``biases`` are packed; empty
            unless the format's class says ``keeps_packed``.
        tokenizer: the tokenizer; None where there is none.
        folder: the folder of the source where its files may be worth copying: tokenizer, generation defaults.
        max_shard_size: the largest file of weights that is wanted.
    """

    name: str
    config: LlamaConfig
    weights: Weights
    packed: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    folder: Path | None = None
    max_shard_size: int | str = "5GB"


@for_plugins
class FormatWriter(Protocol):
    """What a format whose descriptor says ``writes`` has beside its reader.

    ``suffix``: "" for a format that is a folder, else that of its single file (".gguf"). ``keeps_packed``: whether it
    is handed packed weights as they are, instead of floats. ``sharded``: whether it heeds ``max_shard_size``.

    A format with types of its own for packed weights may have ``quantizing(text)`` beside: for ``"int8"`` or
    ``"int4-g32"`` it returns bits and group size as the format holds them, and what rounds a matrix, given with its
    name, to it, with scales and biases in float16; or raises ``UnsupportedError``. Without it the layout is MLX's.
    """

    suffix: str
    keeps_packed: bool
    sharded: bool

    def write(self, model: ModelToWrite, target: Path) -> None:
        """Write the model as the file `target`, or into the new folder `target`.

        Raises:
            UnsupportedError: the format has no way to say something of the model; names it.
        """
        ...


@contextlib.contextmanager
def placed(destination: Path, suffix: str, needed: int, *, overwrite: bool) -> Iterator[Path]:
    """Where to write so that it appears as ``destination`` when the block ends well.

    Args:
        destination: the final file or folder.
        suffix: of a format that is a single file; a destination without it is a folder to put ``model<suffix>`` into.
        needed: bytes of weights, to be sure beforehand that there is space.
        overwrite: replace what is there.

    Raises:
        CheckpointError: something is there, another process is writing there, there is no space.
    """
    single = bool(suffix) and destination.suffix == suffix
    destination = Path(os.path.abspath(destination))
    check_free(destination, overwrite=overwrite, single=single)
    # An empty folder is filled, not replaced: somebody may be in it, or have mounted a disk there.
    fill = _is_empty_folder(destination)
    home = destination if fill else destination.parent
    if home.exists() and not home.is_dir():
        raise CheckpointError(f"{home}: is a file where a folder is to be", hint="choose another place")
    try:
        home.mkdir(parents=True, exist_ok=True)
        with locked(destination, inside=fill):
            _remove_remains(home, destination.name)
            _check_space(home, needed)
            check_free(destination, overwrite=overwrite, single=single)  # it may have come meanwhile
            staging = home / f".{destination.name}.{secrets.token_hex(4)}{_UNFINISHED}"
            staging.mkdir()
            try:
                target = staging / (destination.name if single else f"model{suffix}") if suffix else staging
                yield target
                _sync(staging)
                if fill:
                    _move_into(staging, destination)
                else:
                    _move(target if single else staging, destination)
            except CheckpointError as error:  # of a place that nobody has heard of
                message = error.message.replace(str(staging), str(destination))
                raise type(error)(message, hint=error.hint) from None
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"{destination}: cannot be written ({error.strerror or error})") from None


def check_free(destination: Path, *, overwrite: bool, single: bool) -> None:
    """Refuse a destination that is there already, but for an empty folder; with `overwrite`, one that is no model.

    Raises:
        CheckpointError: says what is there.
    """
    if not os.path.lexists(destination):
        return
    folder = destination.is_dir()
    if folder and single:
        raise CheckpointError(f"{destination}: is a folder where a file is to be written", hint="choose another place")
    if _is_empty_folder(destination):
        return
    if not overwrite:
        raise CheckpointError(
            f"{destination}: is there already", hint="choose another place, or overwrite it (--overwrite)"
        )
    if not folder and not single:
        raise CheckpointError(f"{destination}: is a file where a folder is to be written", hint="choose another place")
    if folder and (strangers := _no_part_of_a_model(destination)):
        raise CheckpointError(
            f"{destination}: is not overwritten, as it holds {few(strangers, 4)}, which is no part of a model",
            hint="choose another place, or move that away",
        )


def _is_empty_folder(path: Path) -> bool:
    """Whether there is nothing in it, but for the lock and the remains of conversions."""
    return path.is_dir() and all(entry.name.startswith(".") and entry.name.endswith(_OURS) for entry in path.iterdir())


def _no_part_of_a_model(folder: Path) -> list[str]:
    """What in a folder would be lost although no checkpoint brought it."""
    from ..sources.download import TEMPLATE_FOLDER

    known = (*_MODEL_SUFFIXES, "LICENSE", "USE_POLICY", ".gitattributes", "NOTICE")

    def is_known(entry: Path) -> bool:
        if entry.is_dir():
            return entry.name == TEMPLATE_FOLDER.strip("/")
        return entry.name.endswith(known) or _PACKED.fullmatch(entry.name) is not None

    return sorted(entry.name for entry in folder.iterdir() if not is_known(entry))


def check_apart(destination: Path, source: Path | None) -> None:
    """Refuse to write over, into or around what is being read."""
    if source is None:
        return
    one, other = destination.resolve(), source.resolve()
    if one == other or one in other.parents or (source.is_dir() and other in one.parents):
        raise InputError(f"{destination}: overlaps with {source}, which is read", hint="choose another place")


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    needed += min(_SPARE_BYTES, needed // 2)
    if needed > free:
        raise CheckpointError(
            f"{folder}: writing takes {bytes_text(needed)}, only {bytes_text(free)} are free",
            hint="make room, or choose another place",
        )


def _remove_remains(parent: Path, name: str) -> None:
    """What a process that was killed has left behind; the lock says that none is at work."""
    import glob

    for remains in parent.glob(f".{glob.escape(name)}.*{_UNFINISHED}"):
        shutil.rmtree(remains, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Have every file on the disk before it gets its name."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())


def _move_into(made: Path, folder: Path) -> None:
    """Give finished files their names; last the configuration, without which they are no model."""
    for entry in sorted(made.iterdir(), key=lambda entry: entry.suffix == ".json"):
        os.rename(entry, folder / entry.name)


def _move(made: Path, destination: Path) -> None:
    """Give what was made its final name, and only then remove what had it."""
    old: Path | None = None
    if destination.is_dir() and not destination.is_symlink():
        old = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.replaced")
        os.rename(destination, old)
    elif made.is_dir() and destination.is_symlink():
        destination.unlink()
    try:
        os.replace(made, destination)
    except BaseException:
        if old is not None and not destination.exists():
            os.rename(old, destination)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def without_place(what: str, format_name: str, hint: str | None = None) -> Any:
    """The error for something that a format cannot say."""
    from ..errors import UnsupportedError

    return UnsupportedError(f"{format_name} has no place for {what}", hint=hint)
