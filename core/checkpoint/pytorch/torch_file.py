"""One file of ``torch.save``: its tensors described and mapped, its pickle never run.

Layout (``torch/serialization.py``): a ZIP archive whose members are stored uncompressed under one folder:
``data.pkl`` describes the tensors, ``data/KEY`` holds the values of each storage, ``byteorder`` says in which order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...dtypes import itemsize
from ...errors import CheckpointError
from ..mapped import MappedFile
from ..protocol import TensorInfo
from .pickle_reader import MAX_PICKLE_BYTES, StoredTensor, read_pickle
from .zip_archive import Member, zip_members

if TYPE_CHECKING:
    from ..protocol import Array

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How a file of torch before 1.6 begins: the pickle of a magic number."""
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")


class TorchFile:
    """One ``.bin``, ``.pth`` or ``.pt`` file, checked when opened, its tensors mapped when read.

    Raises:
        CheckpointError: the file is damaged, of the format before torch 1.6, or holds anything but named tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path, "a PyTorch file", 4)
        _check_kind(self._file)
        members = zip_members(self._file)
        root = _root(members, path)
        self._storages = {name.removeprefix(f"{root}data/"): m for name, m in members.items()}
        order = members.get(f"{root}byteorder")
        if order is not None and self._bytes(order)[:3] == b"big":
            raise CheckpointError(f"{path}: its values are big-endian", hint="save it again on a common machine")
        pickled = members[f"{root}data.pkl"]
        if pickled.nbytes > MAX_PICKLE_BYTES:
            raise CheckpointError(f"{path}: its pickle has {pickled.nbytes:,} bytes, more than any model's")
        described = _state_dict(read_pickle(self._bytes(pickled), path), path)
        self._places: dict[str, tuple[StoredTensor, int]] = {}
        self._tensors: dict[str, TensorInfo] = {}
        for name, tensor in described.items():
            self._places[name] = (tensor, self._place(name, tensor))
            self._tensors[name] = TensorInfo(name, tensor.dtype, tensor.shape, path)

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor in the file by name."""
        return self._tensors

    def read(self, name: str) -> Array:
        """One tensor, row-major; mapped where it is stored so, copied where its strides say otherwise."""
        import numpy as np

        if name not in self._places:
            raise CheckpointError(f"{self.path}: there is no tensor {name!r}")
        tensor, start = self._places[name]
        if math.prod(tensor.shape) == 0:
            return self._file.array(tensor.dtype, tensor.shape, 0)
        if _is_row_major(tensor):
            return self._file.array(tensor.dtype, tensor.shape, start)
        flat = self._file.array(tensor.dtype, (_span(tensor),), start)
        strides = [stride * flat.itemsize for stride in tensor.strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, tensor.shape, strides))

    def release(self, name: str) -> None:
        """Give back the memory that reading the tensor brought in; see ``MappedFile.release``."""
        tensor, start = self._places[name]
        self._file.release(start, _span(tensor) * itemsize(tensor.dtype))

    def _bytes(self, member: Member) -> bytes:
        return self._file.data[member.offset : member.offset + member.nbytes]

    def _place(self, name: str, tensor: StoredTensor) -> int:
        """Where the tensor's first value lies, having checked that all of them lie in its storage."""
        where = f"{self.path}: tensor {name!r:.80}"
        size = itemsize(tensor.dtype)
        member = self._storages.get(tensor.storage.key)
        if member is None:
            raise CheckpointError(f"{where}: its values, data/{tensor.storage.key:.40}, are not in the file")
        if tensor.storage.count * itemsize(tensor.storage.dtype) != member.nbytes:
            raise CheckpointError(
                f"{where}: its storage should have {tensor.storage.count:,} values of {tensor.storage.dtype}, "
                f"but has {member.nbytes:,} bytes"
            )
        if (tensor.offset + _span(tensor)) * size > member.nbytes:
            raise CheckpointError(f"{where}: shape {list(tensor.shape)} reaches outside its storage")
        if math.prod(tensor.shape) > _span(tensor):
            raise CheckpointError(
                f"{where}: shape {list(tensor.shape)} has more values than are stored (it is an expanded tensor)",
                hint="save it again after .contiguous()",
            )
        return member.offset + tensor.offset * size


def _check_kind(file: MappedFile) -> None:
    start = file.data[:64]
    if start.startswith(b"PK\3\4"):
        return
    if start.startswith(_LEGACY):
        raise CheckpointError(
            f"{file.path}: is in PyTorch's format from before version 1.6 (2020), which is not read",
            hint="save it again: torch.save(torch.load(FILE, weights_only=True), FILE)",
        )
    if start.startswith(b"\x80") and len(start) > 1 and start[1] <= 5:
        raise CheckpointError(
            f"{file.path}: is a bare Python pickle, which can run any code when read, so it never is",
            hint="save the weights as safetensors",
        )
    raise CheckpointError(f"{file.path}: is no file of torch.save (it begins with {start[:8]!r})")


def _root(members: Mapping[str, Member], path: Path) -> str:
    """The folder inside the archive; torch names it after the file, so it may be anything."""
    roots = [name.removesuffix("data.pkl") for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) != 1:
        script = any(name.endswith("constants.pkl") for name in members)
        what = "is a TorchScript program" if script else "is a ZIP archive, but not one of torch.save"
        raise CheckpointError(f"{path}: {what}", hint="save the model's state_dict() instead")
    return roots[0]


def _state_dict(found: Any, path: Path) -> dict[str, StoredTensor]:
    hint = "save model.state_dict() alone, best as safetensors"
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds a {type(found).__name__}, not a dictionary of tensors", hint=hint)
    for name in _WRAPPERS:
        inner = found.get(name)
        if isinstance(inner, dict):
            raise CheckpointError(
                f"{path}: is a training checkpoint; its weights lie under the key {name!r}", hint=hint
            )
    for name, value in found.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: holds a {type(name).__name__} where a tensor's name is expected", hint=hint)
        if not isinstance(value, StoredTensor):
            raise CheckpointError(f"{path}: holds a {type(value).__name__} under {name!r:.80}, not a tensor", hint=hint)
    return found


def _span(tensor: StoredTensor) -> int:
    """How many values of the storage lie between the first and the last of the tensor, both included."""
    if math.prod(tensor.shape) == 0:
        return 0
    return 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))


def _is_row_major(tensor: StoredTensor) -> bool:
    expected = 1
    for n, stride in zip(tensor.shape[::-1], tensor.strides[::-1], strict=True):
        if n != 1 and stride != expected:
            return False
        expected *= n
    return True
