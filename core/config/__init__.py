"""The configuration of a model: its schema, the dialects it is read from, and its checks.

What a user sets for all models is in ``core/settings/``. Begin with ``schema.py``.
"""
