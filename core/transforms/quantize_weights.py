"""Weights that are quantized as they are read: the tensors of a quantized graph from those of the plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..checkpoint.protocol import TensorInfo
from ..checkpoint.weights import Weights
from ..graph.graph import Graph
from ..graph.quantized import QuantizedEmbedding, QuantizedLinear
from ..quantization.affine import Quantized, quantize, scale_dtype

if TYPE_CHECKING:
    import numpy as np


def quantized_modules(graph: Graph) -> dict[str, QuantizedLinear | QuantizedEmbedding]:
    """The nodes of a graph that hold packed tensors of their own, by name."""
    return {
        node.name: node
        for node in graph.walk()
        if isinstance(node, QuantizedEmbedding) or (isinstance(node, QuantizedLinear) and node.tied_to is None)
    }


class Quantizer:
    """Quantizes a module when one of its tensors is asked for, and keeps those of the last one only."""

    def __init__(self, source: Weights, quantize_module: Callable[[str], Quantized]) -> None:
        self.source = source
        self._quantize = quantize_module
        self._last: tuple[str, Quantized] | None = None

    def read(self, name: str, kind: str) -> np.ndarray[Any, Any]:
        """One of a module's three tensors."""
        if self._last is None or self._last[0] != name:
            self._last = None  # before the next is made: two need not fit
            self._last = name, self._quantize(name)
        array: np.ndarray[Any, Any] = getattr(self._last[1], kind)
        return array


def quantized_weights(
    source: Weights,
    graph: Graph,
    quantize_module: Callable[[str], Quantized] | None = None,
    *,
    scales: str | None = None,
) -> Weights:
    """The tensors of a quantized graph, made from the plain ones one module at a time.

    Args:
        source: the plain graph's weights.
        graph: the quantized graph.
        quantize_module: name of a module -> its tensors; plain rounding by default.
        scales: the dtype of the scales and biases that it makes, where that is not the usual one.
    """
    modules = quantized_modules(graph)

    def rounded(name: str) -> Quantized:
        node, weight = modules[name], f"{name}.weight"
        made = quantize(source[weight], node.group_size, node.bits, name=weight)
        source.release(weight)
        return made

    quantizer = Quantizer(source, quantize_module or rounded)

    def entries() -> Iterator[tuple[TensorInfo, Callable[[], np.ndarray[Any, Any]]]]:
        for parameter in graph.parameters():
            name, _, kind = parameter.name.rpartition(".")
            if name in modules and kind in Quantized._fields:
                dtype = scales or scale_dtype(source.info(f"{name}.weight").dtype)
                info = TensorInfo(parameter.name, parameter.held_as(dtype), parameter.shape)
                yield info, partial(quantizer.read, name, kind)
            else:
                yield source.info(parameter.name), partial(source.__getitem__, parameter.name)

    return Weights(entries())
