"""Changes of a graph and its weights: quantizing, another vocabulary, fewer key/value heads, adapters.

Each takes a graph and gives one, and takes weights and gives them one tensor at a time. The packed layout itself is in
``core/quantization/``. Begin with ``quantize_graph.py``.
"""
