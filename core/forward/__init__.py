"""One forward pass, the same for every backend: inputs, positions and masks, then embedding, trunk, head and loss.

What each node computes is in ``core/graph/``; the loop over passes that generates text is in ``core/generation/``.
Begin with ``forward.py``.
"""
