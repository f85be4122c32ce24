"""Weights by parameter name: what a backend is handed, read one tensor at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..dtypes import is_float
from ..public import for_plugins
from .protocol import Checkpoint, ParameterLike, TensorInfo

if TYPE_CHECKING:
    import numpy as np


# The subscript is a string so that importing this module does not import NumPy.
@for_plugins
class Weights(Mapping[str, "np.ndarray[Any, Any]"]):
    """Parameter name -> array, in graph order.

    Every access reads (or makes) the tensor anew and keeps nothing, so that whoever goes through it one by one holds
    one tensor at a time; arrays from safetensors are views of the memory map and cost nothing until touched.

    >>> from polyllama.core.graph.node import Parameter
    >>> weights = dummy_weights([Parameter("lm_head.weight", (32, 8), "linear")], dtype="float32")
    >>> weights["lm_head.weight"].shape, weights.dtype, weights.nbytes
    ((32, 8), 'float32', 1024)
    """

    def __init__(
        self,
        entries: Iterable[tuple[TensorInfo, Callable[[], np.ndarray[Any, Any]]]],
        release: Callable[[str], None] | None = None,
    ) -> None:
        """Take tensors and what reads each; `release` gives back the memory that reading one brought in."""
        self._entries = {info.name: (info, read) for info, read in entries}
        self._release = release

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        return self._entries[name][1]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def info(self, name: str) -> TensorInfo:
        """Dtype, shape and file of one parameter, without reading it."""
        return self._entries[name][0]

    def release(self, name: str) -> None:
        """Give back the memory that reading a mapped file brought in, when the tensor has been copied elsewhere.

        Arrays of it stay valid, but changes made to them are lost.
        """
        if self._release is not None:
            self._release(name)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together, as stored."""
        return sum(info.nbytes for info, _ in self._entries.values())

    @property
    def dtype(self) -> str:
        """The floating-point dtype that most of the values are stored in; "float32" when there are none."""
        sizes: Counter[str] = Counter()
        for info, _ in self._entries.values():
            if is_float(info.dtype):
                sizes[info.dtype] += info.nbytes
        return sizes.most_common(1)[0][0] if sizes else "float32"


def weights_from(
    checkpoint: Checkpoint,
    parameters: Sequence[ParameterLike],
    weight_map: Mapping[str, str],
    *,
    seed: int = 0,
    initializer_range: float = 0.02,
) -> Weights:
    """The checkpoint's tensors under the parameters' names, through the map that ``check`` returned.

    Parameters that the map does not hold (its ``fresh`` ones) start random, from ``seed``, in the commonest stored
    dtype, with standard deviation ``initializer_range``.
    """
    from dataclasses import replace

    stored = checkpoint.tensors()
    known = {
        p.name: (replace(stored[weight_map[p.name]], name=p.name), partial(checkpoint.read, weight_map[p.name]))
        for p in parameters
        if p.name in weight_map
    }
    dtype = Weights(known.values()).dtype
    give_back = getattr(checkpoint, "release", None)

    def release(name: str) -> None:
        if give_back is not None and name in weight_map:
            give_back(weight_map[name])

    entries = (known[p.name] if p.name in known else _made(p, seed, dtype, initializer_range) for p in parameters)
    return Weights(entries, release)


def release(weights: Mapping[str, Any], name: str) -> None:
    """:meth:`Weights.release`, for whoever may also be handed a plain mapping."""
    if isinstance(weights, Weights):
        weights.release(name)


def dummy_weights(
    parameters: Sequence[ParameterLike], *, seed: int = 0, dtype: str = "bfloat16", initializer_range: float = 0.02
) -> Weights:
    """Random weights without a checkpoint, for sizing and benchmarks: norms 1, biases 0, the rest near normal.

    Made on demand and quickly, by repeating a block of a million values from a place that depends on the name (see
    ``initial``); the same bits on every machine for the same seed, names and shapes.

    >>> from polyllama.core.graph.node import Parameter
    >>> p = Parameter("model.embed_tokens.weight", (100, 10), "embedding")
    >>> a, b = (dummy_weights([p], seed=s, dtype="float32")[p.name] for s in (0, 0))
    >>> bool((a == b).all()), round(float(a.std()), 2)
    (True, 0.02)
    """
    return Weights(_made(p, seed, dtype, initializer_range) for p in parameters)


def _made(
    parameter: ParameterLike, seed: int, dtype: str, initializer_range: float
) -> tuple[TensorInfo, Callable[[], np.ndarray[Any, Any]]]:
    info = TensorInfo(parameter.name, dtype, tuple(parameter.shape))
    from .random_values import initial_tensor  # weights are read, mostly

    return info, partial(initial_tensor, parameter, seed=seed, dtype=dtype, initializer_range=initializer_range)
