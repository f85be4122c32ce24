"""The cpu backend: native kernels for the processor at hand. Begin with ``backend.py``."""
