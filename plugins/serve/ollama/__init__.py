"""Ollama's interface: chat, generate, embed, tags, show, ps. Begin with ``interface.py``."""
