"""Losses, written once in array-API terms, differentiable wherever the framework is."""

from __future__ import annotations

from typing import Any

IGNORE_INDEX = -100
"""Label of positions that no loss looks at."""


def log_softmax(xp: Any, logits: Any) -> Any:
    """Logarithm of the softmax over the last axis."""
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def cross_entropy(xp: Any, logits: Any, labels: Any, num_items: Any = None) -> Any:
    """Mean cross entropy of `logits` ``[N, C]`` against `labels` ``[N]``; -100 is ignored.

    Args:
        num_items: divide the sum by this instead of by the number of labels that count, as gradient accumulation over
            unequal batches needs.

    Returns:
        A scalar; 0 / 0, so NaN, when nothing counts and `num_items` is not given, as everywhere else.
    """
    counts = labels != IGNORE_INDEX
    safe = xp.where(counts, labels, xp.zeros_like(labels))
    picked = xp.take_along_axis(log_softmax(xp, logits), safe[:, None], axis=-1)[:, 0]
    # where, not a product: an ignored position may hold an infinite log-probability, and 0 * inf is NaN.
    losses = xp.where(counts, -picked, xp.zeros_like(picked))
    if num_items is None:
        num_items = xp.sum(xp.astype(counts, logits.dtype))
    return xp.sum(losses) / num_items


def causal_lm_loss(xp: Any, logits: Any, labels: Any, num_items: Any = None) -> Any:
    """Next-token loss: position ``i`` predicts label ``i + 1``.

    Args:
        logits: ``[B, S, V]`` in float32.
        labels: ``[B, S]`` token ids, -100 where ignored; not shifted by the caller.
    """
    vocabulary = logits.shape[-1]
    predictions = xp.reshape(logits[:, :-1, :], (-1, vocabulary))
    return cross_entropy(xp, predictions, xp.reshape(labels[:, 1:], (-1,)), num_items)
