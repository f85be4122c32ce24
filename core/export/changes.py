"""What a model becomes on its way into another checkpoint, one tensor at a time.

In this order: an adapter is merged, key/value heads are pooled, the vocabulary is resized, floats are rounded, matrices
are quantized. Where a dtype is asked for, what the first three compute is rounded to it once, from float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.protocol import TensorInfo
from ..checkpoint.weights import Weights
from ..dtypes import is_float
from ..errors import UnsupportedError, warn
from ..graph.from_config import build_graph
from ..messages import mention
from .tensor_stream import TensorStream, rounded

if TYPE_CHECKING:
    import numpy as np

    from ..config.schema import LlamaConfig
    from ..graph.graph import Graph
    from ..loading.describe import Described
    from ..quantization.affine import Quantized

Packed = dict[str, tuple[int, int]]
"""Module -> (group size, bits) of those whose weights are packed."""


@dataclass(frozen=True)
class Changes:
    """What is asked for; ``None`` leaves a thing as it is.

    Attributes:
        dtype: what floats are rounded to, packed ones too, which unpacks them.
        adapter: the folder of a LoRA adapter that is merged.
        num_key_value_heads: how many are left, each the mean of its group.
        vocab_size: rows of the embedding and of the head.
        quantize: what matrices are quantized to in the end: ``"int4-g32"`` and so on.
    """

    dtype: str | None = None
    adapter: str | Path | None = None
    num_key_value_heads: int | None = None
    vocab_size: int | None = None
    quantize: str | None = None

    @property
    def compute(self) -> bool:
        """Whether values are computed anew, not only rounded."""
        return not (self.adapter is None and self.num_key_value_heads is None and self.vocab_size is None)


def transform(
    described: Described, stream: TensorStream, changes: Changes, writer: Any
) -> tuple[Weights, LlamaConfig, Packed]:
    """The weights as they are to be written, their configuration, and what of them is packed.

    Args:
        stream: the checkpoint of `described`.
        writer: the format that is written: whether it keeps packed weights, and what it rounds matrices to.

    Raises:
        PolyllamaError: something that cannot be done with this model; packed weights would have to be computed with.

    Warns:
        PolyllamaWarning: packed weights become floats that nobody asked for.
    """
    config, packed, dtype = described.config, stream.packed, changes.dtype
    if packed and dtype is None and not writer.keeps_packed:
        dtype = stream.scale_dtype
        warn(f"the weights are quantized; they become {dtype}, which rounds (dtype float32 would be exact)")
    working = "float32" if dtype is not None and changes.compute else dtype
    if packed and working is not None:
        weights, packed, config = Weights(stream.floats(working)), {}, config.describing(quantization=None)
    else:
        weights = Weights(stream.entries(working))
    stream.total = weights.nbytes
    graph = described.graph if packed else build_graph(config, described.task)
    weights, config = _computed(described, graph, weights, config, packed, changes)
    if dtype != working and dtype is not None:
        weights = _rounded(weights, dtype)
    if changes.quantize is not None:
        weights, config, packed = _quantized(
            described, weights, config, packed, changes.quantize, getattr(writer, "quantizing", None)
        )
    return weights, config, packed


def _computed(
    described: Described, graph: Graph, weights: Weights, config: LlamaConfig, packed: Packed, changes: Changes
) -> tuple[Weights, LlamaConfig]:
    if changes.adapter is not None:
        from ..transforms.adapters.adapt_weights import merge_adapter

        tied = config.tie_word_embeddings
        weights, config = merge_adapter(changes.adapter, weights, graph, config)
        if packed and config.tie_word_embeddings != tied:
            raise UnsupportedError(
                f"{changes.adapter}: brings a head for a model whose packed head is tied",
                hint="give a dtype, which unpacks the weights",
            )
    if changes.num_key_value_heads is not None:
        from ..transforms.grouped_heads import pool_key_value_heads

        weights, config = pool_key_value_heads(weights, graph, config, changes.num_key_value_heads)
    if changes.vocab_size is not None:
        from ..transforms.resize_vocabulary import resize_vocabulary

        weights, config = resize_vocabulary(weights, config, described.task, changes.vocab_size, packed)
    return weights, config


def _rounded(weights: Weights, dtype: str) -> Weights:
    """Every float in another dtype."""

    def read(name: str) -> np.ndarray[Any, Any]:
        return rounded(weights[name], dtype, name)

    def entries() -> Iterator[tuple[TensorInfo, Callable[[], np.ndarray[Any, Any]]]]:
        for name in weights:
            info = weights.info(name)
            if is_float(info.dtype) and info.dtype != dtype:
                yield TensorInfo(name, dtype, info.shape, info.file), partial(read, name)
            else:
                yield info, partial(weights.__getitem__, name)

    return Weights(entries())


def _quantized(
    described: Described, weights: Weights, config: LlamaConfig, packed: Mapping[str, Any], text: str, quantizing: Any
) -> tuple[Weights, LlamaConfig, Packed]:
    from ..quantization.scheme import Quantization, asks_for_group, parse_quantize
    from ..transforms.quantize_graph import plan, quantize_graph
    from ..transforms.quantize_weights import quantized_modules, quantized_weights

    wanted, asked = parse_quantize(text), asks_for_group(text)
    if packed:
        raise UnsupportedError(
            mention("quantize", text) + f": the weights are quantized already ({config.quantization})",
            hint="give a dtype as well, which unpacks them first, or convert the original",
        )
    rounding = None
    if quantizing is not None:
        wanted, rounding = quantizing(text)
    graph = build_graph(config, described.task)
    settings = Quantization(group_size=wanted.group_size, bits=wanted.bits)
    settings = plan(graph, settings, group_is_asked_for=asked, only_group=rounding is not None)
    graph = quantize_graph(graph, settings)
    made = {name: (node.group_size, node.bits) for name, node in quantized_modules(graph).items()}
    config = config.describing(quantization=settings)
    if rounding is None:
        return quantized_weights(weights, graph), config, made

    def rounded_module(name: str) -> Quantized:
        found: Quantized = rounding(weights[f"{name}.weight"], f"{name}.weight")
        weights.release(f"{name}.weight")
        return found

    return quantized_weights(weights, graph, rounded_module, scales="float16"), config, made
