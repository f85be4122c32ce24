"""Columns of a batch as arrays of a framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..array_kinds import as_numpy, kind_of, to_kind
from ..errors import TokenizerError
from ..messages import mention

if TYPE_CHECKING:
    import numpy


def array_of(name: str, values: Any, kind: str) -> Any:
    """A column, of lists or of any framework's arrays, as an array of `kind`.

    Whole numbers become int64, in MLX int32 and in JAX what its configuration has; other numbers become float32, but
    for what was an array already.

    Errors: TokenizerError for rows of different lengths, and for what is no number.
    """
    if kind_of(values) is not None:
        return to_kind(values, kind)
    import numpy

    plain = _plain(values)
    try:
        array = numpy.asarray(plain)
    except ValueError:  # rows of different lengths
        array = numpy.empty(0, object)
    if array.dtype.kind not in "iufb":
        raise _no_array(name, plain)
    if array.dtype.kind in "iu" or array.size == 0:
        array = array.astype(numpy.int32 if kind == "mlx" else numpy.int64)
    elif array.dtype == numpy.float64 and not _has_arrays(values):
        array = array.astype(numpy.float32)
    return to_kind(array, kind)


def _plain(values: Any) -> Any:
    """Nested lists, of what may hold arrays in places."""
    if kind_of(values) is not None:
        return as_numpy(values)
    return [_plain(value) for value in values] if isinstance(values, list | tuple) else values


def _has_arrays(values: Any) -> bool:
    if isinstance(values, list | tuple):
        return bool(values) and _has_arrays(values[0])
    return kind_of(values) is not None


def _no_array(name: str, values: Any) -> TokenizerError:
    rows: Sequence[Any] = values if isinstance(values, list) else []
    lengths = {len(row) for row in rows if _is_row(row)}
    if len(lengths) > 1:
        return TokenizerError(
            f"rows of {name} have different lengths, so they make no array",
            hint="pass padding=True (and " + mention("truncation", True) + "); pad other columns than ids yourself",
        )
    return TokenizerError(f"{name} holds {values!r:.60}, which makes no array", hint="leave it out of the batch")


def _is_row(value: object) -> bool:
    return isinstance(value, list) or getattr(value, "ndim", 0) > 0


def plain_numbers(values: Any) -> Any:
    """Nested lists of Python numbers, of what is or holds arrays; anything else as it is."""
    found: numpy.ndarray[Any, Any] | Any = as_numpy(values) if kind_of(values) is not None else values
    if kind_of(found) is not None:
        return found.tolist()
    return [plain_numbers(value) for value in found] if isinstance(found, list | tuple) else found
