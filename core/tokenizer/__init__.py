"""Text to ids and back: SentencePiece and tokenizers engines behind one interface.

``load_tokenizer(folder)`` chooses the engine; ``LlamaTokenizer`` and ``LlamaTokenizerFast`` name one. Importing this
package loads neither engine: each is imported when a tokenizer that needs it is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import fetched_when_used

if TYPE_CHECKING:
    from .added_tokens import AddedToken
    from .base import Tokenizer
    from .batching import BatchEncoding
    from .decoding import StreamDecoder
    from .llama import LlamaTokenizer, LlamaTokenizerFast
    from .loading import load_tokenizer

__all__ = [
    "AddedToken",
    "BatchEncoding",
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "StreamDecoder",
    "Tokenizer",
    "load_tokenizer",
]

_HOMES = {
    "AddedToken": "added_tokens",
    "BatchEncoding": "batching",
    "LlamaTokenizer": "llama",
    "LlamaTokenizerFast": "llama",
    "StreamDecoder": "decoding",
    "Tokenizer": "base",
    "load_tokenizer": "loading",
}


__getattr__ = fetched_when_used(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
