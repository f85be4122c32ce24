"""Hugging Face's folder: config.json beside safetensors or pytorch_model.bin files; MLX's too.

Downloading one is in ``core/sources/``; here only headers are read from the Hub (``remote.py``). Begin with
``reader.py``.
"""
