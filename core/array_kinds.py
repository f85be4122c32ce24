"""Arrays of whichever framework: what kind comes in, and results of the same kind going out.

Nothing here imports a framework to look at a value: an array of torch is recognized by the module of its class. Making
one imports the framework that was named, which then is installed, or says that it is not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import BackendUnavailableError, InputError
from .messages import did_you_mean

if TYPE_CHECKING:
    import numpy as np

KINDS = ("torch", "numpy", "jax", "mlx")
"""The frameworks whose arrays are known."""

_SPELLINGS = {"pt": "torch", "np": "numpy", "jax": "jax", "mlx": "mlx", "pytorch": "torch", "mx": "mlx"}

_BY_MODULE = {"torch": "torch", "numpy": "numpy", "jax": "jax", "jaxlib": "jax", "mlx": "mlx"}


def kind_of(value: object) -> str | None:
    """``"torch"``, ``"numpy"``, ``"jax"`` or ``"mlx"`` for an array; ``None`` for lists, numbers and all else.

    >>> import numpy as np
    >>> kind_of(np.zeros(2)), kind_of([1, 2])
    ('numpy', None)
    """
    kind = _kind_of_type(type(value))  # type: ignore[arg-type]
    return kind if kind is not None and hasattr(value, "shape") and hasattr(value, "dtype") else None


@functools.lru_cache(maxsize=256)
def _kind_of_type(of: type) -> str | None:
    for base in of.__mro__[:-1]:  # a parameter is a tensor; a class of the user's may be one too
        kind = _BY_MODULE.get(base.__module__.partition(".")[0])
        if kind is not None:
            return kind
    return None


def kind_among(values: Iterable[object]) -> str | None:
    """The one kind of array among several values, ``None`` where there is no array.

    Raises:
        InputError: arrays of several frameworks.

    >>> import numpy as np
    >>> kind_among([None, np.zeros(2), [1]])
    'numpy'
    """
    kinds = dict.fromkeys(kind for value in values if (kind := kind_of(value)) is not None)
    if len(kinds) > 1:
        raise InputError(f"arrays of {' and of '.join(kinds)} are given together", hint="give arrays of one framework")
    return next(iter(kinds), None)


def kind_named(name: object) -> str:
    """The kind that ``return_tensors="pt"`` (or ``"np"``, ``"jax"``, ``"mlx"``) names.

    Raises:
        InputError: none has this name.
    """
    text = getattr(name, "value", name)  # transformers' TensorType is an enum
    kind = _SPELLINGS.get(text, text if text in KINDS else None) if isinstance(text, str) else None
    if kind is None:
        hint = did_you_mean(text, ("pt", "np", "jax", "mlx"), "there are 'pt', 'np', 'jax' and 'mlx'")
        raise InputError(f"return_tensors is {text!r:.40}, which names no framework", hint=hint)
    return kind


def device_of(array: Any) -> Any:
    """Where an array is, as its framework says it; ``None`` where the framework has one place only."""
    kind = kind_of(array)
    if kind == "torch":
        return array.device
    if kind == "jax":
        devices = getattr(array, "devices", None)  # absent while JAX traces
        found = devices() if callable(devices) else ()
        return next(iter(found)) if len(found) == 1 else None
    return None


def as_numpy(array: Any, name: str = "what is given") -> np.ndarray[Any, Any]:
    """Any array, or nested lists, as NumPy, in its own element type (bfloat16 by ml_dtypes), without gradients.

    Args:
        name: what an error calls it.

    Raises:
        InputError: as :func:`check_plain`.
    """
    import numpy as np

    check_plain(array, name)
    kind = kind_of(array)
    if kind == "torch":
        array = array.detach().cpu().resolve_conj().resolve_neg()
        dtype = str(array.dtype).removeprefix("torch.")
        if not dtype.startswith(("bfloat", "float8")):  # of those NumPy has no type of its own
            return np.asarray(array.numpy())
        import ml_dtypes

        torch = _framework("torch")
        bits = array.contiguous().view({1: torch.uint8, 2: torch.int16}[array.element_size()])
        return np.asarray(bits.numpy().view(getattr(ml_dtypes, dtype)))
    if kind == "mlx" and str(array.dtype) == "mlx.core.bfloat16":
        import ml_dtypes

        bits = array.view(_framework("mlx").uint16)
        return np.asarray(bits).view(ml_dtypes.bfloat16)
    return np.asarray(array)


def integers_of(value: Any) -> list[int]:
    """One integer, a list or an array of them as a list.

    >>> integers_of(2), integers_of([2, 7])
    ([2], [2, 7])
    """
    import numpy as np

    return [int(number) for number in np.atleast_1d(as_numpy(value)).tolist()]


def check_plain(value: Any, name: str) -> None:
    """Refuse arrays that hold something else than one number in each place, as what else they hold would be lost.

    Raises:
        InputError: a masked array of NumPy's that masks something; a sparse tensor, or one without contents.

    >>> import numpy as np
    >>> check_plain(np.ma.array([3, 4], mask=[False, True]), "labels")
    Traceback (most recent call last):
    ...
    polyllama.extend.InputError: labels is a masked array, whose mask would be lost; give labels.filled(...)
    """
    kind = kind_of(value)
    if kind == "numpy" and getattr(value, "mask", False) is not False:
        if _framework("numpy").ma.is_masked(value):
            raise InputError(f"{name} is a masked array, whose mask would be lost", hint=f"give {name}.filled(...)")
    elif kind == "torch":
        if value.is_meta:
            raise InputError(f"{name} is on torch's device 'meta', and has no numbers", hint="give a tensor that has")
        if value.layout is not _framework("torch").strided:
            layout = str(value.layout).removeprefix("torch.")
            raise InputError(f"{name} is a {layout} tensor, wanted a dense one", hint=f"give {name}.to_dense()")


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether NumPy's type is of floats, those of ml_dtypes among them, which NumPy takes for anything.

    >>> import ml_dtypes, numpy as np
    >>> is_float(np.dtype(ml_dtypes.bfloat16)), is_float(np.dtype(np.float16)), is_float(np.dtype(np.int8))
    (True, True, False)
    """
    return dtype.kind == "f" or (dtype.kind not in "iub" and dtype.name.startswith(("float", "bfloat")))


def to_kind(array: Any, kind: str, device: Any = None) -> Any:
    """An array of another framework, with the same numbers and element type, on `device` where one is named.

    Args:
        array: of any framework; one of `kind` already only moves.
        kind: one of :data:`KINDS`.
        device: an object of the framework, a name such as ``"cpu"`` or ``"cuda:1"``, or a number.

    Raises:
        BackendUnavailableError: the framework is not installed.
        InputError: JAX has no such device.

    >>> import numpy as np
    >>> to_kind(np.arange(3), "numpy")
    array([0, 1, 2])
    """
    if kind == "numpy":
        return array if kind_of(array) == kind else as_numpy(array)
    made = array if kind_of(array) == kind else _MAKE[kind](as_numpy(array))
    if device is None:
        return made
    if kind == "torch":
        return made.to(device)
    return import_module("jax").device_put(made, _jax_device(device)) if kind == "jax" else made


def concatenated(arrays: Sequence[Any], axis: int) -> Any:
    """Arrays of one framework behind each other.

    >>> import numpy as np
    >>> concatenated([np.zeros((1, 2)), np.ones((1, 1))], 1).shape
    (1, 3)
    """
    kind = kind_among(arrays)
    assert kind is not None
    framework = _framework(kind)
    if kind == "torch":
        return framework.cat([array.to(arrays[0]) for array in arrays], axis)
    return (framework.numpy if kind == "jax" else framework).concatenate(list(arrays), axis=axis)


def _torch(array: np.ndarray[Any, Any]) -> Any:
    torch = _framework("torch")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16)
    return torch.from_numpy(array if array.flags.writeable and array.flags.c_contiguous else array.copy())


def _jax(array: np.ndarray[Any, Any]) -> Any:
    # 64 bits are JAX's only where it was told so; its own rule cuts them, and warns of what it was asked for by name.
    return _framework("jax").numpy.asarray(array)


def _jax_device(device: Any) -> Any:
    """JAX's device of a name or a number; any other object as it is."""
    if not isinstance(device, str | int):
        return device
    jax = _framework("jax")
    name, _, number = str(device).partition(":")
    try:
        return jax.devices()[device] if isinstance(device, int) else jax.devices(name)[int(number or 0)]
    except (RuntimeError, IndexError, ValueError):
        known = ", ".join(sorted({one.platform for one in jax.devices()} | {"cpu"}))
        raise InputError(f"JAX has no device {device!r:.40} here", hint=f"it has {known}") from None


def _mlx(array: np.ndarray[Any, Any]) -> Any:
    mx = _framework("mlx")
    if array.dtype.name == "bfloat16":
        return mx.array(array.view("uint16")).view(mx.bfloat16)
    return mx.array(array)


_MAKE: Mapping[str, Callable[[np.ndarray[Any, Any]], Any]] = {"torch": _torch, "jax": _jax, "mlx": _mlx}


def _framework(kind: str) -> Any:
    try:
        return import_module({"mlx": "mlx.core"}.get(kind, kind))
    except ImportError as error:
        raise BackendUnavailableError(
            f"arrays of {kind} are asked for, and {kind} is not installed", hint=f"pip install 'polyllama[{kind}]'"
        ) from error
