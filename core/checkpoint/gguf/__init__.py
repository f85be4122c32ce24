"""GGUF, llama.cpp's format: one file of weights, configuration and tokenizer, read and written.

What its metadata says of the model and of the tokenizer is read in ``core/config/gguf.py`` and
``core/tokenizer/formats/gguf.py``. Begin with ``reader.py``.
"""
