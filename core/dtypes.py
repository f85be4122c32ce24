"""Names of tensor element types, and what NumPy and the safetensors format call them.

One name is used everywhere (the one torch and NumPy agree on). bfloat16 and the float8 types come from ml_dtypes,
which is imported only when one of them is asked for; importing this module loads neither NumPy nor ml_dtypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from .errors import UnsupportedError
from .messages import did_you_mean
from .public import for_plugins

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class _ElementType:
    name: str
    safetensors: str
    itemsize: int
    kind: str  # "float" | "int" | "uint" | "bool"
    from_ml_dtypes: bool = False


_TYPES = (
    _ElementType("float64", "F64", 8, "float"),
    _ElementType("float32", "F32", 4, "float"),
    _ElementType("float16", "F16", 2, "float"),
    _ElementType("bfloat16", "BF16", 2, "float", from_ml_dtypes=True),
    _ElementType("float8_e4m3fn", "F8_E4M3", 1, "float", from_ml_dtypes=True),
    _ElementType("float8_e5m2", "F8_E5M2", 1, "float", from_ml_dtypes=True),
    _ElementType("int64", "I64", 8, "int"),
    _ElementType("int32", "I32", 4, "int"),
    _ElementType("int16", "I16", 2, "int"),
    _ElementType("int8", "I8", 1, "int"),
    _ElementType("uint64", "U64", 8, "uint"),
    _ElementType("uint32", "U32", 4, "uint"),
    _ElementType("uint16", "U16", 2, "uint"),
    _ElementType("uint8", "U8", 1, "uint"),
    _ElementType("bool", "BOOL", 1, "bool"),
)
_BY_NAME = {t.name: t for t in _TYPES}
_BY_CODE = {t.safetensors: t for t in _TYPES}

DTYPES: tuple[str, ...] = tuple(_BY_NAME)


_SPELLINGS = {
    **{"fp64": "float64", "f64": "float64", "double": "float64", "fp32": "float32", "f32": "float32"},
    **{"float": "float32", "single": "float32", "fp16": "float16", "f16": "float16", "half": "float16"},
    **{"bf16": "bfloat16", "bfp16": "bfloat16", "fp8": "float8_e4m3fn", "f8": "float8_e4m3fn"},
    **{"long": "int64", "int": "int32", "short": "int16", "byte": "uint8", "boolean": "bool"},
}
"""What other programs call them."""


def meant_dtype(name: object, known: Sequence[str] = DTYPES, otherwise: str | None = None) -> str | None:
    """``did you mean 'float16'?`` for a name that is none, other programs' names included.

    Args:
        known: the names that would do; `otherwise` is the answer where none comes close.

    >>> meant_dtype("fp16"), meant_dtype("floaat32"), meant_dtype("half", ["float32"], "use float32")
    ("did you mean 'float16'?", "did you mean 'float32'?", 'use float32')
    """
    return did_you_mean(name, known, otherwise, spellings=_SPELLINGS)


def _lookup(name: str) -> _ElementType:
    try:
        return _BY_NAME[name]
    except (KeyError, TypeError):
        hint = meant_dtype(name, otherwise=f"use one of {', '.join(DTYPES)}")
        raise UnsupportedError(f"unknown dtype {name!r}", hint=hint) from None


def name_of(dtype: Any) -> str:
    """The name of whatever stands for a dtype: a name, a NumPy or torch dtype, or ``None`` for ``"auto"``.

    >>> name_of("float16"), name_of(None)
    ('float16', 'auto')
    >>> import numpy as np
    >>> name_of(np.float32), name_of(np.dtype("float64"))
    ('float32', 'float64')
    """
    if dtype is None:
        return "auto"
    if isinstance(dtype, str):
        return dtype.removeprefix("torch.")
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    return str(name).removeprefix("torch.")


@for_plugins
def itemsize(name: str) -> int:
    """Bytes that one element takes.

    >>> itemsize("bfloat16")
    2
    """
    return _lookup(name).itemsize


def is_float(name: str) -> bool:
    """Whether the elements are floating-point numbers (float8 included).

    >>> is_float("bfloat16"), is_float("uint32")
    (True, False)
    """
    return _lookup(name).kind == "float"


@for_plugins
@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of that name; ``UnsupportedError`` for a name that is not in ``DTYPES``.

    >>> numpy_dtype("float32")
    dtype('float32')
    >>> numpy_dtype("bfloat16").itemsize
    2
    """
    import numpy as np

    element = _lookup(name)
    if element.from_ml_dtypes:
        import ml_dtypes

        from_ml_dtypes: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return from_ml_dtypes
    return np.dtype(name)


@for_plugins
def dtype_name(dtype: np.dtype[Any] | type[Any]) -> str:
    """The name of a NumPy dtype (byte order does not matter); ``UnsupportedError`` for complex, object, strings ...

    >>> import numpy as np
    >>> dtype_name(np.dtype("<f4")), dtype_name(np.bool_)
    ('float32', 'bool')
    """
    import numpy as np

    return _lookup(np.dtype(dtype).name).name


def safetensors_code(name: str) -> str:
    """What the safetensors format calls this dtype.

    >>> safetensors_code("bfloat16")
    'BF16'
    """
    return _lookup(name).safetensors


def from_safetensors_code(code: str) -> str:
    """The dtype name for a code in a safetensors header.

    >>> from_safetensors_code("F8_E4M3")
    'float8_e4m3fn'
    """
    try:
        return _BY_CODE[code].name
    except (KeyError, TypeError):
        raise UnsupportedError(
            f"unknown safetensors dtype {code!r}", hint=f"readable are {', '.join(_BY_CODE)}"
        ) from None


Array = Any
"""A native array of whichever framework runs the graph."""
