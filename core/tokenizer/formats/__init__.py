"""Tokenizers as other formats hold them: GGUF, llama2.c, SentencePiece's model.

The weights of those formats are in ``core/checkpoint/``. Begin with ``gguf.py``.
"""
