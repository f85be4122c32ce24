"""From a name to a running model: checkpoint, config, graph, weights and backend brought together.

What a name stands for is in ``core/sources/``, the formats are in ``core/checkpoint/``. Begin with ``load.py``.
"""
