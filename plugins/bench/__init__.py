"""Speed side by side: random models of a given shape, each contender in a process of its own, measured in turns.

It is what ``polyllama bench`` runs; the project's own benchmarks are in ``benchmarks/``. Begin with ``run.py``.
"""
