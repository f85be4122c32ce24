"""OpenAI's interface: chat, completions, embeddings, models. Begin with ``interface.py``."""
