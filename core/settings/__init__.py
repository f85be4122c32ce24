"""Settings: which backend, device, dtype, cache and plugins to use; their schema, files and variables.

What a checkpoint says of its own model is in ``core/config/``. Begin with ``schema.py``.
"""
