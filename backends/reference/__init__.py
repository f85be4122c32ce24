"""The reference backend: the spec running itself in NumPy. Begin with ``backend.py``."""
