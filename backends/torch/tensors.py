"""NumPy arrays and torch tensors, each seen as the other, without copying."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...core.errors import BackendError

if TYPE_CHECKING:
    import numpy as np

DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""What the backend computes in."""

# NumPy knows these only through ml_dtypes, torch natively; both have them as the same bits.
_BIT_TWINS = {
    "bfloat16": ("int16", torch.bfloat16),
    "float8_e4m3fn": ("uint8", torch.float8_e4m3fn),
    "float8_e5m2": ("uint8", torch.float8_e5m2),
}


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype called `name`.

    Raises:
        BackendError: one that the backend does not compute in.
    """
    if name not in DTYPES:
        raise BackendError(f"the torch backend computes in {', '.join(DTYPES)}, not in {name!r}")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.bfloat16 -> "bfloat16"``."""
    return str(dtype).removeprefix("torch.")


def from_numpy(array: np.ndarray) -> torch.Tensor:
    """A tensor over the same memory (a copy where the array may not be written)."""
    if not array.flags.writeable:
        array = array.copy()
    twin = _BIT_TWINS.get(array.dtype.name)
    if twin is not None:
        return torch.from_numpy(array.view(twin[0])).view(twin[1])
    return torch.from_numpy(array)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """An array over the same memory, copied to the host first where it lives elsewhere."""
    tensor = tensor.detach().cpu()
    twin = _BIT_TWINS.get(dtype_name(tensor.dtype))
    if twin is not None:
        import ml_dtypes

        bits: np.ndarray = tensor.contiguous().view(getattr(torch, twin[0])).numpy()
        return bits.view(getattr(ml_dtypes, dtype_name(tensor.dtype)))
    result: np.ndarray = tensor.numpy()
    return result
