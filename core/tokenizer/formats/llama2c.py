"""llama2.c's tokenizer.bin: pieces and scores of a SentencePiece model.

Format (``tokenizer.py`` of karpathy/llama2.c): the longest piece's length, then for each piece its score, length and
bytes. Spaces are written plainly, and the two special tokens stand between line ends.
"""

from __future__ import annotations

import struct
from pathlib import Path

from ...errors import TokenizerError
from ..engines.sentencepiece_model import SPACE, Piece, PieceKind
from ..files import InMemory, read_bytes
from ..llama_tokenizer import LlamaTokenizer
from .sentencepiece_writer import sentencepiece_model

_SPECIAL = {0: ("<unk>", PieceKind.UNKNOWN), 1: ("<s>", PieceKind.CONTROL), 2: ("</s>", PieceKind.CONTROL)}
_FIRST_BYTE = 3


def read_tokenizer_bin(path: Path, vocab_size: int) -> LlamaTokenizer:
    """The tokenizer of a model with `vocab_size` tokens.

    Raises:
        TokenizerError: the file is cut off or has another number of pieces.
    """
    content = read_bytes(path)
    pieces: list[Piece] = []
    position = 4
    try:
        while position < len(content):
            score, length = struct.unpack_from("<fi", content, position)
            position += 8
            if not 0 <= length <= len(content) - position:
                raise TokenizerError(f"{path}: piece {len(pieces)} reaches outside the file", hint="fetch it again")
            pieces.append(_piece(content[position : position + length], score, len(pieces)))
            position += length
    except (struct.error, UnicodeDecodeError):
        raise TokenizerError(f"{path}: piece {len(pieces)} is damaged", hint="fetch it again") from None
    if len(pieces) != vocab_size:
        raise TokenizerError(
            f"{path}: has {len(pieces)} pieces, the model {vocab_size}", hint="use the tokenizer.bin of this model"
        )
    ids = {"unk": 0, "bos": 1, "eos": 2, "pad": -1}
    model = sentencepiece_model(pieces, ids, add_dummy_prefix=True, remove_extra_whitespaces=False)
    return LlamaTokenizer(InMemory(str(path), model))


def _piece(raw: bytes, score: float, index: int) -> Piece:
    if index in _SPECIAL:
        text, kind = _SPECIAL[index]
        return Piece(text, score, kind)
    text = raw.decode("utf-8").replace(" ", SPACE)
    if _FIRST_BYTE <= index < _FIRST_BYTE + 256 and text == f"<0x{index - _FIRST_BYTE:02X}>":
        return Piece(text, score, PieceKind.BYTE)
    return Piece(text, score, PieceKind.NORMAL)
