"""Rounding matrices to GGUF's blocks of 32 values: int8 to Q8_0, int4 to Q4_1.

Q8_0 has no place for a bias, so its scales are symmetric, as llama.cpp's are. Q4_1 has one: its groups are those of any
int4 here with scales and biases in half precision, so an int4-g32 in MLX's layout and in GGUF compute the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import UnsupportedError
from ...messages import mention
from .blocks import GROUP

if TYPE_CHECKING:
    import numpy as np

    from ...quantization.affine import Quantized
    from ...quantization.scheme import ModuleQuantization

_TYPES = {8: "Q8_0", 4: "Q4_1"}


def gguf_quantizing(text: str) -> tuple[ModuleQuantization, Callable[[np.ndarray[Any, Any], str], Quantized]]:
    """What GGUF holds of what is asked for, and what rounds a matrix, given with its name, to it.

    Args:
        text: ``"int8"``, ``"int4-g32"``; where no group is named, it is GGUF's.

    Raises:
        UnsupportedError: GGUF has no such type; names the nearest.

    >>> str(gguf_quantizing("int8")[0])
    'int8-g32'
    """
    from ...quantization.affine import quantize, quantize_symmetric
    from ...quantization.scheme import asks_for_group, parse_quantize

    asked = parse_quantize(text)
    if asked.bits not in _TYPES or (asks_for_group(text) and asked.group_size != GROUP):
        groups = f" in groups of {asked.group_size}" if asks_for_group(text) else ""
        raise UnsupportedError(
            mention("quantize", text) + f": GGUF has no type of {asked.bits} bits{groups}",
            hint="use "
            + " or ".join(f"{name} ({_TYPES[parse_quantize(name).bits]})" for name in nearest_types(asked.bits)),
        )
    rounding: Any = quantize_symmetric if asked.bits == 8 else quantize
    made = partial(rounding, group_size=GROUP, bits=asked.bits, scales="float16")
    return asked.model_copy(update={"group_size": GROUP}), lambda matrix, name: made(matrix, name=name)


def nearest_types(bits: int) -> list[str]:
    """What GGUF holds in place of so many bits: the same, or all, the nearest first.

    >>> nearest_types(8), nearest_types(5)
    (['int8-g32'], ['int4-g32', 'int8-g32'])
    """
    nearest = sorted(_TYPES, key=lambda held: (abs(held - bits), -held))
    return [f"int{held}-g{GROUP}" for held in (nearest[:1] if bits in _TYPES else nearest)]
