"""What a checkpoint is to the rest of the package: named tensors with dtype and shape, read one at a time."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from ..dtypes import itemsize
from ..errors import CheckpointConfigError, CheckpointError, ConfigError
from ..public import for_plugins

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..config.schema import LlamaConfig

    Array: TypeAlias = NDArray[Any]


_MAX_JSON_ITEMS = 3_000_000
"""Some ten for each tensor, and no model has a hundred thousand tensors in a file."""


_COMPARED_BYTES = 1 << 22


@for_plugins
@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, dtype and shape of one tensor, and the file it lies in (None: made, not stored).

    >>> TensorInfo("lm_head.weight", "bfloat16", (32000, 4096)).nbytes
    262144000
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path | None = None

    @property
    def nbytes(self) -> int:
        """Bytes the values take."""
        return math.prod(self.shape) * itemsize(self.dtype)


class ParameterLike(Protocol):
    """What is needed of a graph's parameter: its name, shape and role ("embedding", "linear", "norm", "head" ...).

    ``bits`` is set for packed quantized weights, which are stored as uint32.
    """

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def role(self) -> str: ...
    @property
    def of_head(self) -> bool: ...
    @property
    def purpose(self) -> str: ...
    @property
    def bits(self) -> int | None: ...


@for_plugins
@runtime_checkable
class Checkpoint(Protocol):
    """What every format reader returns.

    ``tensors()`` costs no more than reading headers; ``read(name)`` returns one tensor, lazily memory-mapped where the
    format allows it (bfloat16 as ``ml_dtypes.bfloat16``). The array may be written to: the file never changes.
    """

    path: Path
    format: str

    def config(self, **overrides: Any) -> LlamaConfig:
        """The model configuration beside (or inside) the weights, with fields overridden."""
        ...

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every stored tensor by its stored name."""
        ...

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """One tensor by its stored name; ``CheckpointError`` when there is none of that name."""
        ...


@for_plugins
@contextlib.contextmanager
def own_config() -> Iterator[None]:
    """What is wrong with the configuration in here is wrong with the checkpoint too."""
    try:
        yield
    except CheckpointError:
        raise
    except ConfigError as error:
        raise CheckpointConfigError(error.message, hint=error.hint) from None


@for_plugins
def parse_strict_json(data: bytes, file: Path, what: str) -> Any:
    """Parse JSON that must be UTF-8, must not repeat a key, and holds no more values than any model needs.

    ``CheckpointError`` names the file and the place.

    >>> try:
    ...     parse_strict_json(b'{"a": 1, "a": 2}', Path("x.safetensors"), "header")
    ... except CheckpointError as error:
    ...     print(error.message)
    x.safetensors: the header has the key 'a' twice
    """

    # A megabyte of brackets becomes a hundred of objects, so how many there are is known before any is made.
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > _MAX_JSON_ITEMS:
        raise CheckpointError(f"{file}: the {what} has more entries than any model's", hint="do not trust this file")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise CheckpointError(
                    f"{file}: the {what} has the key {key!r} twice", hint="the file is corrupt or forged"
                )
            result[key] = value
        return result

    def no_constant(text: str) -> Any:
        raise ValueError(f"{text} is not JSON")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(
            f"{file}: the {what} is not valid JSON ({reason})", hint="the file is corrupt: download or save it again"
        ) from None


def check_finite(values: Array, where: str, what: str) -> None:
    """Refuse scales or biases that are NaN or infinite: everything computed with them would be."""
    import numpy as np

    if not np.isfinite(values).all():
        raise CheckpointError(
            f"{where}: its {what} hold values that are NaN, infinite or too large",
            hint="the file is damaged: download it again",
        )


def same_bytes(one: Array, other: Array) -> bool:
    """Whether two arrays have the same dtype, shape and bits, compared some megabytes at a time."""
    import numpy as np

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    first, second = (a.reshape(-1).view(np.uint8) for a in (one, other))
    return all(
        np.array_equal(first[start : start + _COMPARED_BYTES], second[start : start + _COMPARED_BYTES])
        for start in range(0, first.size, _COMPARED_BYTES)
    )
