"""What this machine has: memory, devices, and the limits of a container.

Which of it a backend uses is the backend's to say. Begin with ``devices.py``.
"""
