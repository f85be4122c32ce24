"""What a backend is: the protocol, the choice among backends, what one that trains adds.

The backends themselves are in ``backends/``. Begin with ``protocol.py``.
"""
