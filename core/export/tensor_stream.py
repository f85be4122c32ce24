"""A checkpoint's tensors one after the other, for whoever writes them elsewhere: one in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..checkpoint.protocol import TensorInfo
from ..checkpoint.weights import Weights
from ..dtypes import is_float, numpy_dtype
from ..errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np

    from ..checkpoint.writing import Progress
    from ..loading.describe import Described

    Array = np.ndarray[Any, Any]


def streamed_weights(described: Described) -> Weights:
    """The checkpoint's tensors as stored; the memory behind each is given back when the next is read.

    Raises:
        CheckpointError: the checkpoint does not fit the graph.
    """
    return Weights(TensorStream(described, None).entries(None))


class TensorStream:
    """The checkpoint's tensors under the graph's names; the memory behind each is given back when the next is read."""

    def __init__(self, described: Described, progress: Progress | None) -> None:
        from ..checkpoint.check import check
        from ..transforms.quantize_weights import quantized_modules

        self.checkpoint = described.checkpoint
        parameters = described.graph.parameters()
        self.map = check(self.checkpoint, parameters, config=described.config)
        if self.map.fresh:
            raise CheckpointError(
                f"{described.name}: lacks {', '.join(self.map.fresh)}, so there is nothing to convert"
            )
        self.names = [parameter.name for parameter in parameters]
        modules = quantized_modules(described.graph)
        self.packed = {name: (node.group_size, node.bits) for name, node in modules.items()}
        self.total = 0
        self._progress = progress
        self._done = 0
        self._seen: set[str] = set()
        self._last: list[str] = []

    @property
    def scale_dtype(self) -> str:
        """The dtype of the first packed module's scales."""
        return self.info(f"{next(iter(self.packed))}.scales").dtype

    def info(self, name: str) -> TensorInfo:
        """Dtype and shape of one of the graph's tensors, as stored."""
        stored = self.checkpoint.tensors()[self.map[name]]
        return TensorInfo(name, stored.dtype, stored.shape, stored.file)

    def entries(self, dtype: str | None) -> Iterator[tuple[TensorInfo, Callable[[], Array]]]:
        """Every tensor, floats outside packed modules rounded to `dtype`."""
        for name in self.names:
            info = self.info(name)
            rounded = dtype is not None and is_float(info.dtype) and name.rpartition(".")[0] not in self.packed
            yield self._entry(name, info, dtype if rounded else None)

    def floats(self, dtype: str) -> Iterator[tuple[TensorInfo, Callable[[], Array]]]:
        """Every tensor of the plain graph, packed modules unpacked."""
        for name in self.names:
            module, _, part = name.rpartition(".")
            info = self.info(name)
            if module not in self.packed:
                yield self._entry(name, info, dtype)
            elif part == "weight":
                columns = info.shape[1] * 32 // self.packed[module][1]
                yield self._unpacked(module, TensorInfo(name, dtype, (info.shape[0], columns), info.file))

    def _entry(self, name: str, info: TensorInfo, dtype: str | None) -> tuple[TensorInfo, Callable[[], Array]]:
        if dtype is None or dtype == info.dtype:
            return info, lambda: self._read(name, info.nbytes, [name])[0]
        target = TensorInfo(name, dtype, info.shape, info.file)
        return target, lambda: rounded(self._read(name, target.nbytes, [name])[0], dtype, name)

    def _unpacked(self, module: str, info: TensorInfo) -> tuple[TensorInfo, Callable[[], Array]]:
        from ..checkpoint.unpacking import unpacked_floats

        parts = [f"{module}.{part}" for part in ("weight", "scales", "biases")]
        bits = self.packed[module][1]

        def read() -> Array:
            words, scales, biases = self._read(info.name, info.nbytes, parts)
            return unpacked_floats(words, scales, biases, bits, info.dtype, module)

        return info, read

    def _read(self, name: str, nbytes: int, parts: list[str]) -> list[Array]:
        release = getattr(self.checkpoint, "release", None)
        if release is not None:
            for last in self._last:
                release(self.map[last])
        if self._progress is not None and name not in self._seen:
            self._progress(name, self._done, self.total)
            self._done += nbytes
            self._seen.add(name)
        self._last = parts
        return [self.checkpoint.read(self.map[part]) for part in parts]


def rounded(array: Array, dtype: str, name: str) -> Array:
    """The values in another float type, some millions at a time.

    Raises:
        CheckpointError: a finite value would become infinite; names the tensor.

    >>> import numpy as np
    >>> rounded(np.array([1.0, 70000.0], np.float32), "bfloat16", "x").astype(float).tolist()
    [1.0, 70144.0]
    """
    import numpy as np

    made = np.empty(array.shape, numpy_dtype(dtype))
    flat, out = array.reshape(-1), made.reshape(-1)
    for start in range(0, flat.size, 1 << 22):
        part = flat[start : start + (1 << 22)]
        with np.errstate(over="ignore", invalid="ignore"):
            out[start : start + (1 << 22)] = part.astype(numpy_dtype(dtype))
        if np.isinf(out[start : start + (1 << 22)]).sum() > np.isinf(part).sum():
            raise CheckpointError(f"{name}: has values too large for {dtype}", hint="use bfloat16 or float32")
    return made
