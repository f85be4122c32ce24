"""From a model to files: saving, converting between formats, quantizing a checkpoint.

It joins readers, transforms and writers, which are in ``core/checkpoint/`` and ``core/transforms/``. Begin with
``converting.py``.
"""
