"""Quantization: one packed layout for every backend, group-wise affine, as MLX stores it.

``packing`` has the bits, ``affine`` the rounding, ``settings`` what a config says, ``nodes`` what a quantized graph
consists of, ``transform`` the way from a plain graph to it, ``weights`` the same for tensors.
"""
