"""Loading a model with several adapters, among which each row of a batch chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..messages import subject
from ..transforms.adapters.adapt_graph import adapt_by_row
from ..transforms.adapters.adapter_tensors import Adapter
from ..transforms.adapters.adapters_by_row import check_by_row, weights_by_row
from .read_weights import stored_weights

if TYPE_CHECKING:
    from ..settings.schema import Settings
    from .describe import Described


def with_adapters(
    described: Described, settings: Settings, paths: Mapping[str, str | Path], **head: Any
) -> tuple[Described, Mapping[str, Any]]:
    """The model as described with adapters beside it, and its weights.

    Args:
        paths: names, and the folders of adapters.
        head: ``seed``, ``fresh_head`` and ``ignore_mismatched_sizes``: which heads start anew, and how.

    Raises:
        InputError: no names and folders.
        CheckpointError, UnsupportedError: of an adapter, as where it is loaded alone; or it cannot be one of several.
    """
    _check_names(paths)
    plain = described.plain_graph if described.plain_graph is not None else described.graph
    stored = stored_weights(described, plain, settings, **head)
    adapters = {name: Adapter(path, plain) for name, path in paths.items()}
    for adapter in adapters.values():
        check_by_row(adapter, stored)
    weights = stored
    if described.plain_graph is not None:
        from ..transforms.quantize_weights import quantized_weights

        weights = quantized_weights(stored, described.graph)
    graph = adapt_by_row(described.graph, adapters)
    return replace(described, graph=graph), weights_by_row(weights, graph, adapters)


def _check_names(paths: Any) -> None:
    if not isinstance(paths, Mapping) or not paths:
        raise InputError(subject("adapters", paths) + f" is {paths!r:.80}", hint='give names and folders: {"a": "./a"}')
    for name in paths:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"adapters: {name!r:.80} is no name", hint='give names and folders: {"a": "./a"}')
