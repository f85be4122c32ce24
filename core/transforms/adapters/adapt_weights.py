"""The tensors of an adapted model, made one at a time: merged, or the model's own and the adapter's beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoint.base import TensorInfo
from ...checkpoint.weights import Weights
from ...errors import UnsupportedError
from ...graph.graph import Graph
from ...graph.quantized import QuantizedLinear
from .adapt_graph import SUFFIX, untied, untied_config
from .adapter_tensors import Adapter, Pair

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...config.schema import LlamaConfig

    Array = np.ndarray[Any, Any]
    Entry = tuple[TensorInfo, Callable[[], Array]]

ROWS = 1 << 22
"""Values of a matrix that are merged at a time, so that the sum in float32 takes little beside it."""


def merge_adapter(path: str | Path, weights: Weights, graph: Graph, config: LlamaConfig) -> tuple[Weights, LlamaConfig]:
    """Weights with an adapter merged into them, and their config: what converting and loading merged want.

    Tensors keep their dtypes; sums are made in float32 (float64 where the weights are) and rounded once.

    Args:
        path: the adapter's folder.
        weights: the model's, under the graph's names; read one at a time, and no array is kept.

    Raises:
        CheckpointError, UnsupportedError: as :class:`~polyllama.core.transforms.adapters.adapter_tensors.Adapter`;
            packed weights, and a head that is tied to the embedding, cannot be merged into.
    """
    adapter = Adapter(path, graph)
    return merged_weights(weights, graph, adapter), untied_config(config, adapter)


def replaced_weights(weights: Weights, graph: Graph, adapter: Adapter) -> Weights:
    """The model's tensors with those in their place that the adapter brings whole."""

    def entries() -> Iterator[Entry]:
        for parameter in untied(graph, adapter).parameters():
            stored = adapter.replaced.get(parameter.name)
            if stored is None:
                yield weights.info(parameter.name), partial(weights.__getitem__, parameter.name)
                continue
            dtype = weights.info(parameter.name).dtype if parameter.name in weights else weights.dtype
            info = TensorInfo(parameter.name, dtype, parameter.shape)
            yield info, partial(_as_dtype, adapter, stored, dtype)

    return Weights(entries())


def _as_dtype(adapter: Adapter, stored: str, dtype: str) -> Array:
    from ...dtypes import numpy_dtype

    return adapter.read(stored).astype(numpy_dtype(dtype), copy=False)


def merged_weights(weights: Weights, graph: Graph, adapter: Adapter, dtype: str | None = None) -> Weights:
    """See :func:`merge_adapter`; with `dtype`, what is merged is not rounded to what it was stored in, but to that."""
    nodes = {node.path: node for node in untied(graph, adapter).walk()}
    for module, pair in adapter.pairs.items():
        node: Any = nodes[module]
        what = None
        if isinstance(node, QuantizedLinear):
            what = "whose weights are packed"
        elif node.tied_to is not None:
            what = "which is tied to the embedding"
        elif pair.b_bias is not None and not node.bias:
            what = "which has no bias to merge its own into (lora_bias)"
        if what:
            raise UnsupportedError(
                f"{adapter.path}: cannot be merged into {module}, {what}",
                hint="load it unmerged: adapter=... alone"
                + (", or convert with a dtype, which unpacks them" if "packed" in what else ""),
            )
    plain = replaced_weights(weights, graph, adapter)

    def entries() -> Iterator[Entry]:
        for name in plain:
            module, _, kind = name.rpartition(".")
            pair = adapter.pairs.get(module)
            if pair is not None and kind == "weight":
                info = plain.info(name)
                info = TensorInfo(name, dtype or info.dtype, info.shape, info.file)
                yield info, partial(_merged, plain, info, adapter, pair)
            elif pair is not None and kind == "bias" and pair.b_bias is not None:
                yield plain.info(name), partial(_merged_bias, plain, name, adapter, pair)
            else:
                yield plain.info(name), partial(plain.__getitem__, name)

    return Weights(entries())


def _merged(plain: Weights, info: TensorInfo, adapter: Adapter, pair: Pair) -> Array:
    """``W + scale * B A``, or DoRA's rescaled sum, some rows at a time."""
    import numpy as np

    from ...dtypes import numpy_dtype

    weight = plain[info.name]
    wide: Any = np.float64 if weight.dtype == np.float64 else np.float32
    a, b = (np.asarray(adapter.read(name).astype(wide)) for name in (pair.a, pair.b))
    magnitude = None if pair.magnitude is None else adapter.read(pair.magnitude).astype(wide)
    result = np.empty(weight.shape, numpy_dtype(info.dtype))
    step = max(1, ROWS // weight.shape[1])
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        total = weight[rows].astype(wide) + wide(pair.scale) * (b[rows] @ a)
        if magnitude is not None:
            total *= (magnitude[rows] / np.linalg.norm(total, axis=1))[:, None]
        result[rows] = total.astype(result.dtype)
    return result


def _merged_bias(plain: Weights, name: str, adapter: Adapter, pair: Pair) -> Array:
    import numpy as np

    bias = plain[name]
    wide: Any = np.float64 if bias.dtype == np.float64 else np.float32
    assert pair.b_bias is not None  # its caller has looked
    added = adapter.read(pair.b_bias).astype(wide) * wide(pair.scale)
    if pair.magnitude is not None:
        raise UnsupportedError(
            f"{adapter.path}: lora_bias together with DoRA cannot be merged", hint="load it unmerged"
        )
    total: Array = (bias.astype(wide) + added).astype(bias.dtype)
    return total


def adapted_weights(weights: Weights, graph: Graph, adapted: Graph, adapter: Adapter) -> Weights:
    """The tensors of an adapted graph: the model's own, and the adapter's beside them.

    Args:
        weights: those of `graph`, packed or not, replaced ones in their place already.
    """
    beside: dict[str, tuple[Pair, str]] = {}
    for module, pair in adapter.pairs.items():
        name = f"{module}{SUFFIX}"
        beside |= {f"{name}.lora_A.weight": (pair, pair.a), f"{name}.lora_B.weight": (pair, pair.b)}
        if pair.b_bias is not None:
            beside[f"{name}.lora_B.bias"] = pair, pair.b_bias
        if pair.magnitude is not None:
            beside[f"{name}.factor"] = pair, pair.magnitude
    nodes = {node.path: node for node in graph.walk()}

    def entries() -> Iterator[Entry]:
        for parameter in adapted.parameters():
            if parameter.name not in beside:
                yield weights.info(parameter.name), partial(weights.__getitem__, parameter.name)
                continue
            pair, stored = beside[parameter.name]
            info = adapter.info(stored)
            read: Callable[[], Array] = partial(adapter.read, stored)
            if stored == pair.magnitude:
                info = TensorInfo(parameter.name, "float32", parameter.shape)
                read = partial(_factor, weights, nodes[pair.module], adapter, pair)
            yield TensorInfo(parameter.name, info.dtype, info.shape, info.file), read

    return Weights(entries())


def _factor(weights: Weights, node: Any, adapter: Adapter, pair: Pair) -> NDArray[np.float32]:
    """DoRA's factor for each output: magnitude over the length of the adapted row."""
    import numpy as np

    weight = _matrix(weights, node)
    a, b = adapter.read(pair.a).astype(np.float32), adapter.read(pair.b).astype(np.float32)
    magnitude = adapter.read(str(pair.magnitude)).astype(np.float32)
    factor = np.empty(len(magnitude), np.float32)
    step = max(1, ROWS // a.shape[1])
    for start in range(0, len(factor), step):
        rows = slice(start, start + step)
        total = weight[rows].astype(np.float32) + np.float32(pair.scale) * (b[rows] @ a)
        factor[rows] = magnitude[rows] / np.linalg.norm(total, axis=1)
    return factor


def _matrix(weights: Mapping[str, Array], node: Any) -> Array:
    """A layer's matrix ``[out, in]``, unpacked where it is packed."""
    if not isinstance(node, QuantizedLinear):
        return weights[node.weight_name]
    from ...quantization.affine import dequantize

    return dequantize(*node.tensors(weights), bits=node.bits)
