"""polyllama's own interface: health, metrics, tokens, the description. Begin with ``interface.py``."""
