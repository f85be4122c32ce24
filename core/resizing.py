"""Another size of the vocabulary: rows of the embedding and of the head cut off or added, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .checkpoint.weights import Weights
from .errors import InputError, UnsupportedError
from .llama import build_graph

if TYPE_CHECKING:
    import numpy as np

    from .checkpoint.base import TensorInfo
    from .config import LlamaConfig
    from .task import Task

    Array = np.ndarray[Any, Any]


def resize_vocabulary(
    weights: Weights, config: LlamaConfig, task: Task, vocab_size: int, packed: Collection[str] = ()
) -> tuple[Weights, LlamaConfig]:
    """The weights and the config of the same model with another number of tokens.

    The first rows stay as they are, bit for bit. New rows are the mean of the old ones, so that a new token is neither
    likely nor unlikely before it is trained (https://nlp.stanford.edu/~johnhew/vocab-expansion.html).

    Args:
        weights: under the names of the graph of `config` and `task`.
        vocab_size: rows that the embedding, and a head over the vocabulary, shall have.
        packed: modules whose weights are packed, of which none may be one of these.

    Raises:
        InputError: not a positive number, or a special token would be cut off.
        UnsupportedError: the embedding or the head is packed.
    """
    if type(vocab_size) is not int or vocab_size < 1:
        raise InputError(f"vocab_size={vocab_size!r} is not a number of tokens")
    ids = {"bos_token_id": config.bos_token_id, "pad_token_id": config.pad_token_id}
    ids |= {f"eos_token_id {number}": number for number in config.eos_token_ids}
    cut = [name for name, number in ids.items() if number is not None and number >= vocab_size]
    if cut:
        raise InputError(f"vocab_size={vocab_size} would cut off {', '.join(cut)}", hint="keep more rows")
    made = config.replace(vocab_size=vocab_size)
    before = {parameter.name: parameter.shape for parameter in build_graph(config, task).parameters()}
    changed = {p.name: p.shape for p in build_graph(made, task).parameters() if p.shape != before[p.name]}
    if held := sorted({name.removesuffix(".weight") for name in changed} & set(packed)):
        raise UnsupportedError(
            f"{', '.join(held)}: packed weights are not resized", hint="give a dtype, which unpacks them"
        )

    def entries() -> Iterator[tuple[TensorInfo, Callable[[], Array]]]:
        for name in weights:
            info = weights.info(name)
            if name in changed:
                yield replace(info, shape=changed[name]), _resized(weights, name, vocab_size)
            else:
                yield info, lambda name=name: weights[name]  # type: ignore[misc]

    return Weights(entries()), made


def _resized(weights: Weights, name: str, rows: int) -> Callable[[], Array]:
    return lambda: resized_rows(weights[name], rows)


def resized_rows(array: Array, rows: int) -> Array:
    """The first rows, and the mean of all for those that are missing; a copy only where rows are added.

    >>> import numpy as np
    >>> resized_rows(np.array([[1.0, 4.0], [3.0, 0.0]]), 3).tolist()
    [[1.0, 4.0], [3.0, 0.0], [2.0, 2.0]]
    """
    import numpy as np

    if rows <= len(array):
        return array[:rows]
    found = np.empty((rows, *array.shape[1:]), array.dtype)
    found[: len(array)] = array
    found[len(array) :] = array.mean(axis=0, dtype=np.float64).astype(array.dtype)
    return found
