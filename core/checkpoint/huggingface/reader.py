"""The Hugging Face folder: config.json beside model.safetensors, or an index and its shards; and its older form.

The older form has pytorch_model.bin, which torch.save wrote, in place of model.safetensors; everything else is alike.

Layout: https://huggingface.co/docs/transformers/big_models. Of several files the index decides, then the name
``model.safetensors``, then there must be one candidate only. The index's ``total_size`` is not believed or checked:
tools count shared tensors differently, and the headers of the shards are the truth.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ...errors import CheckpointError, ConfigError, refuse_lfs_pointer, warn
from ...messages import counted, few
from ..protocol import TensorInfo, check_finite, own_config, parse_strict_json, same_bytes
from .leftover import leftover_quantization
from .safetensors import MAX_HEADER_BYTES, SafetensorsFile

if TYPE_CHECKING:
    from ...config.schema import LlamaConfig
    from ..protocol import Array

CONFIG_NAME = "config.json"
SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_AGAIN = "download or save the checkpoint again"


class TensorFile(Protocol):
    """One file of tensors: checked when opened, mapped when read."""

    path: Path

    def tensors(self) -> Mapping[str, TensorInfo]: ...
    def read(self, name: str) -> Array: ...
    def release(self, name: str) -> None: ...


@dataclass(frozen=True)
class FileKind:
    """What the files of a folder are called, and what opens one."""

    suffix: str
    single: str
    open: Callable[[Path], TensorFile]
    adapters: tuple[str, ...]
    pattern: str = "*"

    @property
    def index(self) -> str:
        """Name of the file that places tensors in shards."""
        return f"{self.single}.index.json"

    def files(self, folder: Path) -> list[Path]:
        """Every file of this kind in a folder."""
        return sorted(folder.glob(self.pattern + self.suffix))


def _open_torch_file(path: Path) -> TensorFile:
    from ..pytorch.torch_file import TorchFile

    return TorchFile(path)


SAFETENSORS = FileKind(".safetensors", SINGLE_NAME, SafetensorsFile, ("adapter_model.safetensors",))
# Folders hold other .bin files too: optimizer states, arguments of the training.
PYTORCH = FileKind(".bin", "pytorch_model.bin", _open_torch_file, ("adapter_model.bin",), "*model*")


class HuggingFaceCheckpoint:
    """Files of one model, single or sharded, behind the ``Checkpoint`` interface.

    ``path`` is the folder, one file, or an index file. All headers are read and compared with the index when it is
    opened; values are mapped when read.

    Attributes:
        aliases: names that are not stored -> the stored tensor that they share, as safetensors' metadata says.
        unlisted: stored tensors that the index omits.
        misplaced: stored tensors -> the file in which the index places them, though another holds them.
        lost: tensors that the index names and no file holds -> the file in which it places them.
    """

    format = "huggingface"
    kind: ClassVar[FileKind] = SAFETENSORS

    def __init__(self, path: str | Path) -> None:
        kind = self.kind
        self.path = Path(path)
        self.folder = self.path if self.path.is_dir() else self.path.parent
        index = _index_file(self.path, kind)
        placed: Mapping[str, str] = {} if index is None else _read_index(index)
        if index is not None and self._is_out_of_date(index, placed):
            index, placed = None, {}
        if index is not None:
            files = _open_shards(self.folder, sorted(set(placed.values())), index, kind)
            if self.path.is_dir():  # whoever names one file has chosen
                _check_beside_index(index, {file.path for file in files}, kind)
        else:
            files = [kind.open(file) for file in _files_without_index(self.path, kind)]
        stored = {file.path.name: file.tensors() for file in files}
        right = {name: file for name, file in placed.items() if name in stored[file]}
        self._owner, self._copies = _owners(files, right)
        self.unlisted = frozenset(self._owner.keys() - placed.keys()) if placed else frozenset()
        wrong = {name: file for name, file in placed.items() if name not in right}
        self.misplaced = {name: file for name, file in wrong.items() if name in self._owner}
        self.lost = {name: file for name, file in wrong.items() if name not in self._owner}
        metadata = (getattr(file, "metadata", {}) for file in files)
        self.aliases = aliases_in({name: kept for said in metadata for name, kept in said.items()}, self._owner)
        self._tensors = {name: file.tensors()[name] for name, file in self._owner.items()}
        if not self._tensors:
            raise CheckpointError(f"{self.path}: holds no tensors at all", hint=_AGAIN)

    def _is_out_of_date(self, index: Path, placed: Mapping[str, str]) -> bool:
        """Whether a folder's index names shards that are gone, while the whole model lies beside it in one file."""
        missing = [name for name in sorted(set(placed.values())) if not (self.folder / name).exists()]
        single = self.kind.single
        if not missing or not self.path.is_dir() or not (self.folder / single).is_file():
            return False
        warn(f"{self.folder}: {single} is used; {index.name} is not, as files it names are missing: {few(missing)}")
        return True

    def config(self, **overrides: Any) -> LlamaConfig:
        """The configuration in the same folder, with fields overridden; ``ConfigError`` when there is none.

        Warns:
            PolyllamaWarning: it says that the weights are quantized, which they are not.
        """
        from ...config.schema import LlamaConfig

        with own_config():
            said = leftover_quantization(self._raw_config(), self._tensors, str(self.folder / CONFIG_NAME))
            return LlamaConfig.from_pretrained(self.folder, **said | overrides)

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every stored tensor by its stored name."""
        return self._tensors

    def read(self, name: str) -> Array:
        """One tensor over the file's private map, zero-copy."""
        file = self._owner.get(name)
        if file is None:
            raise CheckpointError(f"{self.path}: there is no tensor {name!r}")
        array = file.read(name)
        for copy in self._copies.pop(name, ()):
            _warn_of_another(file, copy, name, array)
        module, _, part = name.rpartition(".")
        if part in ("scales", "biases") and f"{module}.weight" in self._tensors and array.dtype.kind != "u":
            check_finite(array, f"{file.path}: tensor {name!r:.80}", part)
        return array

    def release(self, name: str) -> None:
        """Give back the memory that reading a tensor brought in; see ``MappedFile.release``."""
        self._owner[name].release(name)

    @property
    def model_type(self) -> str | None:
        """What config.json calls the architecture, if it says so."""
        value = self._raw_config().get("model_type")
        return value if isinstance(value, str) else None

    def _raw_config(self) -> Mapping[str, Any]:
        """What config.json says; nothing where it is broken or not there, which is LlamaConfig's to report."""
        from ...config.files import read_json_object

        try:
            return read_json_object(self.folder / CONFIG_NAME)
        except ConfigError:
            return {}


class HuggingFaceFormat:
    """The built-in reader: finds out whether a path is its own, and opens it."""

    name = "huggingface"

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether the path is a safetensors file, an index of them, or a folder that has either."""
        if path.is_dir():
            return any(path.glob("*.safetensors")) or (path / INDEX_NAME).is_file()
        return path.name.endswith((".safetensors", ".safetensors.index.json"))

    @staticmethod
    def open(path: Path) -> HuggingFaceCheckpoint:
        """Open it; ``CheckpointError`` names the file that is wrong."""
        return HuggingFaceCheckpoint(path)


class PyTorchCheckpoint(HuggingFaceCheckpoint):
    """The older form: pytorch_model.bin, or its index and shards, read without running their pickles."""

    format = "pytorch"
    kind = PYTORCH


class PyTorchFormat:
    """The reader of the older form."""

    name = "pytorch"

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether the path is a file of torch.save, an index of them, or a folder with pytorch_model files alone."""
        if path.is_dir():
            found = [file for file in PYTORCH.files(path) if file.name.startswith("pytorch_model")]
            return bool(found or (path / PYTORCH.index).is_file()) and not HuggingFaceFormat.detect(path)
        if path.name.endswith(".bin.index.json"):
            return True
        if path.suffix not in (".bin", ".pt", ".pth", ".ckpt") or is_meta_shard(path.name):
            return False
        with path.open("rb") as file:
            start = file.read(2)
        return start == b"PK" or (start[:1] == b"\x80" and start[1:] in (b"\2", b"\3", b"\4", b"\5"))

    @staticmethod
    def open(path: Path) -> PyTorchCheckpoint:
        """Open it; ``CheckpointError`` names the file that is wrong."""
        return PyTorchCheckpoint(path)


def is_meta_shard(name: str) -> bool:
    """Whether a file is named as Meta names the shards of its originals.

    >>> is_meta_shard("consolidated.00.pth"), is_meta_shard("pytorch_model.bin")
    (True, False)
    """
    return re.fullmatch(r"consolidated\.\d+\.pth", name) is not None


def _index_file(path: Path, kind: FileKind) -> Path | None:
    if path.name.endswith(".index.json"):
        return path
    index = path / kind.index
    return index if path.is_dir() and index.is_file() else None


def _read_index(index: Path) -> dict[str, str]:
    """``weight_map`` with every file name checked: the index must not reach outside its folder."""
    if index.exists() and not index.is_file():  # opening a pipe would wait forever
        raise CheckpointError(f"{index}: is not a regular file")
    try:
        with index.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size) if size <= MAX_HEADER_BYTES else b""
    except OSError as error:
        raise CheckpointError(f"{index}: cannot be read ({error.strerror})") from None
    if size > MAX_HEADER_BYTES:
        raise CheckpointError(f"{index}: is larger than {MAX_HEADER_BYTES:,} bytes", hint="do not trust this file")
    refuse_lfs_pointer(data[:64], index, CheckpointError)
    raw = parse_strict_json(data, index, "index")
    placed = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{index}: has no weight_map of tensor names to file names", hint=_AGAIN)
    for name, file in placed.items():
        if not isinstance(file, str) or not is_plain_name(file):
            raise CheckpointError(
                f"{index}: places tensor {name!r} in {file!r}, which is not the name of a file in this folder",
                hint="do not trust this checkpoint",
            )
    return placed


def is_plain_name(name: str) -> bool:
    """Whether a file name stays in its folder on every system: no separators, drives, dots alone or control bytes.

    >>> is_plain_name("model-00001-of-00002.safetensors"), is_plain_name("../../etc/passwd"), is_plain_name("C:x")
    (True, False, False)
    """
    fits = name.isprintable() and len(name.encode()) <= 255
    return fits and name.strip(" .") != "" and not any(c in name for c in "/\\:")


def _open_shards(folder: Path, names: list[str], index: Path, kind: FileKind) -> list[TensorFile]:
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise CheckpointError(
            f"{index}: {len(missing)} of {counted(len(names), 'file')} it names are missing: {few(missing)}",
            hint="the download is incomplete: run it again",
        )
    return [kind.open(folder / name) for name in names]


def _owners(
    files: Sequence[TensorFile], placed: Mapping[str, str]
) -> tuple[dict[str, TensorFile], dict[str, list[TensorFile]]]:
    """The file of each tensor, and the others that hold one of its name; the index decides, where it is right.

    Raises:
        CheckpointError: two files hold different tensors of a name that no index places.
    """
    owner: dict[str, TensorFile] = {}
    copies: dict[str, list[TensorFile]] = {}
    for file in files:
        for name in file.tensors():
            if name not in placed and name in owner and not same_bytes(owner[name].read(name), file.read(name)):
                raise CheckpointError(
                    f"tensor {name!r} lies in both {owner[name].path} and {file.path}, and is not the same there",
                    hint="the files belong to different checkpoints: keep one set, or add its index",
                )
            if placed.get(name, file.path.name) != file.path.name:
                copies.setdefault(name, []).append(file)
            else:
                owner.setdefault(name, file)
    return owner, copies


def _warn_of_another(used: TensorFile, other: TensorFile, name: str, array: Array) -> None:
    """Say so when a file beside the one that the index names holds another tensor of the same name."""
    if not same_bytes(array, other.read(name)):
        warn(
            f"{other.path}: its {name!r} is not used, though it differs from the one in {used.path.name}, "
            "where the index places it"
        )


def aliases_in(metadata: Mapping[str, str], stored: Collection[str]) -> dict[str, str]:
    """What safetensors' ``save_model`` notes of tensors that share memory: dropped name -> the name that is stored."""
    return {name: kept for name, kept in metadata.items() if name not in stored and kept in stored}


def _files_without_index(path: Path, kind: FileKind) -> list[Path]:
    """The weights of a path that has no index: one file, or a complete set of numbered shards."""
    if not path.is_dir():
        if not path.exists() and not path.is_symlink():
            raise CheckpointError(f"{path}: there is no such file")
        return [path]
    candidates = kind.files(path)
    adapters = [file for file in candidates if file.name in kind.adapters]
    candidates = [file for file in candidates if file.name not in kind.adapters]
    if not candidates and adapters:
        raise CheckpointError(
            f"{adapters[0]}: is a PEFT adapter, not a model",
            hint="load the base model, or merge first with peft's merge_and_unload() and save that",
        )
    if not candidates:
        raise CheckpointError(f"{path}: holds no {kind.suffix} file of a model", hint=_AGAIN)
    named = [file for file in candidates if file.name == kind.single]
    chosen = named or candidates
    if len(chosen) > 1 and not _is_complete_set(chosen, path, kind):
        raise CheckpointError(
            f"{path}: holds {len(chosen)} {kind.suffix} files and no {kind.index}: "
            f"{few([file.name for file in chosen])}",
            hint="give the path of one of them, or download the index too",
        )
    _warn_unused(path, [file.name for file in (*candidates, *adapters) if file not in chosen])
    return chosen


def _check_beside_index(index: Path, used: set[Path], kind: FileKind) -> None:
    unused = [file.name for file in kind.files(index.parent) if file not in used]
    if kind.single in unused:
        raise CheckpointError(
            f"{index.parent}: holds two sets of weights, {kind.single} and the shards that {kind.index} names",
            hint="give the path of one of these two files, or remove the one that is out of date",
        )
    _warn_unused(index.parent, unused)


def _warn_unused(folder: Path, unused: list[str]) -> None:
    if unused:
        warn(f"{folder}: not used, as they are not part of the model: {few(unused)}")


def _is_complete_set(files: list[Path], folder: Path, kind: FileKind) -> bool:
    """Whether the names are one series numbered 1 to N of N; an error lists what is missing of an incomplete one."""
    numbered = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})" + re.escape(kind.suffix))
    matches = [match for file in files if (match := numbered.fullmatch(file.name))]
    if len(matches) != len(files) or len({(m["stem"], m["count"]) for m in matches}) != 1:
        return False
    stem, count = matches[0]["stem"], matches[0]["count"]
    present = {int(m["number"]) for m in matches}
    missing = [f"{stem}-{n:05d}-of-{count}{kind.suffix}" for n in range(1, int(count) + 1) if n not in present]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {int(count)} shards are missing: {few(missing)}",
            hint="the download is incomplete: run it again",
        )
    return True
