"""Tokenizers as other formats hold them: GGUF, llama2.c, SentencePiece's model."""
