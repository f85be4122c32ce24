"""Labels of a forward pass: which a task takes, and whether they fit. What they are for is in the tasks' losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..array_kinds import as_numpy, check_plain, is_float
from ..errors import InputError, warn
from ..messages import counted
from ..public import for_plugins
from .losses import IGNORE_INDEX

if TYPE_CHECKING:
    import numpy as np


@for_plugins
def as_labels(value: Any, name: str) -> np.ndarray:
    """Nested lists or an array as NumPy numbers or booleans; integers as int64."""
    import numpy as np

    check_plain(value, name)
    try:
        array = as_numpy(value, name)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name} is not a rectangular array: {str(error).splitlines()[0]}") from None
    if (array.dtype.kind != "f" and is_float(array.dtype)) or array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind not in "iufb":
        raise InputError(f"{name} holds {array.dtype}, wanted numbers")
    return array.astype(np.int64) if array.dtype.kind in "iu" else array


@for_plugins
def check_integers(labels: np.ndarray, name: str = "labels", hint: str | None = None) -> None:
    """Refuse labels that are no integers."""
    if labels.dtype.kind not in "iu":
        raise InputError(f"{name} holds {labels.dtype}, wanted integers", hint=hint)


@for_plugins
def check_shape(found: Sequence[int], wanted: Sequence[int], name: str = "labels", hint: str | None = None) -> None:
    """Refuse labels of another shape; shapes are known wherever a pass runs, so losses check them too."""
    if tuple(found) != tuple(wanted):
        raise InputError(f"{name} have shape {list(found)}, wanted {list(wanted)}", hint=hint)


@for_plugins
def check_classes(labels: np.ndarray, count: int, name: str = "labels") -> None:
    """Refuse integers that are neither -100, which no loss looks at, nor the number of one of `count` classes."""
    wrong = (labels != IGNORE_INDEX) & ((labels < 0) | (labels >= count))
    if wrong.any():
        raise InputError(
            f"{name} hold {int(labels[wrong][0])}, the model has {counted(count, 'label')} (0 to {count - 1})",
            hint="-100 marks what the loss ignores; load with num_labels=... for another number of labels",
        )


@for_plugins
def check_token_ids(labels: np.ndarray, vocab_size: int, name: str = "labels") -> None:
    """Refuse integers that are neither -100 nor a token id."""
    wrong = (labels != IGNORE_INDEX) & ((labels < 0) | (labels >= vocab_size))
    if wrong.any():
        value = int(labels[wrong][0])
        raise InputError(f"{name} hold {value}, outside the vocabulary of {vocab_size}", hint="-100 marks ignored ones")


@for_plugins
def warn_of_padding(labels: np.ndarray, attended: np.ndarray, name: str = "labels") -> None:
    """Say that labels ``[B, S]`` of padding are not looked at, where there are any other than -100."""
    if ((labels != IGNORE_INDEX) & ~attended).any():
        warn(f"{name} of padding, as the attention_mask tells it, are ignored; mark them with -100")


@for_plugins
def check_finite(labels: np.ndarray, name: str = "labels") -> None:
    """Refuse numbers that are none: they would make every weight NaN."""
    import numpy as np

    if not np.isfinite(labels).all():
        raise InputError(f"{name} hold {labels[~np.isfinite(labels)][0]}", hint="give numbers")
