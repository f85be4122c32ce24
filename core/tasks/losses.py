"""Losses, written once in array-API terms, differentiable wherever the framework is.

Each is a mean over what counts. With `num_items` it is the sum divided by that number instead, as gradient accumulation
over unequal batches needs. Where nothing counts the mean is 0 / 0, so NaN, as everywhere else.

Padding, as an attention mask tells it, has no part in a loss: a batch's is that of its rows alone.

Labels are checked before a pass wherever somebody can look at them. Where nobody can, because they are traced or on
another device, a label that is none makes the loss and its own gradients NaN: trained on, it would count as some other.
"""

from __future__ import annotations

from typing import Any

from ..public import for_plugins

IGNORE_INDEX = -100
"""Label of positions that no loss looks at."""

IMPOSSIBLE = -1e30
"""A logit of no probability; finite, as where everything is impossible the gradients are not to be NaN."""


@for_plugins
def log_softmax(xp: Any, logits: Any) -> Any:
    """Logarithm of the softmax over the last axis."""
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


@for_plugins
def cross_entropy(xp: Any, logits: Any, labels: Any, num_items: Any = None) -> Any:
    """Mean cross entropy of `logits` ``[N, C]`` against `labels` ``[N]`` from 0 to C - 1; -100 is ignored.

    Args:
        num_items: divide the sum by this instead of by the number of labels that count, as gradient accumulation over
            unequal batches needs.

    Returns:
        A scalar; 0 / 0, so NaN, when nothing counts and `num_items` is not given, as everywhere else; NaN with any
        other label.

    >>> import numpy as np
    >>> logits = np.zeros((2, 4))
    >>> [round(float(cross_entropy(np, logits, np.array([3, label]))), 4) for label in (0, -100, -1)]
    [1.3863, 1.3863, nan]
    """
    counts = labels != IGNORE_INDEX
    known = (labels >= 0) & (labels < logits.shape[-1])
    safe = xp.where(known, labels, xp.zeros_like(labels))
    picked = xp.take_along_axis(log_softmax(xp, logits), safe[:, None], axis=-1)[:, 0]
    # An ignored one has a factor too, of 1: 0 times NaN would be its gradient otherwise.
    picked = _or_nan(xp, picked, known | (labels == IGNORE_INDEX))
    # where, not a product: an ignored position may hold an infinite log-probability, and 0 * inf is NaN.
    losses = xp.where(counts, -picked, xp.zeros_like(picked))
    if num_items is None:
        num_items = xp.sum(xp.astype(counts, logits.dtype))
    return xp.sum(losses) / num_items


def _or_nan(xp: Any, values: Any, known: Any) -> Any:
    """`values`, NaN where they are not `known`, as are their gradients there: a factor, which has a slope."""
    one = xp.ones_like(values)
    return values * xp.where(known, one, xp.full_like(one, float("nan")))


@for_plugins
def ignore_padding(xp: Any, labels: Any, attended: Any) -> Any:
    """Labels ``[B, S]`` with -100 where `attended` ``[B, S]`` is false; as they are where that is ``None``.

    >>> import numpy as np
    >>> ignore_padding(np, np.array([[7, 8, 9]]), np.array([[False, True, True]]))
    array([[-100,    8,    9]])
    """
    return labels if attended is None else xp.where(attended, labels, xp.full_like(labels, IGNORE_INDEX))


@for_plugins
def causal_lm_loss(xp: Any, logits: Any, labels: Any, num_items: Any = None, attended: Any = None) -> Any:
    """Next-token loss: position ``i`` predicts label ``i + 1``.

    Args:
        logits: ``[B, S, V]`` in float32.
        labels: ``[B, S]`` token ids, -100 where ignored; not shifted by the caller.
        attended: ``[B, S]`` booleans, false at padding, which neither predicts nor is predicted; ``None`` for none.
    """
    vocabulary = logits.shape[-1]
    wanted = ignore_padding(xp, labels, attended)[:, 1:]
    if attended is not None:
        wanted = ignore_padding(xp, wanted, attended[:, :-1])  # what stands before a row's first token knows nothing
    predictions = xp.reshape(logits[:, :-1, :], (-1, vocabulary))
    return cross_entropy(xp, predictions, xp.reshape(wanted, (-1,)), num_items)


@for_plugins
def mean_squared_error(xp: Any, predictions: Any, targets: Any, num_items: Any = None) -> Any:
    """Mean of squared differences of two arrays of one shape."""
    squares = (predictions - targets) ** 2
    return xp.mean(squares) if num_items is None else xp.sum(squares) / num_items


@for_plugins
def binary_cross_entropy(xp: Any, logits: Any, targets: Any, num_items: Any = None) -> Any:
    """Mean cross entropy of independent yes/no answers: `logits` against `targets` from 0 to 1, of one shape.

    NaN with a target beyond these.

    ``-t log sigmoid(x) - (1 - t) log(1 - sigmoid(x))`` is ``max(x, 0) - x t + log(1 + exp(-|x|))``, in which nothing
    overflows and nothing small is taken from something large.

    >>> import numpy as np
    >>> round(float(binary_cross_entropy(np, np.array([1000.0, 0.0]), np.array([1.0, 0.5]))), 4)
    0.3466
    """
    positive = logits > 0
    # Spelled out rather than maximum and abs: at 0, where a new head may start, their gradients would be wrong.
    largest = xp.where(positive, logits, xp.zeros_like(logits))
    losses = largest - logits * targets + xp.log1p(xp.exp(xp.where(positive, -logits, logits)))
    losses = _or_nan(xp, losses, (targets >= 0) & (targets <= 1))
    return xp.mean(losses) if num_items is None else xp.sum(losses) / num_items


@for_plugins
def span_loss(
    xp: Any,
    start_logits: Any,
    end_logits: Any,
    start_positions: Any,
    end_positions: Any,
    num_items: Any = None,
    attended: Any = None,
) -> Any:
    """Mean of two cross entropies ``[B, S]``: where a span starts and where it ends.

    Positions ``[B]`` before the first token or after the last are ignored: an answer that a cut text has lost, or none.

    Args:
        attended: ``[B, S]`` booleans, false at padding, which no span starts or ends at; ``None`` for none. A position
            that is padding makes the loss NaN.
    """
    length = start_logits.shape[-1]

    def one(logits: Any, positions: Any) -> Any:
        inside = (positions >= 0) & (positions < length)
        wanted = xp.where(inside, positions, xp.full_like(positions, IGNORE_INDEX))
        if attended is not None:
            logits = xp.where(attended, logits, xp.full_like(logits, IMPOSSIBLE))
            places = xp.where(inside, positions, xp.zeros_like(positions))[:, None]
            padding = xp.take_along_axis(attended, places, axis=-1)[:, 0] == xp.zeros_like(inside)
            wanted = xp.where(inside & padding, xp.full_like(wanted, -1), wanted)
        return cross_entropy(xp, logits, wanted, num_items)

    return (one(start_logits, start_positions) + one(end_logits, end_positions)) / 2
