"""Text to ids and back: SentencePiece and tokenizers engines behind one interface.

The folders: ``engines/`` segment text, ``formats/`` read and write tokenizers of other formats, ``chat/`` renders chat
templates. Begin with ``base.py``, the interface.

``load_tokenizer(folder)`` chooses the engine; ``LlamaTokenizer`` and ``LlamaTokenizerFast`` name one. Importing this
package loads neither engine: each is imported when a tokenizer that needs it is made.
"""
