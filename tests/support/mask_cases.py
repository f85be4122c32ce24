"""Shared by the tests of core/attention_mask: models and helpers."""

from __future__ import annotations

from typing import Any

from tiny_models import ALL_BACKENDS

SVG = "{http://www.w3.org/2000/svg}"


ROWS = [[5, 9, 33, 7, 2, 11], [8, 1, 60]]


CASES: dict[str, dict[str, Any]] = {
    "one": {"texts": ROWS[0]},
    "left": {"texts": ROWS, "padding_side": "left"},
    "right": {"texts": ROWS, "padding_side": "right"},
    "equal": {"texts": [ROWS[0], ROWS[0][::-1]], "padding_side": "left"},
    "packed": {"texts": [*ROWS, [4]], "packed": True},
}


BACKENDS = ("reference", "torch", "mlx", "jax", *(("cpu",) if "cpu" in ALL_BACKENDS else ()))


PADDED = """\
tiny, text 1 of 2: 5 tokens
  pos             0 1 2 3 4
0   0 <s>         ■ · · · ·
1   1 ▁Once       ■ ■ · · ·
2   2 ▁upon       ■ ■ ■ · ·
3   3 ▁a          ■ ■ ■ ■ ·
4   4 ▁time       ■ ■ ■ ■ ■

tiny, text 2 of 2, 2 of padding on the left: 5 tokens
  pos             0 1 2 3 4
0   0 (padding)   ■ - · · ·
1   0 (padding)   - ■ · · ·
2   0 <s>         - - ■ · ·
3   1 ▁The        - - ■ ■ ·
4   2 ▁sun        - - ■ ■ ■
■ looks at it   · comes later   - padding
a padding token sees itself, so that its softmax has something to run over; nobody sees it"""


PACKED = """\
tiny, 2 texts packed into one row: 8 tokens
  pos             0 1 2 3 4 5 6 7
0   0 <s>         ■ · · · · · · ·
1   1 ▁The        ■ ■ · · · · · ·
2   2 ▁sun        ■ ■ ■ · · · · ·
3   0 <s>         x x x ■ · · · ·
4   1 ▁           x x x ■ ■ · · ·
5   2 <0xE4> 你   x x x ■ ■ ■ · ·
6   3 <0xBD>      x x x ■ ■ ■ ■ ·
7   4 <0xA0>      x x x ■ ■ ■ ■ ■
■ looks at it   · comes later   x another text"""
