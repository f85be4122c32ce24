"""The spec: nodes that say what they compute, and the graph of a configuration.

A node's own weights are no part of it: they are read in ``core/checkpoint/``. Changes of a graph, such as quantizing,
are in ``core/transforms/``. Begin with ``nodes.py``, then ``from_config.py``.
"""
