"""The tensors of an adapted model, made one at a time: merged, or the model's own and the adapter's beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoint.protocol import TensorInfo
from ...checkpoint.weights import Weights
from ...errors import UnsupportedError
from ...graph.graph import Graph
from ...graph.nodes import Embedding
from ...graph.quantized import QuantizedEmbedding, QuantizedLinear
from .adapt_graph import SUFFIX
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
    return merged_weights(weights, adapter), adapter.config(config)


def replaced_weights(weights: Weights, adapter: Adapter, *, exact: bool) -> Weights:
    """The tensors of ``adapter.graph``: the model's own, and those in their place that the adapter brings whole.

    Args:
        exact: leave what the adapter brings as it is, instead of rounding it to the dtype of what it replaces.
    """

    def entries() -> Iterator[Entry]:
        for parameter in adapter.graph.parameters():
            stored = adapter.replaced.get(parameter.name)
            if stored is None:
                source = adapter.copied.get(parameter.name, parameter.name)
                yield (
                    dataclasses.replace(weights.info(source), name=parameter.name),
                    partial(weights.__getitem__, source),
                )
                continue
            dtype = weights.info(parameter.name).dtype if parameter.name in weights else weights.dtype
            dtype = adapter.info(stored).dtype if exact else dtype
            info = TensorInfo(parameter.name, dtype, parameter.shape)
            yield info, partial(_as_dtype, adapter, stored, dtype)

    return Weights(entries())


def _as_dtype(adapter: Adapter, stored: str, dtype: str) -> Array:
    from ...dtypes import numpy_dtype

    return adapter.read(stored).astype(numpy_dtype(dtype), copy=False)


def merged_weights(weights: Weights, adapter: Adapter, dtype: str | None = None) -> Weights:
    """See :func:`merge_adapter`; with `dtype`, what is merged is not rounded to what it was stored in, but to that."""
    nodes = {node.path: node for node in adapter.graph.walk()}
    tied = {node.shares_with for node in nodes.values() if node.shares_with}
    for module, pair in adapter.pairs.items():
        node: Any = nodes[module]
        what = None
        if isinstance(node, (QuantizedLinear, QuantizedEmbedding)):
            what = "whose weights are packed"
        elif pair.turned:
            continue  # it reads the table that the embedding's own pair is merged into
        elif node.shares_with is not None:
            what = "which is tied to the embedding"
        elif module in tied and not adapter.settings.mlx:
            what = "to which a head is tied that the adapter leaves as it is"
        elif pair.b_bias is not None and not node.bias:
            what = "which has no bias to merge its own into (lora_bias)"
        if what:
            raise UnsupportedError(
                f"{adapter.path}: cannot be merged into {module}, {what}",
                hint="load it unmerged: adapter=... alone"
                + (", or convert with a dtype, which unpacks them" if "packed" in what else ""),
            )
    plain = replaced_weights(weights, adapter, exact=dtype is not None)

    def entries() -> Iterator[Entry]:
        for name in plain:
            module, _, kind = name.rpartition(".")
            pair = adapter.pairs.get(module)
            if pair is not None and kind == "weight" and not pair.turned:
                info = plain.info(name)
                info = TensorInfo(name, dtype or info.dtype, info.shape, info.file)
                yield info, partial(_merged, plain, info, adapter, pair, embeds=isinstance(nodes[module], Embedding))
            elif pair is not None and kind == "bias" and pair.b_bias is not None:
                yield plain.info(name), partial(_merged_bias, plain, name, adapter, pair)
            else:
                yield plain.info(name), partial(plain.__getitem__, name)

    return Weights(entries())


def _merged(plain: Weights, info: TensorInfo, adapter: Adapter, pair: Pair, *, embeds: bool) -> Array:
    """``W + scale * B A``, or DoRA's rescaled sum, some rows at a time."""
    import numpy as np

    from ...dtypes import numpy_dtype

    weight = plain[info.name]
    wide: Any = np.float64 if weight.dtype == np.float64 else np.float32
    a, b = (matrix.astype(wide) for matrix in adapter.matrices(pair))
    if embeds:  # a table has a row for each of the inputs
        a, b = b.T, a.T
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
    nodes = {node.path: node for node in graph.walk()}
    beside: dict[str, tuple[str, Callable[[], Array]]] = {}
    for module, pair in adapter.pairs.items():
        name, (first, second) = f"{module}{SUFFIX}", _matrix_readers(adapter, pair)
        if isinstance(nodes[module], Embedding):
            first = _turned(first)
        beside |= {f"{name}.lora_A.weight": (pair.a, first), f"{name}.lora_B.weight": (pair.b, second)}
        if pair.b_bias is not None:
            beside[f"{name}.lora_B.bias"] = pair.b_bias, partial(adapter.read, pair.b_bias)
        if pair.magnitude is not None:
            beside[f"{name}.factor"] = pair.magnitude, partial(_factor, weights, nodes[module], adapter, pair)

    def entries() -> Iterator[Entry]:
        for parameter in adapted.parameters():
            if parameter.name not in beside:
                yield weights.info(parameter.name), partial(weights.__getitem__, parameter.name)
                continue
            stored, read = beside[parameter.name]
            dtype = "float32" if parameter.name.endswith(".factor") else adapter.info(stored).dtype
            yield TensorInfo(parameter.name, dtype, parameter.shape, adapter.info(stored).file), read

    return Weights(entries())


def _matrix_readers(adapter: Adapter, pair: Pair) -> tuple[Callable[[], Array], Callable[[], Array]]:
    """What reads ``a`` ``[rank, in]`` and ``b`` ``[out, rank]``, each alone."""
    a, b = partial(adapter.read, pair.a), partial(adapter.read, pair.b)
    return (_turned(b), _turned(a)) if pair.turned else (a, b)


def _turned(read: Callable[[], Array]) -> Callable[[], Array]:
    def transposed() -> Array:
        return read().T

    return transposed


def _factor(weights: Weights, node: Any, adapter: Adapter, pair: Pair) -> NDArray[np.float32]:
    """DoRA's factor for each output: magnitude over the length of the adapted row."""
    import numpy as np

    weight = _matrix(weights, node)
    a, b = (matrix.astype(np.float32) for matrix in adapter.matrices(pair))
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
