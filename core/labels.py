"""Labels of a forward pass: which a task takes, and whether they fit. What they are for is in the tasks' losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import InputError, UnsupportedError
from .losses import IGNORE_INDEX

if TYPE_CHECKING:
    import numpy as np

    from .task import Task

OPTIONS = ("num_items_in_batch", "observe")
"""What forward takes beside its named arguments and the task's labels."""


def split_labels(task: Task, labels: Any, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The labels that were given, by name, and the other options.

    Args:
        labels: the argument of that name; a task may have others, which come among `options`.

    Raises:
        InputError: an argument nobody takes, or some of the task's labels without the others.
        UnsupportedError: labels for a task without a loss.

    >>> from polyllama.plugins.tasks.question_answering import QuestionAnswering
    >>> split_labels(QuestionAnswering(), None, {"start_positions": [3], "end_positions": [4]})
    ({'start_positions': [3], 'end_positions': [4]}, {})
    """
    names = task.labels
    given = {name: options[name] for name in names if options.get(name) is not None}
    if labels is not None:
        given["labels"] = labels
    rest = {name: value for name, value in options.items() if name not in names}
    unknown = [name for name in rest if name not in OPTIONS]
    if unknown:
        hint = f"the labels of task {task.name!r} are {' and '.join(names)}" if names != ("labels",) and names else None
        if {"train", "dropout_rng"} & set(unknown):
            hint = (
                "on torch and mlx llm.train() turns dropout on; on jax, train=True and dropout_rng=; others have none"
            )
        raise InputError(f"forward has no argument {', '.join(sorted(unknown))}", hint=hint)
    if given and not names:
        raise UnsupportedError(f"task {task.name!r} has no loss", hint="leave labels out, or load it with another task")
    if given and set(given) != set(names):
        raise InputError(f"task {task.name!r} takes {' and '.join(names)}, {' and '.join(given)} given")
    return given, rest


def read_labels(task: Task, labels: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Labels as NumPy arrays of numbers or booleans; integers as int64.

    Raises:
        InputError: ragged lists, or something that is not numbers.
    """
    return {name: as_labels(value, name) for name, value in labels.items()}


def as_labels(value: Any, name: str) -> np.ndarray:
    """Nested lists or an array as NumPy numbers or booleans; integers as int64."""
    import numpy as np

    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name} is not a rectangular array: {str(error).splitlines()[0]}") from None
    if array.dtype.name in ("bfloat16", "float16"):
        return array.astype(np.float32)
    if array.dtype.kind not in "iufb":
        raise InputError(f"{name} holds {array.dtype}, wanted numbers")
    return array.astype(np.int64) if array.dtype.kind in "iu" else array


def check_integers(labels: np.ndarray, name: str = "labels", hint: str | None = None) -> None:
    """Refuse labels that are no integers."""
    if labels.dtype.kind not in "iu":
        raise InputError(f"{name} holds {labels.dtype}, wanted integers", hint=hint)


def check_shape(found: Sequence[int], wanted: Sequence[int], name: str = "labels", hint: str | None = None) -> None:
    """Refuse labels of another shape; shapes are known wherever a pass runs, so losses check them too."""
    if tuple(found) != tuple(wanted):
        raise InputError(f"{name} have shape {list(found)}, wanted {list(wanted)}", hint=hint)


def check_classes(labels: np.ndarray, count: int, name: str = "labels") -> None:
    """Refuse integers that are neither -100, which no loss looks at, nor the number of one of `count` classes."""
    wrong = (labels != IGNORE_INDEX) & ((labels < 0) | (labels >= count))
    if wrong.any():
        raise InputError(
            f"{name} hold {int(labels[wrong][0])}, the model has {count} labels (0 to {count - 1})",
            hint="-100 marks what the loss ignores; load with num_labels=... for another number of labels",
        )


def check_token_ids(labels: np.ndarray, vocab_size: int, name: str = "labels") -> None:
    """Refuse integers that are neither -100 nor a token id."""
    wrong = (labels != IGNORE_INDEX) & ((labels < 0) | (labels >= vocab_size))
    if wrong.any():
        value = int(labels[wrong][0])
        raise InputError(f"{name} hold {value}, outside the vocabulary of {vocab_size}", hint="-100 marks ignored ones")


def check_finite(labels: np.ndarray, name: str = "labels") -> None:
    """Refuse numbers that are none: they would make every weight NaN."""
    import numpy as np

    if not np.isfinite(labels).all():
        raise InputError(f"{name} hold {labels[~np.isfinite(labels)][0]}", hint="give numbers")
