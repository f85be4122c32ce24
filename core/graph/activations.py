"""The activation functions a Llama's MLP may use, each defined once in array-API terms.

Names and formulas are those of the Hugging Face ``hidden_act`` field. ``ACTIVATIONS[name](xp, x)`` computes elementwise
on arrays of any floating dtype, in that dtype; ``xp`` is the array namespace. The array API has no erf, which "gelu"
needs: one given as ``ops.erf`` is taken, else the namespace's own where it has one, else the definition below.

Importing this module loads no array library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Array = Any

_SQRT_HALF = math.sqrt(0.5)
_GELU_TANH_SCALE = math.sqrt(2.0 / math.pi)
# exp(88) is still finite in float32; beyond it every function here has reached its limit, so nothing may overflow.
_EXP_LIMIT = 87.0


def erf(xp: Any, x: Array) -> Array:
    """The error function, elementwise, to the last digit or two of float64 (absolute error below 1e-15).

    Source: W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969): one rational
    function for each of |x| <= 0.5, |x| <= 4 and beyond.

    >>> import numpy as np
    >>> erf(np, np.array([0.0, 1.0, -3.0])).round(12).tolist()
    [0.0, 0.84270079295, -0.999977909503]
    """
    magnitude = xp.abs(x)
    near = _erf_near(xp.clip(magnitude, 0.0, 0.5))
    # Every branch is computed for every element, so each gets an argument from its own range.
    middle = 1.0 - _erfc_middle(xp, xp.clip(magnitude, 0.5, 4.0))
    far = 1.0 - _erfc_far(xp, xp.clip(magnitude, 4.0, 6.0))  # 1 to the last bit of float64 from 5.92 on
    size = xp.where(magnitude <= 0.5, near, xp.where(magnitude <= 4.0, middle, far))
    signed = xp.where(x < 0, -size, size)
    return xp.where(x == x, signed, x)  # a NaN stays one


def _ratio(t: Array, numerator: tuple[float, ...], denominator: tuple[float, ...]) -> Array:
    """Quotient of two polynomials in `t`, highest power first."""
    top, bottom = t * numerator[0], t * denominator[0]
    for a, b in zip(numerator[1:-1], denominator[1:-1], strict=True):
        top, bottom = (top + a) * t, (bottom + b) * t
    return (top + numerator[-1]) / (bottom + denominator[-1])


_NEAR = (
    (
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
_MIDDLE = (
    (
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594e0,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ),
)
_FAR = (
    (
        1.63153871373020978e-2,
        3.05326634961232344e-1,
        3.60344899949804439e-1,
        1.25781726111229246e-1,
        1.60837851487422766e-2,
        6.58749161529837803e-4,
    ),
    (
        1.0,
        2.56852019228982242e0,
        1.87295284992346047e0,
        5.27905102951428412e-1,
        6.05183413124413191e-2,
        2.33520497626869185e-3,
    ),
)


def _erf_near(x: Array) -> Array:
    return x * _ratio(x * x, *_NEAR)


def _erfc_middle(xp: Any, x: Array) -> Array:
    return xp.exp(-x * x) * _ratio(x, *_MIDDLE)


def _erfc_far(xp: Any, x: Array) -> Array:
    t = 1.0 / (x * x)
    return xp.exp(-x * x) / x * (1.0 / math.sqrt(math.pi) - t * _ratio(t, *_FAR))


def _silu(xp: Any, x: Array, ops: Any = None) -> Array:
    return x / (1.0 + xp.exp(-xp.clip(x, -_EXP_LIMIT, None)))


def _sigmoid(xp: Any, x: Array, ops: Any = None) -> Array:
    return 1.0 / (1.0 + xp.exp(-xp.clip(x, -_EXP_LIMIT, None)))


def _gelu(xp: Any, x: Array, ops: Any = None) -> Array:
    own: Callable[[Array], Array] | None = getattr(ops, "erf", None) or getattr(xp, "erf", None)
    scaled = x * _SQRT_HALF
    return 0.5 * x * (1.0 + (own(scaled) if own is not None else erf(xp, scaled)))


def _gelu_tanh(xp: Any, x: Array, ops: Any = None) -> Array:
    return 0.5 * x * (1.0 + xp.tanh(_GELU_TANH_SCALE * x * (1.0 + 0.044715 * x * x)))


def _quick_gelu(xp: Any, x: Array, ops: Any = None) -> Array:
    return x * _sigmoid(xp, 1.702 * x)


def _relu(xp: Any, x: Array, ops: Any = None) -> Array:
    return xp.clip(x, 0.0, None)


def _relu2(xp: Any, x: Array, ops: Any = None) -> Array:
    positive = _relu(xp, x)
    return positive * positive


def _relu6(xp: Any, x: Array, ops: Any = None) -> Array:
    return xp.clip(x, 0.0, 6.0)


def _leaky_relu(xp: Any, x: Array, ops: Any = None) -> Array:
    return xp.where(x > 0, x, 0.01 * x)


def _tanh(xp: Any, x: Array, ops: Any = None) -> Array:
    return xp.tanh(x)


def _softplus(xp: Any, x: Array, ops: Any = None) -> Array:
    return _relu(xp, x) + xp.log1p(xp.exp(-xp.abs(x)))


def _mish(xp: Any, x: Array, ops: Any = None) -> Array:
    return x * xp.tanh(_softplus(xp, x))


def _elu(xp: Any, x: Array, ops: Any = None) -> Array:
    return xp.where(x > 0, x, xp.expm1(xp.clip(x, None, 0.0)))


def _linear(xp: Any, x: Array, ops: Any = None) -> Array:
    return x


ACTIVATIONS: dict[str, Callable[..., Array]] = {
    "silu": _silu,
    "swish": _silu,
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": _relu,
    "relu2": _relu2,
    "relu6": _relu6,
    "leaky_relu": _leaky_relu,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "mish": _mish,
    "elu": _elu,
    "softplus": _softplus,
    "linear": _linear,
}
"""``hidden_act`` -> ``function(xp, x, ops=None) -> array``."""
