"""Another vocabulary for a loaded model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..backend.protocol import RealizeOptions
from ..checkpoint.weights import Weights
from ..errors import InputError
from ..graph.from_config import build_graph
from ..messages import subject
from ..transforms.resize_vocabulary import NewRows, resize_vocabulary

if TYPE_CHECKING:
    import numpy as np

    from ..backend.protocol import Model
    from ..config.schema import LlamaConfig
    from ..graph.graph import Graph
    from .load import Loaded


@runtime_checkable
class Resizes(Protocol):
    """A model that can go on as a graph of the same nodes in other sizes; any other is realized anew."""

    def resize(self, graph: Graph, config: LlamaConfig, changed: Mapping[str, np.ndarray]) -> None:
        """Take `graph` and `config`, and the parameters `changed`; every other one stays the object that it is."""
        ...


def resize(
    loaded: Loaded,
    new_num_tokens: int | None,
    pad_to_multiple_of: int | None,
    *,
    mean_resizing: bool,
    seed: int | None,
) -> Loaded:
    """See :meth:`polyllama.Llama.resize_token_embeddings`."""
    from ..transforms.adapters.adapt_graph import adapt_as
    from ..transforms.quantize_graph import quantize_graph
    from ..transforms.quantize_weights import quantized_modules

    rows = _rows(loaded.config.vocab_size, new_num_tokens, pad_to_multiple_of)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise InputError(subject("seed", seed) + f" is {seed!r}, wanted an integer from 0 up")
    if rows == loaded.config.vocab_size:
        return loaded
    start = NewRows(mean_resizing, seed if seed is not None else loaded.settings.seed or 0)
    stored = Weights(loaded.model.state())
    packed = {name: (node.group_size, node.bits) for name, node in quantized_modules(loaded.graph).items()}
    weights, config = resize_vocabulary(stored, loaded.config, loaded.task, rows, packed, start)
    graph = build_graph(config, loaded.task)
    if config.quantization is not None:
        graph = quantize_graph(graph, config.quantization)
    graph = adapt_as(graph, loaded.graph)
    loaded.config.become(config)  # whoever holds the model's config sees the new one
    config, model = loaded.config, loaded.model
    names = [name for name in weights if weights.info(name).shape != stored.info(name).shape]
    if isinstance(model, Resizes) and not any(name.rpartition(".")[0] in packed for name in names):
        model.resize(graph, config, {name: weights[name] for name in names})
    else:
        model = _anew(loaded, graph, config, weights)
    return dataclasses.replace(loaded, config=config, graph=graph, model=model)


def _rows(before: int, wanted: Any, multiple: Any) -> int:
    for name, value in (("new_num_tokens", wanted), ("pad_to_multiple_of", multiple)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"{name} is {value!r}, wanted an integer from 1 up")
    rows: int = before if wanted is None else wanted
    return rows if multiple is None else -(-rows // multiple) * multiple


def _anew(loaded: Loaded, graph: Graph, config: LlamaConfig, weights: Weights) -> Model:
    """The model realized once more, where and in what the old one is."""
    model, settings = loaded.model, loaded.settings
    options = RealizeOptions(model.dtype, loaded.choice.device, settings.threads, settings.kv_cache, loaded.attention)
    return loaded.choice.backend.realize(graph, weights, options, config=config, task=loaded.task)
