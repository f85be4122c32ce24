"""Anthropic's interface: messages, their stream of events, counting tokens. Begin with ``interface.py``."""
