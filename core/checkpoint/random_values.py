"""Random starting values that are the same bits on every machine.

NumPy promises the raw stream of a bit generator (NEP 19), but not its normal distribution, whose tails also go through
the platform's ``log`` and ``exp``. So a value here is the sum of twelve 16-bit uniform integers, shifted and scaled:
mean 0, the exact standard deviation, bounded by six of them, and close to normal (kurtosis 2.9 instead of 3).
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import TYPE_CHECKING

from ..dtypes import is_float, numpy_dtype
from ..errors import UnsupportedError
from .protocol import ParameterLike

if TYPE_CHECKING:
    from .protocol import Array

BLOCK = 1_048_573
"""Values drawn per seed. It is prime, so that no row of a large matrix repeats another at the same columns."""

_TERMS = 12
# A uniform 16-bit integer has variance (2**32 - 1) / 12. Square root and division round exactly; a power might not.
_SCALE = 1 / math.sqrt(2**32 - 1)


def initial_tensor(parameter: ParameterLike, *, seed: int, dtype: str, initializer_range: float) -> Array:
    """Norms 1, biases 0, everything else random with standard deviation ``initializer_range``.

    Depends on the seed and the parameter's name and shape alone. A tensor with more values than ``BLOCK`` repeats the
    block, starting at a place that its name decides.

    >>> from polyllama.core.graph.node import Parameter
    >>> initial_tensor(Parameter("model.norm.weight", (3,), "norm"), seed=0, dtype="float32", initializer_range=0.02)
    array([1., 1., 1.], dtype=float32)
    """
    import numpy as np

    if not is_float(dtype):
        raise UnsupportedError(f"weights cannot start as {dtype}", hint="use a floating-point dtype")
    if parameter.purpose == "norm":
        return np.ones(parameter.shape, numpy_dtype(dtype))
    if parameter.purpose == "bias" or parameter.name.endswith(".bias"):
        return np.zeros(parameter.shape, numpy_dtype(dtype))
    values = np.empty(parameter.shape, numpy_dtype(dtype))
    _fill(values.reshape(-1), _block(seed, dtype, float(initializer_range)), _offset(seed, parameter.name))
    return values


def _offset(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little") % BLOCK


def _fill(values: Array, block: Array, offset: int) -> None:
    position = 0
    while position < values.size:
        count = min(BLOCK - offset, values.size - position)
        values[position : position + count] = block[offset : offset + count]
        position, offset = position + count, 0


@lru_cache(maxsize=2)
def _block(seed: int, dtype: str, initializer_range: float) -> Array:
    import numpy as np

    words = BLOCK * _TERMS // 4 + 1
    raw = np.random.PCG64(seed).random_raw(words)
    uniform = raw.astype("<u8", copy=False).view("<u2")[: BLOCK * _TERMS].reshape(_TERMS, BLOCK)
    total = uniform.sum(axis=0, dtype=np.int64)
    centred = 2 * total - _TERMS * 65535  # doubled, to stay an integer
    block: Array = (centred * (0.5 * _SCALE * initializer_range)).astype(numpy_dtype(dtype))
    block.flags.writeable = False
    return block
