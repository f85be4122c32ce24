"""RoPE between a config and GGUF, which has per-frequency divisors in place of Llama 3.1's rule.

llama.cpp's converter evaluates the rule and stores one divisor for each frequency (``rope_freqs.weight``). Reading
finds the rule again: Meta's constants are tried, then the rule is solved for; divisors that follow no such rule are
kept as LongRoPE's factors, which divide frequencies one by one just so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...config.schema import LlamaConfig
    from ..protocol import Array

_CONSTANTS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_TOLERANCE = 2e-6


def llama3_divisors(parameters: dict[str, Any], theta: float, rotary_dim: int) -> Array:
    """What Llama 3.1's rule divides each inverse frequency by, ``[rotary_dim / 2]`` in float64."""
    import numpy as np

    frequencies = theta ** (-np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)
    turns = parameters["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    divisors: Array = 1.0 / (kept + (1.0 - kept) / parameters["factor"])
    return divisors


def rope_from_divisors(divisors: Array, theta: float, original: int | None) -> dict[str, Any]:
    """The rule behind ``rope_freqs.weight``, as ``rope_parameters``.

    Args:
        divisors: ``[rotary_dim / 2]``.
        theta: base of the frequencies.
        original: the original context, where the metadata states it.

    >>> import numpy as np
    >>> rule = {"factor": 8.0, **_CONSTANTS}
    >>> divisors = llama3_divisors(rule, 500000.0, 128).astype(np.float32)
    >>> rope_from_divisors(divisors, 500000.0, None) == {"rope_type": "llama3", **rule}
    True
    """
    import numpy as np

    values = np.asarray(divisors, np.float64)
    if np.all(values == 1.0):
        return {}
    factor = float(f"{values.max():.7g}")
    candidates = [{"factor": factor, **_CONSTANTS}]
    if original is not None:
        candidates.append(candidates[0] | {"original_max_position_embeddings": original})
    candidates += _solved(values, theta, factor, original)
    for rule in candidates:
        if np.allclose(llama3_divisors(rule, theta, 2 * len(values)), values, rtol=_TOLERANCE, atol=0):
            return {"rope_type": "llama3", **rule}
    plain = [float(f"{v:.9g}") for v in values]
    return {"rope_type": "longrope", "short_factor": plain, "long_factor": plain, "attention_factor": 1.0}


def _solved(values: Array, theta: float, factor: float, original: int | None) -> list[dict[str, Any]]:
    """The rule from two divisors on its slope, where the kept share is linear in the frequency."""
    import numpy as np

    if factor <= 1.0:
        return []
    frequencies = theta ** (-np.arange(len(values), dtype=np.float64) / len(values)) / (2 * math.pi)
    kept = (1.0 / values - 1.0 / factor) / (1.0 - 1.0 / factor)
    slope = np.flatnonzero((kept > 1e-4) & (kept < 1.0 - 1e-4))
    if len(slope) < 2:
        return []
    first, last = slope[0], slope[-1]
    rise = (kept[first] - kept[last]) / (frequencies[first] - frequencies[last])  # original / (high - low)
    offset = rise * frequencies[first] - kept[first]  # low / (high - low)
    if rise <= 0 or offset <= 0:
        return []
    # The three are known up to a common factor: a stated context settles it, else low is taken for 1.
    length = original if original is not None else round(rise / offset)
    width = length / rise
    low, high = offset * width, (offset + 1) * width
    rule = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    rounded = {name: float(f"{value:.4g}") for name, value in rule.items()}
    return [{**r, "original_max_position_embeddings": length} for r in (rounded, rule)]


def divisors_of(config: LlamaConfig) -> Array | None:
    """``rope_freqs.weight`` of a config: Llama 3.1's divisors in float32, None for the other types."""
    import numpy as np

    if config.rope_parameters.rope_type != "llama3":
        return None
    return llama3_divisors(config.rope_parameters.to_dict(), config.rope_theta, config.rotary_dim).astype(np.float32)
