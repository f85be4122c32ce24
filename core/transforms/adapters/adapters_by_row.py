"""Several adapters of one model, of which each row of a batch has another: what cannot be, and their tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ...checkpoint.protocol import TensorInfo
from ...checkpoint.weights import Weights
from ...errors import UnsupportedError
from ...graph.graph import Graph
from ...graph.nodes import Embedding
from ...messages import few, mention
from .adapt_graph import SUFFIX
from .adapter_tensors import Adapter, Pair

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def check_by_row(adapter: Adapter, weights: Mapping[str, Array]) -> None:
    """Refuse what one row cannot have without the others: whole tensors in place of the model's, and what they change.

    Args:
        weights: the model's own, plain. Tensors that PEFT stores beside an adapted embedding, and that are the
            model's, are no other weights.

    Raises:
        UnsupportedError: something of the adapter's would change the other rows, or is not done by row; named.
    """
    hint = "load it alone, with " + mention("adapter", shown="folder")
    changed = [name for name in adapter.replaced if not _is_the_same(adapter, name, weights)]
    if changed:
        raise UnsupportedError(
            f"{adapter.path}: brings {few(changed, 3)} whole, which would take the place of the model's for every row",
            hint=hint,
        )
    for module, pair in adapter.pairs.items():
        what = "DoRA" if pair.magnitude is not None else "lora_bias" if pair.b_bias is not None else None
        if what:
            raise UnsupportedError(f"{adapter.path}: {module}: {what} is not done for some rows of a batch", hint=hint)


def _is_the_same(adapter: Adapter, name: str, weights: Mapping[str, Array]) -> bool:
    """Whether a tensor that an adapter brings whole is the model's own."""
    import numpy as np

    if name not in weights:
        return False
    own, brought = weights[name], adapter.read(adapter.replaced[name])
    if own.shape != brought.shape:
        return False
    narrow = min((own.dtype, brought.dtype), key=lambda dtype: dtype.itemsize)
    return bool(np.array_equal(own.astype(narrow), brought.astype(narrow)))


def weights_by_row(weights: Weights, adapted: Graph, adapters: Mapping[str, Adapter]) -> Weights:
    """The tensors of an adapted graph: the model's own, and all adapters' beside them.

    A scale is taken into its adapter's second matrix, before that is rounded to what the model computes in.

    Args:
        weights: those of the plain graph, packed or not; `adapted` has the adapters beside its layers.
    """
    nodes = {node.path: node for node in adapted.walk() if node.path}
    beside: dict[str, tuple[str, Callable[[], Array]]] = {}
    for module in {module: None for adapter in adapters.values() for module in adapter.pairs}:
        pairs = [(adapter, adapter.pairs[module]) for adapter in adapters.values() if module in adapter.pairs]
        wide = "float64" if any(a.info(pair.a).dtype == "float64" for a, pair in pairs) else "float32"
        embeds = isinstance(nodes[module], Embedding)
        beside[f"{module}{SUFFIX}.lora_A.weight"] = wide, partial(_first, pairs, wide, embeds=embeds)
        beside[f"{module}{SUFFIX}.lora_B.weight"] = wide, partial(_second, pairs, wide)

    def entries() -> Iterator[tuple[TensorInfo, Callable[[], Array]]]:
        for parameter in adapted.parameters():
            if parameter.name not in beside:
                yield weights.info(parameter.name), partial(weights.__getitem__, parameter.name)
                continue
            dtype, read = beside[parameter.name]
            yield TensorInfo(parameter.name, dtype, parameter.shape), read

    return Weights(entries())


def _first(pairs: list[tuple[Adapter, Pair]], dtype: str, *, embeds: bool) -> Array:
    """``[ranks, in]``; of an embedding a table ``[tokens, ranks]``."""
    import numpy as np

    found: Array = np.concatenate([adapter.matrices(pair)[0].astype(dtype) for adapter, pair in pairs])
    return np.ascontiguousarray(found.T) if embeds else found


def _second(pairs: list[tuple[Adapter, Pair]], dtype: str) -> Array:
    """``[out, ranks]``, with the scales in it."""
    import numpy as np

    scaled = [adapter.matrices(pair)[1].astype(dtype) * np.dtype(dtype).type(pair.scale) for adapter, pair in pairs]
    found: Array = np.concatenate(scaled, axis=1)
    return found
