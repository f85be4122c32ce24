"""Logits into scores."""

from __future__ import annotations

import numpy as np

from ..public import for_plugins


@for_plugins
def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, in float64.

    >>> softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    wide = np.asarray(logits, np.float64)
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


@for_plugins
def sigmoid(logits: np.ndarray) -> np.ndarray:
    """A probability for each number by itself, in float64.

    >>> sigmoid(np.array([0.0, -1000.0])).tolist()
    [0.5, 0.0]
    """
    return np.asarray(np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64))))
