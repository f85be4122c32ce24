"""Reading a safetensors file without copying: header checks and a private memory map.

Format (https://github.com/huggingface/safetensors#format): eight bytes of little-endian header length, that many bytes
of JSON (at most 100 MB), then the values, little-endian and row-major. ``data_offsets`` count from the end of the
header and must cover the rest of the file without holes or overlaps. ``__metadata__`` maps strings to strings.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...dtypes import from_safetensors_code, itemsize
from ...errors import CheckpointError, UnsupportedError
from ...messages import shortened
from ...public import for_plugins
from ..mapped import INCOMPLETE as _CORRUPT
from ..mapped import MappedFile
from ..protocol import TensorInfo, parse_strict_json

if TYPE_CHECKING:
    import mmap

    from ..protocol import Array

MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSIONS = 32  # what every NumPy can hold
_MAX_BYTES = 2**63 - 1
_ENTRY_FIELDS = {"dtype", "shape", "data_offsets"}

# What people have in place of a safetensors file, by its first bytes.
_LOOK_ALIKES = (
    (b"PK\x03\x04", "is a PyTorch pickle archive, which is never loaded", "convert it to safetensors"),
    (b"\x80\x02", "is a Python pickle, which is never loaded", "convert it to safetensors"),
    (b"GGUF", "is a GGUF file with the wrong name", "rename it to .gguf"),
    (b"<!DOCTYPE", "is a web page, not weights", "download it again; the address may need you to log in"),
    (b"<html", "is a web page, not weights", "download it again; the address may need you to log in"),
)


@for_plugins
class SafetensorsFile:
    """One safetensors file, checked when opened, its tensors mapped when read.

    Opening reads only the header and raises ``CheckpointError``, naming the file, for anything the format forbids.
    ``read`` returns arrays over a private copy-on-write map: no bytes are copied, writing to an array never changes
    the file, and the arrays stay valid after this object is gone. The file must not be shortened in place meanwhile
    (replacing it by a rename is fine).

    >>> import tempfile, numpy as np
    >>> from polyllama.core.checkpoint.huggingface.save_safetensors import save_safetensors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path] = save_safetensors(folder, [("weight", np.arange(6, dtype=np.float32).reshape(2, 3))])
    ...     SafetensorsFile(path).read("weight").sum().item()
    15.0
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = MappedFile(self.path, "a safetensors file", 8)
        size = self._file.size
        self._data_start = _header_end(self._file.data, size, self.path)
        raw = self._file.data[8 : self._data_start]
        if not raw.startswith(b"{"):
            raise CheckpointError(f"{self.path}: the header does not start with '{{'", hint=_CORRUPT)
        header = parse_strict_json(raw, self.path, "header")
        self.metadata: Mapping[str, str] = read_metadata(header.pop("__metadata__", {}), self.path)
        self._tensors: dict[str, TensorInfo] = {}
        self._starts: dict[str, int] = {}
        spans: list[tuple[int, int, str]] = []
        for name, entry in header.items():
            self._tensors[name], start, end = read_entry(name, entry, self.path)
            self._starts[name] = start
            spans.append((start, end, name))
        check_spans(spans, size - self._data_start, self.path)

    @property
    def data_start(self) -> int:
        """The byte at which the header ends and values begin."""
        return self._data_start

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._file.size

    def raw(self, start: int, count: int) -> bytes:
        """Bytes as they are in the file, whatever they belong to; fewer where it ends before."""
        return self._file.data[start : start + count]

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor in the file by name."""
        return self._tensors

    def read(self, name: str) -> Array:
        """One tensor, shape as stored; copied only when its place in the file is not a multiple of its item size."""
        info = self._tensors.get(name)
        if info is None:
            raise CheckpointError(f"{self.path}: there is no tensor {name!r}")
        return self._file.array(info.dtype, info.shape, self._data_start + self._starts[name])

    def release(self, name: str) -> None:
        """Give back the memory that reading the tensor brought in; see ``MappedFile.release``."""
        self._file.release(self._data_start + self._starts[name], self._tensors[name].nbytes)


def _header_end(data: mmap.mmap, size: int, path: Path) -> int:
    length = int.from_bytes(data[:8], "little")
    if length <= MAX_HEADER_BYTES and 8 + length <= size:
        return 8 + length
    start = data[:32]
    for magic, what, hint in _LOOK_ALIKES:
        if start.startswith(magic):
            raise CheckpointError(f"{path}: {what}", hint=hint)
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path}: claims a header of {length:,} bytes, more than the {MAX_HEADER_BYTES:,} the format allows",
            hint="it is corrupt or no safetensors file",
        )
    raise CheckpointError(
        f"{path}: claims a header of {length:,} bytes, but the file has only {size - 8:,} after the length",
        hint=_CORRUPT,
    )


def read_metadata(value: Any, path: Path) -> dict[str, str]:
    """``__metadata__`` of a header, checked; MLX writes ``null`` for none."""
    if value is None:
        return {}
    if isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
        return value
    raise CheckpointError(f"{path}: __metadata__ must map strings to strings", hint=_CORRUPT)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_BYTES


def read_entry(name: str, entry: Any, path: Path) -> tuple[TensorInfo, int, int]:
    """One header entry, checked: what it is, and the first and last-plus-one byte of its values."""
    where = f"{path}: tensor {_short(name)}"
    if not isinstance(entry, dict) or set(entry) != _ENTRY_FIELDS:
        raise CheckpointError(f"{where} must have exactly dtype, shape and data_offsets", hint=_CORRUPT)
    try:
        dtype = from_safetensors_code(entry["dtype"])
    except UnsupportedError as error:
        raise CheckpointError(f"{where}: unknown dtype {_short(entry['dtype'])}", hint=error.hint) from None
    shape = entry["shape"]
    if not isinstance(shape, list) or not all(_is_count(n) for n in shape):
        raise CheckpointError(f"{where}: shape {_short(shape)} is not a list of sizes", hint=_CORRUPT)
    # Zeros do not make a shape harmless: NumPy multiplies the other sizes too.
    if len(shape) > _MAX_DIMENSIONS or math.prod(n for n in shape if n) * itemsize(dtype) > _MAX_BYTES:
        raise CheckpointError(f"{where}: shape {_short(shape)} is larger than any machine's memory", hint=_CORRUPT)
    offsets = entry["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(n) for n in offsets):
        raise CheckpointError(f"{where}: data_offsets {_short(offsets)} are not two positions", hint=_CORRUPT)
    start, end = offsets
    info = TensorInfo(name, dtype, tuple(shape), path)
    if end < start:
        raise CheckpointError(f"{where}: data_offsets [{start}, {end}] run backwards", hint=_CORRUPT)
    if end - start != info.nbytes:
        raise CheckpointError(
            f"{where}: {entry['dtype']} of shape {shape} takes {info.nbytes} bytes, data_offsets say {end - start}",
            hint=_CORRUPT,
        )
    return info, start, end


def _short(value: object) -> str:
    return shortened(repr(value))


def check_spans(spans: list[tuple[int, int, str]], size: int, path: Path) -> None:
    """The tensors must cover the data exactly: nothing outside, nothing shared, nothing hidden between them."""
    position, previous = 0, ""
    for start, end, name in sorted(spans):
        if end > size:
            raise CheckpointError(
                f"{path}: tensor {_short(name)} ends at byte {end:,} of the data, but only {size:,} bytes are there",
                hint="the file is truncated: download or save it again",
            )
        if start < position:
            raise CheckpointError(f"{path}: tensors {_short(previous)} and {_short(name)} overlap", hint=_CORRUPT)
        if start > position:
            raise CheckpointError(
                f"{path}: bytes before tensor {_short(name)} belong to no tensor ({start - position:,})", hint=_CORRUPT
            )
        position, previous = end, name
    if position != size:
        raise CheckpointError(f"{path}: bytes at the end belong to no tensor ({size - position:,})", hint=_CORRUPT)
