"""What segments text: the interface, and the part of it that all SentencePiece vocabularies share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ...errors import TokenizerError
from .added_tokens import AddedToken, AddedTokenMatcher
from .decoding import DecodingOptions, PieceAssembler, TextAssembler
from .places import FoundPlaces, Offset, Places
from .sentencepiece_model import SPACE, PieceKind, SentencePieceModel


@dataclass(slots=True)
class Encoded:
    """Ids, and where in the text each came from."""

    ids: list[int]
    places: Places


@dataclass(slots=True)
class _Chunk:
    """A stretch of a text without added tokens, or an added token: where it starts and ends, and its ids."""

    start: int
    end: int
    ids: list[int]
    added: bool = False
    prefix: bool = False


class Engine(ABC):
    """Segments text into ids of a base vocabulary and added tokens, and makes assemblers for the way back."""

    name: str
    size: int  # of the base vocabulary, without tokens added to it

    @abstractmethod
    def token(self, token_id: int) -> str | None:
        """The base token with this id."""

    @abstractmethod
    def token_id(self, token: str) -> int | None:
        """The id of this base token."""

    @abstractmethod
    def vocabulary(self) -> dict[str, int]:
        """The base vocabulary."""

    @abstractmethod
    def set_added_tokens(self, tokens: Mapping[int, AddedToken]) -> None:
        """Match exactly these tokens from now on."""

    @abstractmethod
    def encode(self, text: str, *, split_special: bool) -> Encoded:
        """Segment; with ``split_special`` special tokens in the text are text."""

    @abstractmethod
    def assembler(self, options: DecodingOptions, added: Mapping[int, AddedToken], size: int) -> TextAssembler:
        """A new assembler."""

    def token_of(self, token_id: int, added: Mapping[int, AddedToken]) -> str | None:
        """The token with this id, added or not."""
        token = added.get(token_id)
        return token.content if token is not None else self.token(token_id)

    def bytes_of(self, token_id: int, added: Mapping[int, AddedToken]) -> bytes | None:
        """The UTF-8 bytes a token stands for, which need not be whole characters; None where there is no such id."""
        if token_id in added:
            return added[token_id].content.encode("utf-8")
        token = self.token(token_id)
        return None if token is None else self._base_bytes(token_id, token)

    def ids_without_token(self, size: int, added: Mapping[int, AddedToken]) -> list[int]:
        """The ids below ``size`` that stand for nothing: beyond the vocabulary, or in a gap of it."""
        return sorted(set(range(size)).difference(self.vocabulary().values(), added))

    @abstractmethod
    def _base_bytes(self, token_id: int, token: str) -> bytes: ...


class PieceEncoder(Protocol):
    """Segments text that holds no added token, over the pieces of a SentencePiece model."""

    name: str

    def encode(self, chunk: str, prefix: bool) -> list[int]: ...
    def token_id(self, piece: str) -> int | None: ...


class PieceEngine(Engine):
    """SentencePiece vocabularies: added tokens, prefix spaces, offsets and decoding, the same for every encoder.

    ``legacy``: the prefix space is put after every added token; else only at the very start of the text.
    """

    def __init__(
        self, model: SentencePieceModel, encoder: PieceEncoder, *, add_prefix_space: bool, legacy: bool
    ) -> None:
        self.model = model
        self.encoder = encoder
        self.name = encoder.name
        self.size = len(model)
        self.add_prefix_space = add_prefix_space
        self.legacy = legacy
        self._matcher = AddedTokenMatcher({})

    def token(self, token_id: int) -> str | None:
        return self.model.piece(token_id).text if 0 <= token_id < self.size else None

    def token_id(self, token: str) -> int | None:
        return self.encoder.token_id(token)

    def vocabulary(self) -> dict[str, int]:
        vocabulary: dict[str, int] = {}
        for piece_id, piece in enumerate(self.model.pieces()):
            vocabulary.setdefault(piece.text, piece_id)
        return vocabulary

    def ids_without_token(self, size: int, added: Mapping[int, AddedToken]) -> list[int]:
        return [token_id for token_id in range(self.size, size) if token_id not in added]

    def set_added_tokens(self, tokens: Mapping[int, AddedToken]) -> None:
        self._matcher = AddedTokenMatcher(tokens)

    def encode(self, text: str, *, split_special: bool) -> Encoded:
        chunks: list[_Chunk] = []
        for start, end, added_id in self._matcher.split(text, ignore_special=split_special):
            if added_id is not None:
                chunks.append(_Chunk(start, end, [added_id], added=True))
                continue
            prefix = self.add_prefix_space and (self.legacy or start == 0)
            chunks.append(_Chunk(start, end, self.encoder.encode(text[start:end], prefix), prefix=prefix))
        words: list[int | None] = [word for word, chunk in enumerate(chunks) for _ in chunk.ids]
        ids = [token_id for chunk in chunks for token_id in chunk.ids]
        return Encoded(ids, FoundPlaces(words, lambda: self._chunk_offsets(text, chunks)))

    def _chunk_offsets(self, text: str, chunks: list[_Chunk]) -> list[Offset]:
        if self.model.charsmap:
            raise TokenizerError(
                f"{self.model.source} normalizes text ({self.model.normalization}), so its tokens have no offsets",
                hint="leave out return_offsets_mapping, and do not ask for characters",
            )
        offsets: list[Offset] = []
        for chunk in chunks:
            if chunk.added:
                offsets.append((chunk.start, chunk.end))
            else:
                offsets += self._offsets(chunk.ids, text[chunk.start : chunk.end], chunk.start, chunk.prefix)
        return offsets

    def _offsets(self, ids: list[int], chunk: str, start: int, prefix: bool) -> list[Offset]:
        normalized, origin = self.model.normalize(chunk, prefix)
        shift = -1 if prefix else 0

        def source(index: int) -> int:
            return start + (origin[index] if origin is not None else index + shift)

        offsets: list[Offset] = []
        position = bytes_left = 0
        for token_id in ids:
            piece = self.model.piece(token_id)
            if piece.kind is PieceKind.BYTE:  # every byte of a character covers the whole character
                if not bytes_left:
                    bytes_left = len(normalized[position].encode("utf-8"))
                offsets.append((max(source(position), start), source(position) + 1))
                bytes_left -= 1
                position += not bytes_left
                continue
            width = self._unknown_width(normalized, position) if piece.kind is PieceKind.UNKNOWN else len(piece.text)
            offsets.append((max(source(position), start), source(position + width - 1) + 1))
            position += width
        return offsets

    def _unknown_width(self, normalized: str, position: int) -> int:
        end = position
        while end < len(normalized) and self.token_id(normalized[end]) is None:
            end += 1
        return max(end - position, 1)

    def assembler(self, options: DecodingOptions, added: Mapping[int, AddedToken], size: int) -> TextAssembler:
        return PieceAssembler(
            lambda token_id: self.token_of(token_id, added),
            options,
            size,
            byte_of=lambda token_id: None if token_id in added else self._byte_of(token_id),
            drop_prefix=self.add_prefix_space or self.model.remove_extra_whitespaces,
            drop_all_leading=self.model.remove_extra_whitespaces,
        )

    def _base_bytes(self, token_id: int, token: str) -> bytes:
        byte = self._byte_of(token_id)
        return bytes([byte]) if byte is not None else token.replace(SPACE, " ").encode("utf-8")

    def _byte_of(self, token_id: int) -> int | None:
        if not 0 <= token_id < self.size:
            return None
        piece = self.model.piece(token_id)
        if piece.kind is not PieceKind.BYTE:
            return None
        value = byte_value(piece.text)
        if value is None:
            raise TokenizerError(f"{self.model.source}: byte piece {token_id} is {piece.text!r}, not <0x00> to <0xFF>")
        return value


def byte_value(token: str) -> int | None:
    """The byte that a token like ``<0x0A>`` stands for.

    >>> byte_value("<0x0A>")
    10
    """
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return int(token[3:5], 16)
        except ValueError:
            return None
    return None


__all__ = ["SPACE", "Encoded", "Engine", "Offset", "PieceEncoder", "PieceEngine", "byte_value"]
