"""One GGUF file: its metadata, and where each tensor lies.

Format, versions 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): "GGUF", version, number of
tensors, number of metadata pairs; the pairs; for each tensor its name, dimensions (fastest first), type and offset;
then, from the next multiple of ``general.alignment``, the values. Every size and offset is checked against the file
before it is believed, so that a forged header costs nothing.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ..mapped import INCOMPLETE, MappedFile

_MAX_DIMENSIONS = 8
_MAX_HEADER_ITEMS = 1 << 23  # metadata pairs, tensors and array items together; a vocabulary of 256k takes a million
_MAX_STRING_BYTES = 64 << 20  # of one string; the longest there are, chat templates, have some thousand
_MAX_TEXT_BYTES = 256 << 20  # of all together
_MAX_ALIGNMENT = 1 << 20
_PIECE = re.compile(r"(split-[a-z]{1,2}|part-?\d+of\d+)$")  # as files are cut to fit a limit of size
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}

Type = tuple[str, int, int]
TYPES: Mapping[int, Type] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
"""ggml's number of a type -> name, values in a block, bytes of a block."""
NUMBERS: Mapping[str, int] = {name: number for number, (name, _, _) in TYPES.items()}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor as stored: shape with the fastest dimension last, ``offset`` from the start of the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class GgufFile:
    """One GGUF file, checked when opened; ``metadata`` and ``tensors`` are what its header says.

    Raises:
        CheckpointError: anything that the format forbids, naming the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = MappedFile(path, "a GGUF file", 24)
        self._position = 0
        self._items = self._text = 0
        try:
            self.metadata, self.tensors = self._read()
        except struct.error:
            raise self._wrong("its header is cut off") from None

    def _wrong(self, what: str) -> CheckpointError:
        piece = _PIECE.search(self.path.name)
        hint = (
            f"{piece[0]!r} in its name says that it is a piece of a file: join the pieces end to end" if piece else None
        )
        return CheckpointError(f"{self.path}: {what}", hint=hint or INCOMPLETE)

    def _read(self) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
        self._check_kind()
        count, pairs = self._unpack("<QQ")
        self._count(count + pairs)
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._string("a metadata key")
            if key in metadata:
                raise self._wrong(f"the metadata key {key!r:.80} is there twice")
            metadata[key] = self._value(self._unpack("<I")[0], key)
        infos = [self._tensor_info() for _ in range(count)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise self._wrong(f"general.alignment={alignment!r:.40} is not a power of two")
        start = -(-self._position // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, kind, shape, offset in infos:
            if name in tensors:
                raise self._wrong(f"the tensor {name!r:.80} is there twice")
            tensors[name] = self._tensor(name, kind, shape, offset, start, alignment)
        self._check_overlaps(tensors)
        self._check_joined(metadata, max([start, *(t.offset + t.nbytes for t in tensors.values())]), alignment)
        return metadata, tensors

    def _check_kind(self) -> None:
        magic, version = struct.unpack_from("<4sI", self.file.data)
        self._position = 8
        if magic != b"GGUF":
            if magic == b"FUGG" or magic in (b"lmgg", b"fmgg", b"tjgg"):
                raise CheckpointError(
                    f"{self.path}: is in GGML's format from before GGUF (2023), which is not read",
                    hint="find the model as GGUF or as safetensors",
                )
            raise self._wrong(f"is no GGUF file (it begins with {magic!r})")
        if version in (2, 3):
            return
        if version >> 16 and version & 0xFFFF == 0:
            raise CheckpointError(f"{self.path}: is a big-endian GGUF file, which is not read")
        raise CheckpointError(
            f"{self.path}: is GGUF of version {version}; versions 2 and 3 are read",
            hint="convert it again with a current llama.cpp",
        )

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(layout, self.file.data, self._position)
        self._position += struct.calcsize(layout)
        return values

    def _count(self, items: int) -> None:
        self._items += items
        if self._items > _MAX_HEADER_ITEMS:
            raise CheckpointError(
                f"{self.path}: its header claims {self._items:,} entries, more than any model's", hint=INCOMPLETE
            )

    def _string(self, what: str) -> str:
        (length,) = self._unpack("<Q")
        begin = self._position
        if length > self.file.size - begin:
            raise self._wrong(f"{what} of {length:,} bytes reaches outside the file")
        self._text += length
        if length > _MAX_STRING_BYTES or self._text > _MAX_TEXT_BYTES:
            raise self._wrong(f"{what} of {length:,} bytes is longer than any model's")
        self._position += length
        try:
            return self.file.data[begin : begin + length].decode("utf-8")
        except UnicodeDecodeError:
            raise self._wrong(f"{what} at byte {begin:,} is not UTF-8") from None

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string(f"the metadata {key!r:.80}")
        if kind == _ARRAY:
            item, count = self._unpack("<IQ")
            self._count(count)
            if item == _STRING:
                return [self._string(f"an item of {key!r:.80}") for _ in range(count)]
            if item in _SCALARS:
                size = struct.calcsize(f"<{_SCALARS[item]}")
                if count * size > self.file.size - self._position:
                    raise self._wrong(f"the array {key!r:.80} of {count:,} numbers reaches outside the file")
                return list(self._unpack(f"<{count}{_SCALARS[item]}"))
            kind = item
        elif kind in _SCALARS:
            return self._unpack(f"<{_SCALARS[kind]}")[0]
        raise self._wrong(f"the metadata {key!r:.80} has the unknown type {kind}")

    def _tensor_info(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._string("a tensor's name")
        (dimensions,) = self._unpack("<I")
        if dimensions > _MAX_DIMENSIONS:
            raise self._wrong(f"the tensor {name!r:.80} claims {dimensions} dimensions")
        shape = self._unpack(f"<{dimensions}Q")[::-1]
        kind, offset = self._unpack("<IQ")
        return name, kind, shape, offset

    def _tensor(
        self, name: str, kind: int, shape: tuple[int, ...], offset: int, start: int, alignment: int
    ) -> GgufTensor:
        where = f"the tensor {name!r:.80}"
        if kind not in TYPES:
            raise CheckpointError(
                f"{self.path}: {where} has the type {kind}, which is not known", hint="convert it to another type"
            )
        type_name, block, block_bytes = TYPES[kind]
        if 0 in shape:
            raise self._wrong(f"{where} of shape {list(shape)} is empty")
        if math.prod(shape) > 1 << 62:
            raise self._wrong(f"{where} of shape {list(shape)} is larger than any machine's memory")
        count = math.prod(shape)
        if (shape[-1] if shape else 1) % block:
            raise self._wrong(f"{where} has rows of {shape[-1] if shape else 1}, no multiple of {type_name}'s {block}")
        nbytes = count // block * block_bytes
        if offset % alignment:
            raise self._wrong(f"{where} begins at {offset}, no multiple of the alignment {alignment}")
        if start + offset + nbytes > self.file.size:
            raise self._wrong(f"{where} ends at byte {start + offset + nbytes:,} of {self.file.size:,}")
        return GgufTensor(name, type_name, shape, start + offset, nbytes)

    def _check_joined(self, metadata: Mapping[str, Any], end: int, alignment: int) -> None:
        """Behind the last tensor no other GGUF file may begin: parts are files of their own, and cat makes no model."""
        behind = self.file.data[end : end + alignment + 4].lstrip(b"\0")
        if not behind.startswith(b"GGUF"):
            return
        count, number = metadata.get("split.count", 1), metadata.get("split.no", 0)
        split = type(count) is int and count > 1 and type(number) is int
        which = f", which is part {number + 1} of {count} of a split model (split.count)" if split else ""
        raise CheckpointError(
            f"{self.path}: behind the tensors of this GGUF file{which} another one begins: they were joined end to end",
            hint="the parts of a split model stay files of their own, in one folder, or are put together by "
            "`llama-gguf-split --merge`",
        )

    def _check_overlaps(self, tensors: Mapping[str, GgufTensor]) -> None:
        position, previous = 0, ""
        for tensor in sorted(tensors.values(), key=lambda t: (t.offset, t.nbytes)):
            if tensor.offset < position:
                raise self._wrong(f"the tensors {previous!r:.80} and {tensor.name!r:.80} overlap")
            position, previous = tensor.offset + tensor.nbytes, tensor.name
