"""Log probabilities of logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]


def log_softmax(logits: Floats, dtype: Any = np.float64) -> Floats:
    """Log probabilities ``[..., vocab]`` of logits, -inf where one is; summed in float64 whatever `dtype` is.

    >>> log_softmax(np.array([0.0, 0.0, -np.inf])).round(4).tolist()
    [-0.6931, -0.6931, -inf]
    """
    shifted: Floats = logits.astype(dtype)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(dtype)
    return shifted
