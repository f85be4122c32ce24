"""Which token may look at which: the masks of a model as text, SVG, PNG and plain data."""

from .picture import AttentionMask, Heat, Row
from .visualizer import AttentionMaskVisualizer

__all__ = ["AttentionMask", "AttentionMaskVisualizer", "Heat", "Row"]
