"""Text to ids and back: SentencePiece and tokenizers engines behind one interface.

``load_tokenizer(folder)`` chooses the engine; ``LlamaTokenizer`` and ``LlamaTokenizerFast`` name one. Importing this
package loads neither engine: each is imported when a tokenizer that needs it is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
