"""The JAX backend: the spec's own definitions under ``jit``. Begin with ``backend.py``."""
