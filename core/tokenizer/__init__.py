"""Text to ids and back: SentencePiece and tokenizers engines behind one interface.

``load_tokenizer(folder)`` chooses the engine; ``LlamaTokenizer`` and ``LlamaTokenizerFast`` name one. Importing this
package loads neither engine: each is imported when a tokenizer that needs it is made.
"""
