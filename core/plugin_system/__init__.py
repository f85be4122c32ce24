"""Plugins: the hooks, the descriptors they return, how plugins are found and kept apart from one another.

The built-in plugins are in ``plugins/``. Begin with ``hookspecs.py``.
"""
