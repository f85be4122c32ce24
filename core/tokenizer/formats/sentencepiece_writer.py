"""A SentencePiece `.model` from a list of pieces, written without protobuf.

Format: as in ``sentencepiece_model``; the field numbers are those of ``sentencepiece_model.proto``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from ..engines.sentencepiece_model import Piece, PieceKind

_BPE = 2


def sentencepiece_model(
    pieces: Sequence[Piece], ids: Mapping[str, int], *, add_dummy_prefix: bool, remove_extra_whitespaces: bool
) -> bytes:
    """The bytes of a BPE model with byte fallback where it has byte pieces, that does not normalize text.

    Args:
        pieces: in id order.
        ids: of "unk", "bos", "eos" and "pad"; -1 for none.
        add_dummy_prefix: whether a space is put before a text.
        remove_extra_whitespaces: whether runs of spaces become one.
    """
    content = b"".join(_message(1, _piece(piece)) for piece in pieces)
    trainer = (
        _number(3, _BPE)
        + _number(4, len(pieces))
        + _number(35, any(piece.kind is PieceKind.BYTE for piece in pieces))
        + b"".join(_number(field, ids[role]) for field, role in ((40, "unk"), (41, "bos"), (42, "eos"), (43, "pad")))
    )
    normalizer = _message(1, b"identity") + _number(3, add_dummy_prefix) + _number(4, remove_extra_whitespaces)
    return content + _message(2, trainer) + _message(3, normalizer + _number(5, 1))


def _piece(piece: Piece) -> bytes:
    text = _message(1, piece.text.encode("utf-8", "surrogatepass")) + _key(2, 5) + struct.pack("<f", piece.score)
    return text if piece.kind is PieceKind.NORMAL else text + _number(3, piece.kind)


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _number(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(int(value))


def _message(field: int, content: bytes) -> bytes:
    return _key(field, 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # int32 -1 travels as ten bytes
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
