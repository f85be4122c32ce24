"""Loading a model with an adapter: merged into its weights, or beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError
from ..messages import mention
from ..transforms.adapters.adapt_graph import adapt_graph, untied, untied_config
from ..transforms.adapters.adapt_weights import adapted_weights, merged_weights, replaced_weights
from ..transforms.adapters.adapter_tensors import Adapter

if TYPE_CHECKING:
    from ..settings.schema import Settings
    from .describe import Described


def adapted(
    described: Described, settings: Settings, path: str | Path, *, merge: bool, **head: Any
) -> tuple[Described, Mapping[str, Any]]:
    """What is loaded with an adapter instead: the model as described, and its weights.

    What is merged is rounded once, to a float32 or float64 that is asked for or else to what it was stored in. Merged
    weights are quantized after merging, where that is asked for; beside packed ones an adapter stays as it is.

    Args:
        head: ``seed`` and ``fresh_head``, how a head that the checkpoint lacks starts.
    """
    from .weights import stored_weights

    plain = described.plain_graph if described.plain_graph is not None else described.graph
    adapter = Adapter(path, plain)
    stored = stored_weights(described, plain, settings, **head)
    if merge:
        wide = settings.dtype in ("float32", "float64") and settings.quantize is None
        weights = merged_weights(stored, plain, adapter, settings.dtype if wide else None)
    else:
        weights = replaced_weights(stored, plain, adapter)
    graph = plain if described.plain_graph is None else described.graph
    if adapter.untied:
        if described.plain_graph is not None or described.config.quantization is not None:
            raise UnsupportedError(
                f"{adapter.path}: brings a head for a model whose head is tied, which is not quantized here",
                hint="leave " + mention("quantize") + " out, or merge the adapter first and quantize the result",
            )
        graph = untied(plain, adapter)
    if described.plain_graph is not None:
        from ..transforms.quantize_weights import quantized_weights

        weights = quantized_weights(weights, graph)
    if not merge:
        with_adapter = adapt_graph(graph, adapter)
        weights = adapted_weights(weights, graph, with_adapter, adapter)
        graph = with_adapter
    return replace(described, graph=graph, config=untied_config(described.config, adapter)), weights
