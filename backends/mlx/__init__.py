"""The MLX backend: an ``mlx.nn.Module`` whose parameters are the checkpoint. Begin with ``backend.py``."""
