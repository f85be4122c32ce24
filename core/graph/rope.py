"""Rotary position embeddings: six types, resolved from the config into inverse frequencies.

Form: rotate-half on HF-ordered weights: component ``i`` is paired with ``i + rotary_dim / 2`` (Su et al. 2021,
arXiv:2104.09864). Frequencies are computed in float64 on the host and rounded to float32; the angle is the float32
product of position and frequency, so every backend has the same angles. The first ``rotary_dim`` components of a head
are rotated, the rest pass (``partial_rotary_factor``).

Two types depend on how long a row is: "dynamic" (NTK by length) and "longrope" (another set of factors beyond the
original context). The row's own number of attended tokens decides, never the longest row of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..dtypes import Array
from ..public import for_plugins
from .node import Node

if TYPE_CHECKING:
    import numpy as np

    from ..config.rope import RopeParameters
    from ..config.schema import LlamaConfig
    from .node import Context


@for_plugins
@dataclass(frozen=True)
class Rope(Node):
    """Rotates queries and keys by their positions. ``[B, H, S, D] -> [B, H, S, D]``.

    Attributes:
        inv_freq: ``rotary_dim / 2`` inverse frequencies in radians per position, for rows within ``original_length``.
        attention_factor: multiplies cosine and sine (yarn and longrope).
        long_inv_freq: the frequencies beyond ``original_length`` (longrope only).
        factor: the scaling factor (dynamic only).
        original_length: the row length in tokens from which the type starts to depend on it; 0 where it never does.
    """

    rope_type: str
    head_dim: int
    rotary_dim: int
    inv_freq: tuple[float, ...]
    attention_factor: float = 1.0
    long_inv_freq: tuple[float, ...] = ()
    factor: float = 1.0
    original_length: int = 0

    @property
    def depends_on_length(self) -> bool:
        """Whether a row's length changes its frequencies."""
        return self.rope_type in ("dynamic", "longrope")

    def regime(self, lengths: np.ndarray) -> np.ndarray:
        """A number per row that is equal exactly where the frequencies are; `lengths` is ``[B]`` attended tokens."""
        import numpy as np

        if self.rope_type == "dynamic":
            return np.maximum(np.asarray(lengths, np.int64), self.original_length)
        return (lengths > self.original_length).astype(np.int64)

    def row_frequencies(self, lengths: np.ndarray | None = None) -> np.ndarray:
        """Inverse frequencies ``[B or 1, rotary_dim / 2]`` in float32, each row by its own length.

        Args:
            lengths: ``[B]`` attended tokens of each row; needed only where :attr:`depends_on_length`.
        """
        import numpy as np

        base = np.asarray(self.inv_freq, np.float64)[None, :]
        if lengths is None or not self.depends_on_length:
            return base.astype(np.float32)
        if self.rope_type == "longrope":
            long = np.asarray(self.long_inv_freq, np.float64)[None, :]
            return np.where(self.regime(lengths)[:, None] == 1, long, base).astype(np.float32)
        # The enlarged base b * r^(d / (d - 2)) gives frequency i the factor r^(-2i / (d - 2)).
        ratio = self.factor * self.regime(lengths) / self.original_length - (self.factor - 1.0)
        exponents = np.arange(0, self.rotary_dim, 2, dtype=np.float64) / (self.rotary_dim - 2)
        return (base * ratio[:, None] ** -exponents[None, :]).astype(np.float32)

    def tables(self, xp: Any, positions: Array, frequencies: Array) -> tuple[Array, Array]:
        """Cosines and sines ``[B or 1, 1, S, rotary_dim / 2]`` in the precision of `frequencies`.

        Args:
            positions: ``[B or 1, S]`` integers.
            frequencies: ``[B or 1, rotary_dim / 2]``; float64 only in the reference, which then takes cosine and sine
                of the same float32 angles in float64.
        """
        positions = xp.astype(positions, xp.float32)[:, None, :, None]
        angles = positions * xp.astype(frequencies, xp.float32)[:, None, None, :]
        angles = xp.astype(angles, frequencies.dtype)
        cos, sin = xp.cos(angles), xp.sin(angles)
        if self.attention_factor != 1.0:
            cos, sin = cos * self.attention_factor, sin * self.attention_factor
        return cos, sin

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        cos, sin = ctx.rotary(self)
        half = self.rotary_dim // 2
        wide = ctx.widen(x)
        first, second = wide[..., :half], wide[..., half : self.rotary_dim]
        turned = [first * cos - second * sin, second * cos + first * sin]
        if self.rotary_dim < self.head_dim:
            turned.append(wide[..., self.rotary_dim :])
        return xp.astype(xp.concat(turned, axis=-1), x.dtype)

    def label(self) -> str:
        scaled = f", attention_factor={self.attention_factor:.6g}" if self.attention_factor != 1.0 else ""
        return f"Rope({self.rope_type}, head_dim={self.head_dim}, rotary_dim={self.rotary_dim}{scaled})"


def build_rope(config: LlamaConfig) -> Rope:
    """Resolve a config's ``rope_parameters`` into frequencies.

    >>> from polyllama import LlamaConfig
    >>> build_rope(LlamaConfig(hidden_size=16, num_attention_heads=2)).inv_freq
    (1.0, 0.1, 0.01, 0.001)
    """
    import numpy as np

    rope = config.rope_parameters
    dim = config.rotary_dim
    plain = rope.rope_theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    inv_freq, long, attention_factor = plain, None, 1.0
    factor, original_length = 1.0, 0
    if rope.rope_type == "linear":
        inv_freq = plain / _number(rope.factor)
    elif rope.rope_type == "dynamic":
        factor, original_length = _number(rope.factor), config.max_position_embeddings
    elif rope.rope_type == "llama3":
        inv_freq = _llama3(plain, rope)
    elif rope.rope_type == "yarn":
        inv_freq, attention_factor = _yarn(plain, rope, dim, config.max_position_embeddings)
    elif rope.rope_type == "longrope":
        original_length = int(rope.original_max_position_embeddings or config.max_position_embeddings)
        inv_freq = plain / np.asarray(rope.short_factor, np.float64)
        long = plain / np.asarray(rope.long_factor, np.float64)
        attention_factor = _longrope_attention_factor(rope, config.max_position_embeddings, original_length)
    return Rope(
        rope_type=rope.rope_type,
        head_dim=config.head_dim,
        rotary_dim=dim,
        inv_freq=tuple(inv_freq.tolist()),
        attention_factor=attention_factor,
        long_inv_freq=() if long is None else tuple(long.tolist()),
        factor=factor,
        original_length=original_length,
    )


def _number(value: float | None) -> float:
    if value is None:  # The schema requires it for the types that read it.
        raise ValueError("a validated config has this RoPE parameter")
    return float(value)


def _llama3(inv_freq: np.ndarray, rope: RopeParameters) -> np.ndarray:
    """Llama 3.1's rule: long wavelengths are slowed by `factor`, short ones kept, those between blended.

    Source: Meta's llama-models, ``apply_scaling``.
    """
    import numpy as np

    low, high = _number(rope.low_freq_factor), _number(rope.high_freq_factor)
    turns = _number(rope.original_max_position_embeddings) * inv_freq / (2 * math.pi)  # in the original context
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return inv_freq * (kept + (1.0 - kept) / _number(rope.factor))


def _yarn(
    inv_freq: np.ndarray, rope: RopeParameters, dim: int, max_position_embeddings: int
) -> tuple[np.ndarray, float]:
    """YaRN: dimensions that turn often are kept, slow ones interpolated, with a linear ramp between.

    Source: Peng et al. 2023 (arXiv:2309.00071), sections 3.2 to 3.4.
    """
    import numpy as np

    original = rope.original_max_position_embeddings or max_position_embeddings
    factor = rope.factor if rope.factor is not None else max_position_embeddings / original

    def dimension_of(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.rope_theta))

    low = dimension_of(rope.beta_fast if rope.beta_fast is not None else 32.0)
    high = dimension_of(rope.beta_slow if rope.beta_slow is not None else 1.0)
    if rope.truncate is not False:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # a ramp of no width would divide by zero
    interpolated = np.clip((np.arange(dim // 2, dtype=np.float64) - low) / (high - low), 0.0, 1.0)
    scaled = inv_freq / factor * interpolated + inv_freq * (1.0 - interpolated)

    def temperature(scale: float, weight: float = 1.0) -> float:
        return 0.1 * weight * math.log(scale) + 1.0 if scale > 1.0 else 1.0

    if rope.attention_factor is not None:
        return scaled, float(rope.attention_factor)
    if rope.mscale and rope.mscale_all_dim:
        return scaled, temperature(factor, rope.mscale) / temperature(factor, rope.mscale_all_dim)
    return scaled, temperature(factor)


def _longrope_attention_factor(rope: RopeParameters, max_position_embeddings: int, original: int) -> float:
    """LongRoPE's scale of cosine and sine: ``sqrt(1 + ln(factor) / ln(original))`` (arXiv:2402.13753)."""
    if rope.attention_factor is not None:
        return float(rope.attention_factor)
    factor = rope.factor if rope.factor is not None else max_position_embeddings / original
    return math.sqrt(1.0 + math.log(factor) / math.log(original)) if factor > 1.0 else 1.0
