"""Text from ids, one id at a time: decoding a whole list and streaming it are the same code.

An assembler is fed ids and hands out text that no later id can change; ``finish`` hands out the rest. So the pieces of
a stream concatenate to the decoded whole by construction, and each id costs the same however long the text is.
"""

from __future__ import annotations

import codecs
import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

from ...errors import TokenizerError
from .sentencepiece_model import SPACE

REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """What ``decode`` was asked for; ``skip`` are the ids left out, ``separate`` those set apart by spaces."""

    skip: frozenset[int] = frozenset()
    separate: frozenset[int] = frozenset()
    clean_up: bool = False
    replace_unknown: bool = False


class TextAssembler(ABC):
    """Turns ids into text incrementally; ``token_of`` gives the text of an id, or None where there is no such token."""

    def __init__(self, token_of: Callable[[int], str | None], options: DecodingOptions, size: int) -> None:
        self._token_of = token_of
        self._options = options
        self._size = size
        self._previous_separate: bool | None = None
        self._clean_up = _CleanUp() if options.clean_up else None

    def push(self, token_id: int) -> str:
        """The text that this id settles; possibly none."""
        options = self._options
        if token_id in options.skip:
            return ""
        token = self._token_of(token_id)
        if token is None:
            if not options.replace_unknown:
                raise TokenizerError(
                    f"token id {token_id} is not in the vocabulary (ids 0 to {self._size - 1})",
                    hint="decode(..., errors='replace') shows such ids as U+FFFD",
                )
            token = REPLACEMENT
        text = self._separator(token_id) if options.separate else ""
        text += self._add(token_id, token)
        return self._clean_up.push(text) if self._clean_up else text

    def _separator(self, token_id: int) -> str:
        separate = token_id in self._options.separate
        previous, self._previous_separate = self._previous_separate, separate
        if previous is None or (previous is False and separate is False):
            return ""
        rest = self._flush()
        self._begin()
        return rest + " "

    def finish(self) -> str:
        """The text still held back; the assembler is done after it."""
        text = self._flush()
        return self._clean_up.push(text) + self._clean_up.finish() if self._clean_up else text

    def fork(self) -> TextAssembler:
        """A copy that goes its own way."""
        other = copy.copy(self)
        other._clean_up = copy.deepcopy(self._clean_up)
        return other

    @abstractmethod
    def _add(self, token_id: int, token: str) -> str: ...

    @abstractmethod
    def _flush(self) -> str:
        """End an unfinished character."""

    @abstractmethod
    def _begin(self) -> None:
        """Start a new segment, as if nothing had come before."""


class PieceAssembler(TextAssembler):
    """Decodes SentencePiece vocabularies, as SentencePiece does.

    Pieces are joined, the space sign becomes a space, and the space that encoding put before the first piece is
    dropped. Byte pieces become characters; each byte that is part of none becomes one U+FFFD.
    """

    def __init__(
        self,
        token_of: Callable[[int], str | None],
        options: DecodingOptions,
        size: int,
        *,
        byte_of: Callable[[int], int | None],
        drop_prefix: bool,
        drop_all_leading: bool = False,
    ) -> None:
        super().__init__(token_of, options, size)
        self._byte_of = byte_of
        self._drop_prefix = drop_prefix
        self._drop_all_leading = drop_all_leading
        self._at_start = True
        self._bytes = bytearray()

    def fork(self) -> PieceAssembler:
        other = super().fork()
        assert isinstance(other, PieceAssembler)
        other._bytes = bytearray(self._bytes)
        return other

    def _add(self, token_id: int, token: str) -> str:
        byte = self._byte_of(token_id)
        if byte is not None:
            self._at_start = False
            self._bytes.append(byte)
            return self._complete_characters(final=False)
        text = self._complete_characters(final=True) if self._bytes else ""
        if self._at_start and self._drop_prefix and token.startswith(SPACE):
            token = token[1:]
            # A model that removes extra spaces never encodes leading ones, so SentencePiece drops them all.
            self._at_start = self._drop_all_leading and not token
        elif token:
            self._at_start = False
        return text + token.replace(SPACE, " ")

    def _complete_characters(self, *, final: bool) -> str:
        done: list[str] = []
        pending = self._bytes
        position = 0
        while position < len(pending):
            lead = pending[position]
            width = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            candidate = bytes(pending[position : position + width])
            try:
                character = codecs.getincrementaldecoder("utf-8")("strict").decode(
                    candidate, final=len(candidate) == width
                )
            except UnicodeDecodeError:
                character, width = REPLACEMENT, 1
            if not character:  # a valid beginning
                if not final:
                    break
                character, width = REPLACEMENT, 1
            done.append(character)
            position += width
        del pending[:position]
        return "".join(done)

    def _flush(self) -> str:
        return self._complete_characters(final=True)

    def _begin(self) -> None:
        self._at_start = True


class ByteLevelAssembler(TextAssembler):
    """Decodes byte-level BPE (Llama 3): every character of a token stands for one byte of UTF-8.

    Those in ``added`` were added to the vocabulary and hold their text itself.
    """

    def __init__(
        self,
        token_of: Callable[[int], str | None],
        options: DecodingOptions,
        size: int,
        *,
        added: Container[int] = (),
    ) -> None:
        super().__init__(token_of, options, size)
        self._added = added
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def fork(self) -> ByteLevelAssembler:
        other = super().fork()
        assert isinstance(other, ByteLevelAssembler)
        other._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        other._utf8.setstate(self._utf8.getstate())
        return other

    def _add(self, token_id: int, token: str) -> str:
        if token_id in self._added:  # its letters stand for themselves, those of Latin-1 too
            return self._utf8.decode(token.encode("utf-8"))
        try:
            content = bytes(BYTE_OF_CHARACTER[character] for character in token)
        except KeyError:  # such as the sign for an unknown id
            content = token.encode("utf-8")
        return self._utf8.decode(content)

    def _flush(self) -> str:
        return self._utf8.decode(b"", final=True)

    def _begin(self) -> None:
        self._utf8.reset()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: bytes that print stand for themselves, the others for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    for offset, byte in enumerate(byte for byte in range(256) if byte not in printable):
        alphabet[chr(0x100 + offset)] = byte
    return alphabet


BYTE_OF_CHARACTER = _byte_alphabet()

CLEAN_UP_RULES = tuple(
    (found, found.strip(" ") if found == " ' " else found[1:])
    for found in (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
)


def clean_up_spaces(text: str) -> str:
    """Remove the space before punctuation and English contractions, as ``clean_up_tokenization_spaces`` asks.

    >>> clean_up_spaces("Well , I do n't know .")
    "Well, I don't know."
    """
    for found, replacement in CLEAN_UP_RULES:
        text = text.replace(found, replacement)
    return text


class _CleanUp:
    """``clean_up_spaces`` on a stream: each rule holds back what could still become its match."""

    def __init__(self) -> None:
        self._held = [""] * len(CLEAN_UP_RULES)

    def push(self, text: str) -> str:
        for index, (found, replacement) in enumerate(CLEAN_UP_RULES):
            # The held text is a proper prefix of the rule, so it cannot hold a match that was already replaced.
            parts = (self._held[index] + text).split(found)
            tail = parts[-1]
            keep = next((size for size in range(len(found) - 1, 0, -1) if tail.endswith(found[:size])), 0)
            self._held[index] = tail[len(tail) - keep :]
            parts[-1] = tail[: len(tail) - keep]
            text = replacement.join(parts)
        return text

    def finish(self) -> str:
        done = ""
        for index, (found, replacement) in enumerate(CLEAN_UP_RULES):
            done = (self._held[index] + done).replace(found, replacement)
            self._held[index] = ""
        return done


class StreamDecoder:
    """Text piece by piece while ids arrive; made by ``Tokenizer.stream_decoder``.

    With ``d = tokenizer.stream_decoder(prompt_ids)`` the pieces of ``push`` and ``finish`` satisfy, for any ids,
    ``d.prompt_text + "".join(pieces) == tokenizer.decode(prompt_ids + ids)`` exactly. ``prompt_text`` is
    ``decode(prompt_ids)`` except for an end that further ids can still change: the bytes of an unfinished character
    (``decode`` shows U+FFFD for each, ``prompt_text`` leaves them to the pieces) and, with clean-up of spaces, a last
    space. A piece never holds a U+FFFD that a later id would have turned into a character.
    """

    def __init__(self, assembler: TextAssembler, prompt_ids: Iterable[int] = ()) -> None:
        self._assembler = assembler
        self._finished = False
        self.prompt_text = "".join(map(assembler.push, prompt_ids))

    def push(self, token_id: int) -> str:
        """The text that this id settles; empty while a character is unfinished."""
        if self._finished:
            raise TokenizerError("this stream has been finished", hint="make a new one with tokenizer.stream_decoder()")
        return self._assembler.push(token_id)

    def fork(self) -> StreamDecoder:
        """A copy that goes its own way."""
        other = copy.copy(self)
        other._assembler = self._assembler.fork()
        return other

    def finish(self) -> str:
        """The text held back, once no more ids come."""
        if self._finished:
            return ""
        self._finished = True
        return self._assembler.finish()
