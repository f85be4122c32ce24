"""The weights of a described model: stored, adapted, quantized or dummy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dtypes import numpy_dtype
from ..errors import InputError
from ..graph.graph import Graph
from ..settings.schema import Settings, load_settings
from .describe import Described, describe

if TYPE_CHECKING:
    import numpy as np

    from ..checkpoint.protocol import Checkpoint
    from ..checkpoint.weights import Weights
    from ..graph.node import Parameter


def described_weights(folder: Path) -> tuple[Described, Mapping[str, np.ndarray]]:
    """What lies in a folder, and its weights as they are stored, for those who prepare them ahead of loading."""
    settings = load_settings().model_copy(update={"quantize": None})
    described = describe(folder, settings=settings)
    return described, weights_for(described, settings)


def weights_for(described: Described, settings: Settings, **head: Any) -> Mapping[str, np.ndarray]:
    """What a backend is handed; quantized on the way where the checkpoint is not.

    Args:
        head: ``seed``, ``fresh_head`` and ``ignore_mismatched_sizes``: which heads start anew, and how.
    """
    if described.plain_graph is None:
        return stored_weights(described, described.graph, settings, **head)
    from ..transforms.quantize_weights import quantized_weights

    plain = stored_weights(described, described.plain_graph, settings, **head)
    return quantized_weights(plain, described.graph)


def stored_weights(
    described: Described,
    graph: Graph,
    settings: Settings,
    *,
    seed: int | None = None,
    fresh_head: bool = False,
    ignore_mismatched_sizes: bool = False,
    brought: Collection[str] = (),
) -> Weights:
    """The tensors of a graph as the checkpoint has them, checked; or random ones.

    Args:
        fresh_head: start the head anew though there is one; with `ignore_mismatched_sizes` where its shape is another.
        brought: parameters that an adapter brings; those that the checkpoint lacks are left out.
    """
    from ..checkpoint.check import check
    from ..checkpoint.tensor_names import HEADS, plain_names, spellings
    from ..checkpoint.weights import dummy_weights, weights_from

    parameters = graph.parameters()
    config, checkpoint = described.config, described.checkpoint
    seed = seed if seed is not None else settings.seed or 0
    head = [p.name for p in parameters if p.of_head]
    if fresh_head and not head:
        raise InputError(f"fresh_head: task {described.task.name!r} has no head weights here", hint="leave it out")
    if checkpoint is None:
        dtype = config.dtype or "float32"
        if settings.dtype != "auto":
            dtype = settings.dtype
        numpy_dtype(dtype)  # an unknown name is an error here, not in the middle of a backend
        return dummy_weights(parameters, seed=seed, dtype=dtype, initializer_range=config.initializer_range)
    if brought:
        there = plain_names(parameters, checkpoint.tensors())
        absent = {name for name in brought if not any(spelling in there for spelling in spellings(name))}
        parameters = tuple(p for p in parameters if p.name not in absent)
    if ignore_mismatched_sizes and not fresh_head:
        fresh_head = _is_of_another_shape(checkpoint, parameters)
    anew = head if fresh_head else []
    aside = {name.partition(".")[0] for name in anew}
    if described.graph.head is not None:
        nodes = list(described.graph.head.walk())
        held = {node.path for node in nodes} | {p.name for node in nodes for p in node.own_parameters()}
        if held == {""}:  # a head that holds no weights, tied ones neither, is for the trunk of any checkpoint
            aside |= set(HEADS)
    weight_map = check(
        checkpoint,
        parameters,
        config=config,
        ignore=sorted(f"{name}.*" for name in aside),
        fresh=anew,
    )
    return weights_from(checkpoint, parameters, weight_map, seed=seed, initializer_range=config.initializer_range)


def _is_of_another_shape(checkpoint: Checkpoint, parameters: Sequence[Parameter]) -> bool:
    """Whether a checkpoint's head has other shapes than the graph's, such as of another number of labels."""
    from ..checkpoint.tensor_names import plain_names

    stored = checkpoint.tensors()
    names = plain_names(parameters, stored)
    return any(p.of_head and p.name in names and stored[names[p.name]].shape != tuple(p.shape) for p in parameters)
