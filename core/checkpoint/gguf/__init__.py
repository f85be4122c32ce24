"""GGUF, llama.cpp's format: one file of weights, configuration and tokenizer."""
