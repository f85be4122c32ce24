"""Text to ids and back: SentencePiece and tokenizers engines behind one interface.

>>> # tokenizer = load_tokenizer("checkpoint"); tokenizer.decode(tokenizer.encode("Hello"), skip_special_tokens=True)
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
