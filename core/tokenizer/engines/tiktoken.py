"""Meta's Llama 3 `tokenizer.model`: lines of a base64 token and its rank, not a SentencePiece model.

Format and constants: https://github.com/meta-llama/llama3/blob/main/llama/tokenizer.py, and `load_tiktoken_bpe` of
https://github.com/openai/tiktoken.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...errors import TokenizerError
from .added_tokens import AddedToken as Token
from .decoding import BYTE_OF_CHARACTER
from .merges import pair_merges
from .word_splitting import LLAMA3, WordSplitting

if TYPE_CHECKING:
    import tokenizers

_NAMED = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}


def llama3_special_tokens() -> list[str]:
    """The 256 special tokens of Llama 3 in id order.

    Llama 3.1 renamed some reserved ones; its tokenizer_config.json says so, its `tokenizer.model` cannot.

    >>> llama3_special_tokens()[:3]
    ['<|begin_of_text|>', '<|end_of_text|>', '<|reserved_special_token_0|>']
    """
    reserved = iter(range(256))
    return [
        f"<|{_NAMED[index] if index in _NAMED else f'reserved_special_token_{next(reserved)}'}|>"
        for index in range(256)
    ]


def read_ranks(content: bytes, source: str) -> dict[bytes, int]:
    """Token bytes -> rank."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            encoded, rank_text = line.split()
            token, rank = base64.b64decode(encoded, validate=True), int(rank_text)
        except (ValueError, binascii.Error):
            raise TokenizerError(
                f"{source}: line {number} is not 'base64 rank': {line[:60]!r}", hint="fetch the file again"
            ) from None
        if not token or token in ranks or rank != len(ranks):
            raise TokenizerError(
                f"{source}: line {number} has token {token[:40]!r} and rank {rank}, expected rank {len(ranks)}"
            )
        ranks[token] = rank
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise TokenizerError(
            f"{source}: {len(missing)} of the 256 single bytes are missing, first 0x{missing[0]:02X}",
            hint="the file may be truncated: fetch it again",
        )
    return ranks


def backend_from_ranks(ranks: dict[bytes, int], special: list[str], source: str) -> tokenizers.Tokenizer:
    """The tokenizers backend that segments as tiktoken does with these ranks and Llama 3's pattern."""
    characters = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}

    def spelled(token: bytes) -> str:
        return "".join([characters[byte] for byte in token])

    merges = [(spelled(left), spelled(right)) for left, right in pair_merges(ranks, source=source)]
    vocabulary = {spelled(token): rank for token, rank in ranks.items()}
    added = {len(ranks) + index: Token(token, special=True) for index, token in enumerate(special)}
    return byte_level_backend(vocabulary, merges, added, LLAMA3)


def byte_level_backend(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], added: Mapping[int, Token], words: WordSplitting
) -> tokenizers.Tokenizer:
    """A tokenizers backend of byte-level BPE.

    Args:
        vocabulary: token, spelled in the characters that stand for bytes -> id.
        merges: best first.
        added: further tokens by id; those beyond the vocabulary follow it without a gap.
        words: how it cuts text into words.

    Errors: TokenizerError where an added token would get another id.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, processors
    from tokenizers.models import BPE

    backend = Tokenizer(BPE(vocab=vocabulary, merges=merges, ignore_merges=words.whole_words))
    backend.pre_tokenizer = words.pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    for _, token in sorted(added.items()):  # in the order of ids, which is what the library gives out
        symbol = AddedToken(token.content, normalized=False, special=token.special)
        (backend.add_special_tokens if token.special else backend.add_tokens)([symbol])
    for token_id, token in added.items():
        if (found := backend.token_to_id(token.content)) != token_id:
            raise TokenizerError(f"the token {token.content!r:.60} would get the id {found}, not {token_id}")
    return backend
