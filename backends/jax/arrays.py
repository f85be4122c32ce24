"""NumPy and JAX arrays, dtypes and devices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.errors import BackendError, BackendUnavailableError, InputError
from ...core.messages import mention

DTYPES: dict[str, Any] = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
"""What the backend computes in."""


def dtype_of(name: str) -> Any:
    """The JAX dtype called `name`.

    Raises:
        BackendError: one that the backend does not compute in.
    """
    if name not in DTYPES:
        raise BackendError(
            f"the jax backend computes in {', '.join(DTYPES)}, not in {name!r}", hint="give one of them as dtype"
        )
    return DTYPES[name]


def find_device(name: str | None) -> jax.Device:
    """The device called `name`, as JAX reports it: ``"cpu"``, ``"gpu"``, ``"tpu"``, ``"gpu:1"``; its best for ``None``.

    Raises:
        BackendUnavailableError: JAX has no such device.
    """
    platform, _, index = (name or "").partition(":")
    try:
        devices = jax.devices(platform or None)
    except RuntimeError as error:
        raise BackendUnavailableError(
            f"jax {jax.__version__} has no device {name or 'at all'!r}: {str(error).splitlines()[0]}",
            hint="use " + mention("device", "cpu") + ", or install JAX's plugin for it",
        ) from None
    if index and not (index.isdigit() and int(index) < len(devices)):
        raise BackendUnavailableError(f"there is no {name}: jax sees {len(devices)} {platform} devices")
    device: jax.Device = devices[int(index or 0)]
    return device


def device_name(device: jax.Device) -> str:
    """``"cpu"``, or ``"cpu:3"`` for any but the first of a kind."""
    return device.platform if device.id == 0 else f"{device.platform}:{device.id}"


def is_traced(*values: Any) -> bool:
    """Whether any value (or any leaf of a pytree) is being traced, so that it has a shape and no content yet."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree_util.tree_leaves(values))


def in_32_bits(array: np.ndarray, name: str) -> np.ndarray:
    """Integers and floats in 32 bits, as JAX has them.

    Raises:
        InputError: an integer that does not fit.
    """
    if array.dtype.kind not in "iu":
        return array.astype(np.float32) if array.dtype.kind == "f" else array
    wrong = array[(array < -(2**31)) | (array >= 2**31)]
    if wrong.size:
        raise InputError(f"{name} holds {int(wrong[0])}, more than JAX holds in 32 bits", hint="use another backend")
    return array.astype(np.int32)


def as_float32(array: Any) -> np.ndarray:
    """A JAX array as float32 NumPy."""
    return np.asarray(array).astype(np.float32)
