"""The frameworks a graph can run on, one folder each; none knows another.

What they all share is in ``core/``. Begin with ``reference/``, which is the spec running itself.
"""
