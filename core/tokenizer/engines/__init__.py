"""The engines that turn text into ids: SentencePiece, tokenizers, and Meta's rank files.

Special tokens that a tokenizer adds, padding and truncation are one folder up. Begin with ``engine.py``.
"""
