"""Text to ids and back: SentencePiece and tokenizers engines behind one interface.

The folders: ``engines/`` segment text, ``formats/`` read and write tokenizers of other formats, ``chat/`` renders chat
templates. Begin with ``tokenizer.py``, the interface.

``load_tokenizer(folder)`` chooses the engine; ``LlamaTokenizer`` and ``LlamaTokenizerFast`` name one. Importing this
package loads neither engine: each is imported when a tokenizer that needs it is made.
"""

from ..lazy import fetched_when_used

# The room's door: what one comes here for, without knowing its file.
__getattr__ = fetched_when_used(
    __name__,
    {
        "LlamaTokenizer": "llama_tokenizer",
        "LlamaTokenizerFast": "llama_tokenizer",
        "Tokenizer": "tokenizer",
        "load_tokenizer": "llama_tokenizer",
    },
    __name__,
)
