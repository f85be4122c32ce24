"""What a SentencePiece `.model` file says, read without protobuf.

Format: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto (ModelProto in the protocol
buffer wire encoding). Only the fields that decide ids and text are read; pieces are decoded when first asked for.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from ...errors import TokenizerError

SPACE = "\u2581"  # how SentencePiece writes a space inside a piece


class PieceKind(IntEnum):
    """The `Type` of a piece."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary."""

    text: str
    score: float
    kind: PieceKind


_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


@dataclass(frozen=True)
class SentencePieceModel:
    """The pieces of a model, lazily, and the settings that decide ids.

    ``add_dummy_prefix``: a space is put before the text. ``remove_extra_whitespaces``: runs of spaces become one, those
    at the ends none. ``charsmap``: it has a normalization table (Llama's has none).
    """

    source: str
    content: bytes = field(repr=False)
    spans: tuple[tuple[int, int], ...] = field(repr=False)
    model_type: str
    byte_fallback: bool
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    charsmap: bool
    normalization: str
    bos_id: int
    eos_id: int
    unk_id: int
    _pieces: dict[int, Piece] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.spans)

    def piece(self, piece_id: int) -> Piece:
        """The piece with this id; ids out of range are the caller's to exclude."""
        piece = self._pieces.get(piece_id)
        if piece is None:
            piece = self._pieces[piece_id] = self._read_piece(piece_id)
        return piece

    def pieces(self) -> Iterator[Piece]:
        """Every piece in id order."""
        return (self.piece(piece_id) for piece_id in range(len(self)))

    def says(self, piece_id: int, text: str) -> bool:
        """Whether the piece with this id is `text`; quicker than reading it, as a comparison of bytes will do.

        That is for a text, a score and perhaps a type, each once and in this order, as they are written by everybody;
        what is written in another way is read.
        """
        encoded, (start, end) = text.encode("utf-8", "surrogatepass"), self.spans[piece_id]
        score = start + 2 + len(encoded)
        usual = (
            end - score in (5, 7)
            and self.content[score] == 0x15
            and (end - score == 5 or self.content[score + 5] == 0x18)
        )
        if usual and len(encoded) < 128:
            return self.content[start:score] == bytes((10, len(encoded))) + encoded
        return self.piece(piece_id).text == text

    def special_pieces(self) -> Iterator[tuple[int, Piece]]:
        """Control and unknown pieces, without decoding the many others: their type is written out, NORMAL is not."""
        kinds = (PieceKind.CONTROL, PieceKind.UNKNOWN)
        marks = tuple(b"\x18" + bytes([kind]) for kind in kinds)
        find = self.content.find
        for piece_id, (start, end) in enumerate(self.spans):
            if find(marks[0], start, end) >= 0 or find(marks[1], start, end) >= 0:
                piece = self.piece(piece_id)
                if piece.kind in kinds:
                    yield piece_id, piece

    def _read_piece(self, piece_id: int) -> Piece:
        text, score, kind = "", 0.0, PieceKind.NORMAL
        start, end = self.spans[piece_id]
        try:
            for number, value in _fields(self.content, start, end):
                if number == 1 and isinstance(value, tuple):
                    text = self.content[value[0] : value[1]].decode("utf-8")
                elif number == 2 and isinstance(value, float):
                    score = value
                elif number == 3 and isinstance(value, int):
                    kind = PieceKind(value)
        except (_Malformed, ValueError) as error:
            raise TokenizerError(f"{self.source}: piece {piece_id} is damaged ({error})") from None
        return Piece(text, score, kind)

    @classmethod
    def parse(cls, content: bytes, source: str) -> SentencePieceModel:
        """Read the bytes of a `.model` file; ``source`` names it in errors. The last one is remembered."""
        return _parsed(content, source)

    @classmethod
    def _parse(cls, content: bytes, source: str) -> SentencePieceModel:
        spans: list[tuple[int, int]] = []
        trainer: dict[int, int | float | tuple[int, int]] = {}
        normalizer: dict[int, int | float | tuple[int, int]] = {}
        try:
            for number, value in _fields(content, 0, len(content)):
                if number == 1 and isinstance(value, tuple):
                    spans.append(value)
                elif number == 2 and isinstance(value, tuple):
                    trainer.update(_fields(content, *value))
                elif number == 3 and isinstance(value, tuple):
                    normalizer.update(_fields(content, *value))
        except _Malformed as error:
            raise _not_a_model(source, str(error)) from None
        if not spans:
            raise _not_a_model(source, "it holds no pieces")

        def number_of(fields: dict[int, int | float | tuple[int, int]], key: int, default: int) -> int:
            value = fields.get(key, default)
            if not isinstance(value, int):
                raise _not_a_model(source, f"field {key} has the wrong type")
            return value - (1 << 64) if value >= 1 << 63 else value  # int32 -1 travels as ten bytes

        def bytes_of(fields: dict[int, int | float | tuple[int, int]], key: int) -> bytes:
            value = fields.get(key)
            return content[value[0] : value[1]] if isinstance(value, tuple) else b""

        if number_of(trainer, 24, 0) or not number_of(normalizer, 5, 1):
            raise TokenizerError(
                f"{source}: treat_whitespace_as_suffix or unescaped white space is set, which no Llama vocabulary has",
                hint="use the tokenizer.json of this checkpoint if it has one",
            )
        return cls(
            source=source,
            content=content,
            spans=tuple(spans),
            model_type=_MODEL_TYPES.get(number_of(trainer, 3, 1), "unknown"),
            byte_fallback=bool(number_of(trainer, 35, 0)),
            add_dummy_prefix=bool(number_of(normalizer, 3, 1)),
            remove_extra_whitespaces=bool(number_of(normalizer, 4, 1)),
            charsmap=bool(bytes_of(normalizer, 2)),
            normalization=bytes_of(normalizer, 1).decode("utf-8", "replace") or "unnamed",
            bos_id=number_of(trainer, 41, 1),
            eos_id=number_of(trainer, 42, 2),
            unk_id=number_of(trainer, 40, 0),
        )

    def with_dummy_prefix(self, enabled: bool) -> bytes:
        """The model's bytes with `add_dummy_prefix` set: a repeated protobuf message is merged into the first one."""
        return self.content + b"\x1a\x02\x18" + (b"\x01" if enabled else b"\x00")

    def normalize(self, text: str, prefix: bool) -> tuple[str, list[int] | None]:
        """The text as segmentation sees it, and for each of its characters the index in ``text`` that it came from.

        The index list is None where it is simply "the same index, one less with a prefix". A prefix's index is -1.
        """
        if not self.remove_extra_whitespaces:
            normalized = text.replace(" ", SPACE)
            return (SPACE + normalized if prefix and text else normalized), None
        kept: list[str] = []
        origin: list[int] = []
        stripped = len(text) - len(text.lstrip(" "))
        if stripped == len(text):
            return "", []
        if prefix:
            kept, origin = [SPACE], [-1]
        after_space = True
        for index in range(stripped, len(text)):
            character = text[index]
            if character != " ":
                kept.append(character)
                origin.append(index)
            elif not after_space:
                kept.append(SPACE)
                origin.append(index)
            after_space = character == " "
        while kept and kept[-1] == SPACE:
            kept.pop()
            origin.pop()
        return "".join(kept), origin


class _Malformed(Exception):
    """The bytes are not a protocol buffer message."""


def _not_a_model(source: str, reason: str) -> TokenizerError:
    return TokenizerError(
        f"{source} is not a SentencePiece model ({reason})",
        hint="it may be truncated: compare its size, fetch it again",
    )


@functools.lru_cache(maxsize=1)
def _parsed(content: bytes, source: str) -> SentencePieceModel:
    return SentencePieceModel._parse(content, source)


def _varint(content: bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _Malformed(f"a number breaks off at byte {position}")


def _fields(content: bytes, position: int, end: int) -> Iterator[tuple[int, int | float | tuple[int, int]]]:
    """Yield (field number, value) of one message; a length-delimited value is its (start, end) in ``content``."""
    while position < end:
        begin = position
        key, position = _varint(content, position, end)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(content, position, end)
            yield number, value
        elif wire == 2:
            length, position = _varint(content, position, end)
            if length > end - position:
                raise _Malformed(f"field {number} at byte {begin} is longer than the file")
            yield number, (position, position + length)
            position += length
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            if size > end - position:
                raise _Malformed(f"field {number} at byte {begin} breaks off")
            yield number, float(struct.unpack_from("<d" if wire == 1 else "<f", content, position)[0])
            position += size
        else:
            raise _Malformed(f"byte {begin} starts no field")
