"""Weights as the kernels read them, packed one at a time, and back as they came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.checkpoint.protocol import TensorInfo
from ...core.checkpoint.weights import release
from ...core.dtypes import dtype_name, numpy_dtype
from ...core.errors import BackendError
from ...core.graph.graph import Graph
from ...core.graph.nodes import Embedding
from ...core.graph.quantized import QuantizedEmbedding, QuantizedLinear
from . import _kernels
from .sizes import matrices

if TYPE_CHECKING:
    from numpy.typing import NDArray

LINE = 64
PANEL = 16


def aligned(nbytes: int) -> NDArray[np.uint8]:
    """So many bytes that begin on a cache line."""
    raw = np.empty(nbytes + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + nbytes]


def raw_view(array: np.ndarray) -> np.ndarray:
    """An array of 16-bit or 32-bit elements as unsigned integers, in C order."""
    return np.ascontiguousarray(array).view(np.uint16 if array.dtype.itemsize == 2 else np.uint32)


@dataclass(frozen=True)
class Layout:
    """How a matrix lies in panels; see native/formats.h."""

    format: str
    rows: int
    columns: int
    group: int = 0
    bits: int = 0
    scale: str = "float32"

    @property
    def nbytes(self) -> int:
        """Bytes of all panels."""
        found: int = _kernels.packed_bytes(self.format, self.rows, self.columns, self.group, self.scale)
        return found


@dataclass(frozen=True)
class Packed:
    """A matrix in panels: its bytes, which may be a file's, and the kernels' handle on them."""

    layout: Layout
    data: NDArray[np.uint8]
    matrix: _kernels.Matrix = field(repr=False)

    @classmethod
    def of(cls, layout: Layout, data: NDArray[np.uint8], bias: np.ndarray | None = None) -> Packed:
        """A handle on packed bytes; `bias` ``[rows]`` is added to every product."""
        padded = None
        if bias is not None:
            padded = np.zeros(-(-layout.rows // PANEL) * PANEL, np.float32)
            padded[: layout.rows] = bias
        shape = layout.format, layout.rows, layout.columns, layout.group, layout.scale
        return cls(layout, data, _kernels.Matrix(*shape, data, padded))

    def tensor(self, kind: str) -> np.ndarray:
        """The matrix (``"weight"``), or its ``"scales"`` or ``"biases"``, as it was stored."""
        layout = self.layout
        if not layout.bits:
            dtype = numpy_dtype(layout.format)
            rows = np.empty((layout.rows, layout.columns), np.uint16 if dtype.itemsize == 2 else np.uint32)
            self.matrix.unpack_floats(rows)
            return rows.view(dtype)
        dtype = numpy_dtype(layout.scale)
        words = np.empty((layout.rows, layout.columns * layout.bits // 32), np.uint32)
        shape = layout.rows, layout.columns // layout.group
        halves = [np.empty(shape, np.uint16 if dtype.itemsize == 2 else np.uint32) for _ in range(2)]
        self.matrix.unpack_quantized(layout.bits, words, *halves)
        return {"weight": words, "scales": halves[0].view(dtype), "biases": halves[1].view(dtype)}[kind]


def pack_floats(array: np.ndarray, dtype: str) -> tuple[Layout, NDArray[np.uint8]]:
    """A matrix ``[rows, columns]`` of floats in panels of `dtype`."""
    rows, columns = array.shape
    layout = Layout(dtype, rows, columns)
    data = aligned(layout.nbytes)
    _kernels.pack_floats(dtype, raw_view(np.asarray(array).astype(numpy_dtype(dtype), copy=False)), data)
    return layout, data


def pack_quantized(
    words: np.ndarray, scales: np.ndarray, biases: np.ndarray, *, bits: int, group: int, dtype: str
) -> tuple[Layout, NDArray[np.uint8]]:
    """Packed words ``[rows, columns * bits / 32]`` with their scales and biases in panels."""
    held = _scale_dtype(scales, biases, dtype)
    layout = Layout("q4" if bits <= 4 else "q8", words.shape[0], scales.shape[1] * group, group, bits, held)
    data = aligned(layout.nbytes)
    held_scales, held_biases = (raw_view(part.astype(numpy_dtype(held), copy=False)) for part in (scales, biases))
    words = np.ascontiguousarray(words, np.uint32)
    shape = layout.columns, group, held, bits
    _kernels.pack_quantized(layout.format, *shape, words, held_scales, held_biases, data)
    return layout, data


def _scale_dtype(scales: np.ndarray, biases: np.ndarray, dtype: str) -> str:
    """In what scales and biases are held: as stored, but half of float32's size where the model computes in less.

    float16 has three more bits than bfloat16, so it is taken where its range suffices.
    """
    stored = dtype_name(scales.dtype)
    if stored in ("bfloat16", "float16") or dtype == "float32":
        return stored if stored in ("bfloat16", "float16") else "float32"
    sizes = np.abs(np.concatenate([scales.ravel(), biases.ravel()]).astype(np.float32))
    sizes = sizes[sizes > 0]
    fits = sizes.size == 0 or (float(sizes.min()) >= 2.0**-14 and float(sizes.max()) < 65504)
    return "float16" if fits else "bfloat16"


class CpuWeights(Mapping[str, np.ndarray]):
    """Every parameter by name: matrices in panels, the rest as arrays. Reading a packed one unpacks it.

    Attributes:
        packed: modules (linear layers; an embedding only where a head shares it) in panels, by name.
        arrays: everything else, by parameter name.
    """

    def __init__(self, graph: Graph, dtype: str) -> None:
        self.graph, self.dtype = graph, dtype
        self.packed: dict[str, Packed] = {}
        self.arrays: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self.arrays:
            return self.arrays[name]
        module, _, kind = name.rpartition(".")
        return self.packed[module].tensor(kind)

    def __iter__(self) -> Iterator[str]:
        return (parameter.name for parameter in self.graph.parameters())

    def __len__(self) -> int:
        return len(self.graph.parameters())

    @property
    def nbytes(self) -> int:
        """Bytes of the matrices in panels."""
        return sum(packed.data.nbytes for packed in self.packed.values())

    def state(self) -> Iterator[tuple[TensorInfo, Callable[[], np.ndarray]]]:
        """Every parameter in the dtype it is held in."""
        for parameter in self.graph.parameters():
            yield (
                TensorInfo(parameter.name, self._held(parameter.name), parameter.shape),
                partial(self._read, parameter.name),
            )

    def _read(self, name: str) -> np.ndarray:
        array = self[name]
        return np.array(array) if name in self.arrays else array

    def _held(self, name: str) -> str:
        if name in self.arrays:
            return dtype_name(self.arrays[name].dtype)
        module, _, kind = name.rpartition(".")
        layout = self.packed[module].layout
        if not layout.bits:
            return layout.format
        return "uint32" if kind == "weight" else layout.scale


class FloatView(Mapping[str, np.ndarray]):
    """The weights as nodes that run by their own definition read them: floats in float32, packed words as they are."""

    def __init__(self, weights: CpuWeights) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._weights[name]
        return array if array.dtype.kind in "ui" else array.astype(np.float32, copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def pack(
    graph: Graph, weights: Mapping[str, np.ndarray], dtype: str, ready: Mapping[str, Packed] | None = None
) -> CpuWeights:
    """Pack every matrix that is multiplied by, one at a time; the rest is held as it comes.

    Args:
        ready: modules that a file holds in panels already.
    """
    result, by_name = CpuWeights(graph, dtype), matrices(graph)
    # The first is looked up by the kernels; another, an adapter's, by its definition, which reads float32.
    tables = [node.name for node in graph.walk() if isinstance(node, Embedding)]
    for parameter in graph.parameters():
        module, _, kind = parameter.name.rpartition(".")
        if module in by_name and kind != "bias":
            if module not in result.packed:
                result.packed[module] = pack_matrix(by_name[module], module, weights, dtype, ready)
                for part in ("weight", "scales", "biases"):
                    release(weights, f"{module}.{part}")
            continue
        array = np.asarray(weights[parameter.name])
        if parameter.bits is None and array.dtype.kind not in "fV":
            raise BackendError(f"{parameter.name} holds {array.dtype}, wanted floating-point weights")
        if parameter.bits is None and (module in tables or array.dtype.itemsize == 8) and kind == "weight":
            wanted = dtype if module in tables[:1] else "float32"
            array = array.astype(numpy_dtype(wanted), copy=False)
        result.arrays[parameter.name] = array
    return result


def pack_matrix(
    node: Any, module: str, weights: Mapping[str, np.ndarray], dtype: str, ready: Mapping[str, Packed] | None = None
) -> Packed:
    """One matrix in panels: packed now, or as a file holds it already."""
    bias = np.asarray(weights[f"{node.name}.bias"]).astype(np.float32) if node.bias else None
    if ready is not None and module in ready:
        return Packed.of(ready[module].layout, ready[module].data, bias)
    if isinstance(node, QuantizedLinear):
        words, scales, biases = (np.asarray(part) for part in node.tensors(weights))
        layout, data = pack_quantized(words, scales, biases, bits=node.bits, group=node.group_size, dtype=dtype)
    else:
        layout, data = pack_floats(np.asarray(weights[f"{module}.weight"]), dtype)
    return Packed.of(layout, data, bias)


def embedding_rows(node: Embedding, weights: CpuWeights) -> Any:
    """What ``Program.table`` or ``Program.packed_table`` takes for this embedding."""
    if node.name in weights.packed:
        return weights.packed[node.name].matrix
    if isinstance(node, QuantizedEmbedding):
        words, scales, biases = (
            np.ascontiguousarray(weights[f"{node.name}.{kind}"]) for kind in ("weight", "scales", "biases")
        )
        return node.bits, dtype_name(scales.dtype), words, raw_view(scales), raw_view(biases)
    table = weights[f"{node.name}.weight"]
    return dtype_name(table.dtype), raw_view(table)


__all__ = ["CpuWeights", "FloatView", "Layout", "Packed", "embedding_rows", "pack", "pack_matrix"]
