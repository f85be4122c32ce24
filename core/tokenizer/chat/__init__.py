"""Chat templates: a checkpoint's own Jinja template, rendered in a sandbox.

Generating the answer is in ``core/generation/``. Begin with ``templates.py``.
"""
