"""Quantization: one packed layout for every backend, group-wise affine, as MLX stores it.

``packing.py`` has the bits, ``affine.py`` the rounding, ``scheme.py`` what a config says. Nodes with packed weights
are in ``core/graph/quantized.py``, the way from plain graphs and weights to them in ``core/transforms/``, quantizing a
checkpoint in ``core/export/``. Begin with ``affine.py``.
"""
