"""The directory of a ZIP file whose members are stored as they are: where each one's bytes lie.

Format: PKWARE's APPNOTE.TXT, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (its end, with
and without ZIP64). PyTorch stores every member uncompressed, so that nothing here inflates anything: a compressed
member, the stuff of ZIP bombs, is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import CheckpointError
from ..mapped import INCOMPLETE

if TYPE_CHECKING:
    from ..mapped import MappedFile

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_COMMENT = 65535
_MAX_DIRECTORY_BYTES = 64 << 20
_MAX_MEMBERS = 1_000_000
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its bytes lie at ``offset`` of the file."""

    name: str
    offset: int
    nbytes: int


def zip_members(file: MappedFile) -> Mapping[str, Member]:
    """Every member by name.

    Raises:
        CheckpointError: the directory is damaged or too large, a member is compressed, encrypted, twice there, reaches
            outside the file or into another.
    """
    count, start, nbytes = _directory(file)
    if nbytes > _MAX_DIRECTORY_BYTES or count > _MAX_MEMBERS:
        raise CheckpointError(
            f"{file.path}: its ZIP directory of {count:,} members and {nbytes:,} bytes is larger than any model's",
            hint="do not trust this file",
        )
    members: dict[str, Member] = {}
    for member in _read_directory(file, count, start, nbytes):
        if member.name in members:
            raise _damaged(file, f"the member {member.name!r:.80} is there twice")
        members[member.name] = member
    position, previous = 0, ""
    for member in sorted(members.values(), key=lambda m: (m.offset, m.nbytes)):
        if member.offset < position:
            raise _damaged(file, f"the members {previous!r:.80} and {member.name!r:.80} overlap")
        position, previous = member.offset + member.nbytes, member.name
    if position > start:
        raise _damaged(file, f"the member {previous!r:.80} reaches into the directory")
    return members


def _damaged(file: MappedFile, what: str) -> CheckpointError:
    return CheckpointError(f"{file.path}: {what}", hint=INCOMPLETE)


def _directory(file: MappedFile) -> tuple[int, int, int]:
    """Number of members, and position and length of the central directory."""
    begin = max(0, file.size - _END.size - _MAX_COMMENT)
    tail = file.data[begin:]
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise _damaged(file, "the end of the ZIP archive is not there, so the file is cut off")
    _, disk, first_disk, _, count, nbytes, start, _ = _END.unpack_from(tail, at)
    end = begin + at
    if _FULL16 in (count, disk) or _FULL32 in (nbytes, start):
        locator = end - _END64_LOCATOR.size
        if locator < 0 or file.data[locator : locator + 4] != b"PK\6\7":
            raise _damaged(file, "the ZIP64 end of the archive is not there")
        _, _, end64, _ = _END64_LOCATOR.unpack_from(file.data, locator)
        if end64 + _END64.size > locator or file.data[end64 : end64 + 4] != b"PK\6\6":
            raise _damaged(file, "the ZIP64 end of the archive is not where it is said to be")
        _, _, _, _, disk, first_disk, _, count, nbytes, start = _END64.unpack_from(file.data, end64)
        end = end64
    if disk or first_disk:
        raise _damaged(file, "the ZIP archive is split over several disks")
    if start + nbytes > end:
        raise _damaged(file, "the ZIP directory reaches outside the file")
    return count, start, nbytes


def _read_directory(file: MappedFile, count: int, start: int, nbytes: int) -> Iterator[Member]:
    directory = file.data[start : start + nbytes]
    position = 0
    for number in range(count):
        if position + _CENTRAL.size > nbytes or directory[position : position + 4] != b"PK\1\2":
            raise _damaged(file, f"entry {number} of the ZIP directory is damaged")
        fields = _CENTRAL.unpack_from(directory, position)
        flags, method, packed, size = fields[3], fields[4], fields[8], fields[9]
        lengths, header = fields[10:13], fields[16]
        names = position + _CENTRAL.size
        position = names + sum(lengths)
        if position > nbytes:
            raise _damaged(file, f"entry {number} of the ZIP directory is cut off")
        name = directory[names : names + lengths[0]].decode("utf-8", "replace")
        extra = directory[names + lengths[0] : names + lengths[0] + lengths[1]]
        size, packed, header = _wide(file, name, extra, size, packed, header)
        if flags & 1:
            raise _damaged(file, f"the member {name!r:.80} is encrypted")
        if method != 0 or packed != size:
            raise CheckpointError(
                f"{file.path}: the member {name!r:.80} is compressed, which PyTorch never does",
                hint="do not trust this file, or save the model again with torch.save",
            )
        yield Member(name, _data_offset(file, name, header, size), size)


def _wide(file: MappedFile, name: str, extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Sizes and offset with those that do not fit 32 bits taken from the ZIP64 field."""
    if _FULL32 not in (size, packed, header):
        return size, packed, header
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == 1:
            field = extra[position : position + length]
            values = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
            try:
                return tuple(next(values) if v == _FULL32 else v for v in (size, packed, header))  # type: ignore[return-value]
            except RuntimeError:  # a generator turns the end of the values into this
                break
        position += length
    raise _damaged(file, f"the ZIP64 sizes of the member {name!r:.80} are not there")


def _data_offset(file: MappedFile, name: str, header: int, size: int) -> int:
    """The local header has its own name and padding, so only it says where the bytes begin."""
    if header + _LOCAL.size > file.size or file.data[header : header + 4] != b"PK\3\4":
        raise _damaged(file, f"the member {name!r:.80} is not where the ZIP directory says")
    lengths = _LOCAL.unpack_from(file.data, header)[9:]
    offset: int = header + _LOCAL.size + sum(lengths)
    if offset + size > file.size:
        raise _damaged(file, f"the member {name!r:.80} ends after the file")
    return offset
