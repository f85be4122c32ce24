"""Fewer key/value heads for a model: each group's are averaged into one (multi-head to grouped-query attention).

Source: Ainslie et al. 2023, "GQA" (arXiv:2305.13245), section 2.1; the result is meant to be trained a little further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..checkpoint.protocol import TensorInfo
from ..checkpoint.weights import Weights
from ..errors import InputError, UnsupportedError
from ..graph.graph import Graph
from ..graph.nodes import Attention
from ..messages import mention

if TYPE_CHECKING:
    import numpy as np

    from ..config.schema import LlamaConfig

    Array = np.ndarray[Any, Any]


def pool_key_value_heads(
    weights: Weights, graph: Graph, config: LlamaConfig, num_key_value_heads: int
) -> tuple[Weights, LlamaConfig]:
    """Weights with so many key/value heads, and their config; heads that are equal within groups lose nothing.

    Args:
        weights: the model's, under the graph's names; read one at a time, and no array is kept.
        num_key_value_heads: fewer than there are, and a divisor of their number.

    Returns:
        Weights of the same names and dtypes, averages made in float32 (float64 where the weights are), and the config.

    Raises:
        InputError: a number that does not divide the heads there are.
        UnsupportedError: packed weights.

    >>> from polyllama import LlamaConfig
    >>> from polyllama.core.graph.from_config import build_graph
    >>> from polyllama.core.checkpoint.weights import dummy_weights
    >>> config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    ...                      num_attention_heads=4)
    >>> graph = build_graph(config)
    >>> pooled, changed = pool_key_value_heads(dummy_weights(graph.parameters()), graph, config, 2)
    >>> pooled["layers.0.self_attn.k_proj.weight"].shape, changed.num_key_value_heads
    ((4, 8), 2)
    """
    before = config.num_key_value_heads
    whole = isinstance(num_key_value_heads, int) and not isinstance(num_key_value_heads, bool)
    if not whole or not 0 < num_key_value_heads <= before or before % num_key_value_heads:
        raise InputError(
            mention("num_key_value_heads", num_key_value_heads)
            + f": the model has {before}, which go into groups of equal size only for a divisor",
            hint=f"use one of {', '.join(str(n) for n in range(1, before + 1) if before % n == 0)}",
        )
    pooled = {
        f"{child.path}.{part}"
        for node in graph.walk()
        if isinstance(node, Attention)
        for child in (node.k, node.v)
        for part in ("weight", "bias")
    }
    packed = [p.name for p in graph.parameters() if p.name in pooled and p.bits is not None]
    if packed:
        raise UnsupportedError(
            f"{packed[0]} is packed; heads cannot be averaged",
            hint="pool the original checkpoint, or convert with a dtype, which unpacks it",
        )

    def entries() -> Iterator[tuple[TensorInfo, Callable[[], Array]]]:
        for name in weights:
            info = weights.info(name)
            if name not in pooled:
                yield info, partial(weights.__getitem__, name)
                continue
            rows = num_key_value_heads * config.head_dim
            made = TensorInfo(name, info.dtype, (rows, *info.shape[1:]), info.file)
            yield made, partial(_pooled, weights, name, num_key_value_heads, before // num_key_value_heads)

    return Weights(entries()), config.replace(num_key_value_heads=num_key_value_heads)


def _pooled(weights: Weights, name: str, groups: int, heads: int) -> Array:
    """Means over the heads of each group, ``[groups * heads * D, ...] -> [groups * D, ...]``."""
    import numpy as np

    stored: Any = weights[name]
    by_head = stored.reshape(groups, heads, -1, *stored.shape[1:])
    wide: Any = np.float64 if stored.dtype == np.float64 else np.float32
    first: Any = by_head[:, 0].astype(wide)
    added = np.zeros_like(first)
    for head in range(1, heads):
        added += by_head[:, head].astype(wide) - first  # differences, so that equal heads stay what they are
    result: Array = (first + added / wide(heads)).astype(stored.dtype).reshape(-1, *stored.shape[1:])
    return result
