"""What a user calls: ``Llama``, ``pipeline`` and the functions and classes around them.

They hand on to the rooms below and compute nothing themselves. Begin with ``llama.py``.
"""
