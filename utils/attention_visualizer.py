"""``from polyllama.utils.attention_visualizer import AttentionMaskVisualizer``, as the reference documentation has it.

>>> visualizer = AttentionMaskVisualizer("tiny")
>>> visualizer("Once upon")
tiny: 3 tokens
          0 1 2
0 <s>     ■ · ·
1 ▁Once   ■ ■ ·
2 ▁upon   ■ ■ ■
■ looks at it   · comes later
"""

from __future__ import annotations

from ..core.api.visualizer import AttentionMaskVisualizer

__all__ = ["AttentionMaskVisualizer"]
