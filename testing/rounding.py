"""What rounding may do to a result: bounds from a dtype's unit roundoff, never from what a backend happens to give.

**The model.** A computation rounds at known places: each node's result is rounded to the dtype, a dot product of length
n is accumulated in float32 (or wider) with n more roundings, and so on. :class:`RoundingContext` runs the spec itself
in float64 and, at every one of those places, adds an error of the size that one rounding has there and of random sign.
The spread of the results of a few such runs around the exact run is how far correctly rounded implementations lie from
the truth: it contains the number of roundings, the length of the dot products and how the model amplifies each of them.

**The bound** is ``LAMBDA`` times that spread (root mean square), element by element. Why 6: rounding errors behave as
independent random numbers of mean zero, whose sums have the tails of a normal distribution; the probability that a sum
of n terms exceeds lambda standard deviations is at most ``2 exp(-lambda^2 / 2)``, 3e-8 for lambda 6 (Higham and Mary
2019, "A new approach to probabilistic rounding error analysis"). Running a program on randomly disturbed values to see
what rounding does to it is Monte Carlo arithmetic (Parker 1997).

**Local errors**, for a result y, unit roundoff u of the dtype and w of the wide type (float32; float64 in float64):

===================  ========================================================================================
embedding            0: rows are copied
RMSNorm              ``|y| (sqrt(2) u + (sqrt(n)/2 + 2) w)``: cast and scale; before them a mean of n squares
linear               ``sqrt(1 + bias) u |y| + w sqrt(n) sqrt(sum (x w)^2)``: the result, and n accumulations
packed linear        as linear, and ``u sqrt(sum (x m)^2)``, ``m^2 = (scale q)^2 + weight^2``: its weights are made
packed embedding     ``u (2 |y| + |bias|)``: a product and a sum
RoPE                 ``u |y| + 4 w |x|``: the result; cosine, sine, two products
scores               ``sqrt(2) u |s| + w sqrt(D) max |s|``: product and scaling; D accumulations
probabilities        ``p (u + 4 w)``: one rounding of a softmax that is computed wide
mix of values        ``u |y| + w sqrt(K) |y|``: the result; K accumulations
activation           ``2 u max(|y|, |x| / 2)``: four roundings of numbers no larger than the result or half the argument
gate times up        ``u |y|``
mean over tokens     ``u |y| + w (sqrt(S) + 2) rms(x)``: the result; S accumulations and a quotient
last token, chain    0: a row is copied
adding a residual    ``u |y|`` of the sum
a stored key, value  ``u |y|`` with the u of what the cache holds; int8: half a step, ``max |y| / 254`` of the vector
any other node       ``4 u |y|``
===================  ========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import UnsupportedError
from ..core.graph.cache import Cache
from ..core.graph.node import Context, Node
from ..core.graph.nodes import (
    Attention,
    Chain,
    Decoder,
    DecoderLayer,
    Dropout,
    Embedding,
    GatedMLP,
    Linear,
    Pool,
    RMSNorm,
)
from ..core.graph.quantized import QuantizedEmbedding, QuantizedLinear, values
from ..core.graph.rope import Rope

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

UNIT_ROUNDOFF: Mapping[str, float] = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}
"""Half the distance from 1 to the next number: the largest relative error of one rounding to nearest."""

SMALLEST: Mapping[str, float] = {
    "float64": 2.0**-1074,
    "float32": 2.0**-149,
    "float16": 2.0**-24,
    "bfloat16": 2.0**-133,
}
"""Distance of neighbours near zero: what a result below the normal range may be off by."""

STORED = ("float32", "bfloat16", "float16", "int8")
"""What a cache may hold keys and values in: the values of the setting ``kv_cache`` but ``auto``."""

LAMBDA = 6.0


@dataclass(frozen=True)
class Precision:
    """A dtype's unit roundoff `unit`, and `wide`, that of what the contract computes wide.

    ``gain`` enlarges float64's disturbances while they are measured, above the noise of the float64 they are measured
    in; ``share`` is the square root of 2 for float64, where the reference rounds as much as the backend.
    """

    dtype: str
    unit: float
    wide: float
    gain: float = 1.0
    share: float = 1.0

    @classmethod
    def of(cls, dtype: str) -> Precision:
        """The precision of a dtype by name.

        >>> Precision.of("bfloat16").unit
        0.00390625
        """
        unit = UNIT_ROUNDOFF.get(dtype)
        if unit is None:
            raise UnsupportedError(
                f"no error bounds are known for dtype {dtype!r}", hint=f"known: {', '.join(UNIT_ROUNDOFF)}"
            )
        if dtype == "float64":
            return cls(dtype, unit, unit, gain=2.0**20, share=2.0**0.5)
        return cls(dtype, unit, UNIT_ROUNDOFF["float32"])


def rms_norm_bound(precision: Precision, y: Floats, roundings: int) -> Floats:
    """Largest error of an RMSNorm whose input is exact: `roundings` to the dtype, and float32's before them.

    The mean of n squares is off by at most n + 1 float32 roundings, its root by half of that; adding eps, the root and
    the division add three.
    """
    relative = roundings * precision.unit + (y.shape[-1] / 2 + 4) * precision.wide
    bound: Floats = np.abs(y) * relative + SMALLEST[precision.dtype]
    return bound


def linear_bound(precision: Precision, x: Floats, weight: Floats, y: Floats) -> Floats:
    """Largest error of ``x @ weight.T`` whose inputs are exact: n accumulations, then one rounding to the dtype.

    The error of accumulating is at most ``lambda sqrt(n) w |x| |weight|`` with the probability above, and never more
    than ``n w |x| |weight|`` (Higham and Mary 2019, theorem 3.1).
    """
    n = x.shape[-1]
    accumulated = min(n, LAMBDA * np.sqrt(n)) * precision.wide * (np.abs(x) @ np.abs(weight).T)
    bound: Floats = precision.share * (precision.unit * np.abs(y) + accumulated) + SMALLEST[precision.dtype]
    return bound


def quantized_linear_bound(precision: Precision, x: Floats, weight: Floats, steps: Floats) -> Floats:
    """Largest error of a product with packed weights: :func:`linear_bound`, and the making of the weights.

    A weight is ``steps + bias``: a backend may make it in its dtype, with one rounding of the product ``scale * q``
    and one of the sum. These errors are added up over the inputs.
    """
    made = precision.unit * np.sqrt((x * x) @ (steps * steps + weight * weight).T)
    plain = linear_bound(precision, x, weight, x @ weight.T)
    bound: Floats = plain + LAMBDA * precision.share * made
    return bound


def quantized_rows_bound(precision: Precision, table: Floats, steps: Floats) -> Floats:
    """Largest error of unpacked rows: one rounding of the product ``scale * q`` and one of the sum."""
    bound: Floats = precision.share * precision.unit * (np.abs(steps) + np.abs(table)) + SMALLEST[precision.dtype]
    return bound


def stored_error(element: str, x: Floats) -> Floats:
    """The size of the error of keys or values ``[..., D]`` that a cache stores as `element`.

    A vector in int8 has a scale of its own, its largest size over 127, and a value is off by half of that at most.
    """
    if element == "int8":
        return np.broadcast_to(np.max(np.abs(x), axis=-1, keepdims=True) / 254.0, x.shape)
    error: Floats = UNIT_ROUNDOFF[element] * np.abs(x) + SMALLEST[element] / 2
    return error


class RoundingContext(Context):
    """Runs the spec with one error of random sign at every place where a backend rounds.

    Args:
        precision: what it would be rounded to.
        exact: how many leading rows of the batch stay exact.
        seed: of the signs.
        element: what keys and values are rounded to when they are stored; ``None`` for the dtype itself.
    """

    def __init__(
        self,
        *args: Any,
        precision: Precision,
        exact: int,
        seed: int = 0,
        element: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.precision, self.exact = precision, exact
        if element is not None:
            self.cache = _RoundingCache(self, element)
        self._rng = np.random.default_rng(seed)
        self._inner: dict[int, str] = {}
        self._added: set[int] = set()
        self._residual: Any = None
        self._head_dim = 1
        self._keys = 1

    def run(self, node: Node, x: Any) -> Any:
        """Compute a node on `x` as it would come out of a rounding machine."""
        x = self._rounded_input(node, x)
        self._enter(node, x)
        y = node.apply(self.xp, self.weights, x, self)
        return self._leave(node, self.disturb(y, self.local(node, x, y)))

    def _enter(self, node: Node, x: Any) -> None:
        if isinstance(node, DecoderLayer):
            self._residual = x
            self._added |= {id(node.attention), id(node.mlp)}
        elif isinstance(node, Attention):
            self._inner[id(node.o)] = "values"
            self._head_dim = node.head_dim
        elif isinstance(node, GatedMLP):
            self._inner[id(node.down)] = "product"

    def _leave(self, node: Node, y: Any) -> Any:
        if id(node) in self._added:  # it is added to the residual stream: the sum is rounded too
            y = self.disturb(y, self.precision.unit * np.abs(self._residual + y))
            self._residual = self._residual + y
        return y

    def _rounded_input(self, node: Node, x: Any) -> Any:
        """An input that no node produced: rounded where it was computed, inside the parent."""
        kind = self._inner.get(id(node))
        if kind is None or x.dtype.kind != "f":
            return x
        deviation = self.precision.unit * np.abs(x)
        if kind == "values":
            spread = np.sqrt(np.mean(x * x, axis=-1, keepdims=True))
            deviation = deviation + self.precision.wide * np.sqrt(self._keys) * spread
        return self.disturb(x, deviation)

    def local(self, node: Node, x: Any, y: Any) -> Any:
        """The size of the error that `node` itself adds to `y`; see the table above."""
        unit, wide = self.precision.unit, self.precision.wide
        if isinstance(node, QuantizedEmbedding):
            biases = np.repeat(self.weights[f"{node.name}.biases"][x], node.group_size, axis=-1)
            return unit * (2 * np.abs(y) + np.abs(biases))
        if isinstance(node, Embedding | DecoderLayer | Attention | GatedMLP | Decoder | Chain | Dropout):
            return 0.0
        if isinstance(node, Pool):
            if node.pooling == "last":
                return 0.0
            spread = np.sqrt(np.mean(x * x, axis=1))
            return unit * np.abs(y) + wide * (np.sqrt(x.shape[1]) + 2) * spread
        if isinstance(node, RMSNorm):
            return np.abs(y) * (np.sqrt(2.0) * unit + (np.sqrt(node.dim) / 2 + 2) * wide)
        if isinstance(node, Linear):
            weight = self.weights[node.weight_name]
            spread = np.sqrt((x * x) @ (weight * weight).T)
            return np.sqrt(1.0 + node.bias) * unit * np.abs(y) + wide * np.sqrt(node.in_features) * spread
        if isinstance(node, QuantizedLinear):
            words, scales, biases = node.tensors(self.weights)
            weight = values(np, words, scales, biases, node.bits, self)
            steps = weight - np.repeat(biases, node.group_size, axis=-1)
            spread = np.sqrt((x * x) @ (weight * weight).T)
            made = np.sqrt((x * x) @ (weight * weight + steps * steps).T)
            summed = wide * np.sqrt(node.in_features) * spread
            return np.sqrt(1.0 + node.bias) * unit * np.abs(y) + summed + unit * made
        if isinstance(node, Rope):
            size = np.sqrt(2.0 * np.mean(x * x, axis=-1, keepdims=True))
            return unit * np.abs(y) + 4 * wide * node.attention_factor * size
        return 4 * unit * np.abs(y)

    def disturb(self, y: Any, deviation: Any) -> Any:
        """`y` with an error of size `deviation` and random sign, but for the exact rows."""
        rows = y[self.exact :]
        bits = np.frombuffer(self._rng.bytes(-(-rows.size // 8)), np.uint8)
        signs = np.unpackbits(bits, count=rows.size).reshape(rows.shape) * 2.0 - 1.0
        size = deviation[self.exact :] if np.ndim(deviation) else deviation
        return np.concatenate([y[: self.exact], rows + self.precision.gain * size * signs])

    def masked(self, scores: Any) -> Any:
        self._keys = scores.shape[-1]
        largest = np.max(np.abs(scores), axis=-1, keepdims=True)
        deviation = np.sqrt(2.0) * self.precision.unit * np.abs(scores)
        return super().masked(self.disturb(scores, deviation + self.precision.wide * np.sqrt(self._head_dim) * largest))

    def keep_attention(self, probabilities: Any) -> None:
        super().keep_attention(self._probabilities(probabilities))

    def dropout(self, x: Any, p: float) -> Any:
        # Attention's probabilities are rounded where dropout would be; a head's dropout changes nothing.
        return self._probabilities(x) if x.ndim == 4 else x

    def _probabilities(self, p: Any) -> Any:
        return self.disturb(p, p * (self.precision.unit + 4 * self.precision.wide))

    def activate(self, name: str, x: Any) -> Any:
        y = super().activate(name, x)
        return self.disturb(y, 2 * self.precision.unit * np.maximum(np.abs(y), np.abs(x) / 2))


class _RoundingCache(Cache):
    """Holds nothing: gives keys and values back as they would come out of a cache of `element`."""

    def __init__(self, ctx: RoundingContext, element: str) -> None:
        super().__init__()
        self.ctx, self.element = ctx, element

    def update(self, name: str, keys: Any, values: Any) -> tuple[Any, Any]:
        keys, values = (self.ctx.disturb(part, stored_error(self.element, part)) for part in (keys, values))
        return keys, values


@dataclass(frozen=True)
class Expected:
    """What the float64 spec gives, and how far from it rounding may take each element."""

    wanted: Floats
    bound: Floats

    def __getitem__(self, index: Any) -> Expected:
        return Expected(self.wanted[index], self.bound[index])


def expected(wanted: Floats, disturbed: Floats, precision: Precision) -> Expected:
    """The bound that `disturbed` runs ``[runs, ...]`` put around the `wanted` result.

    The spread of an element is measured from a few runs, so that of its whole last axis counts where it is larger.
    """
    squares = np.mean((disturbed - wanted) ** 2, axis=0)
    spread = np.sqrt(squares)
    if wanted.ndim:
        spread = np.maximum(spread, np.sqrt(np.mean(squares, axis=-1, keepdims=True)))
    return Expected(wanted, LAMBDA * precision.share / precision.gain * spread)
