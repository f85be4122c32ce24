"""The weights of a described model: stored, adapted, quantized or dummy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dtypes import numpy_dtype
from ..errors import InputError
from ..graph.graph import Graph
from ..settings.schema import Settings, load_settings
from .describe import Described, describe

if TYPE_CHECKING:
    import numpy as np

    from ..checkpoint.weights import Weights


def described_weights(folder: Path) -> tuple[Described, Mapping[str, np.ndarray]]:
    """What lies in a folder, and its weights as they are stored, for those who prepare them ahead of loading."""
    settings = load_settings().model_copy(update={"quantize": None})
    described = describe(folder, settings=settings)
    return described, weights_for(described, settings)


def weights_for(
    described: Described, settings: Settings, *, seed: int | None = None, fresh_head: bool = False
) -> Mapping[str, np.ndarray]:
    """What a backend is handed; quantized on the way where the checkpoint is not."""
    head: dict[str, Any] = {"seed": seed, "fresh_head": fresh_head}
    if described.plain_graph is None:
        return stored_weights(described, described.graph, settings, **head)
    from ..transforms.quantize_weights import quantized_weights

    plain = stored_weights(described, described.plain_graph, settings, **head)
    return quantized_weights(plain, described.graph)


def stored_weights(
    described: Described, graph: Graph, settings: Settings, *, seed: int | None = None, fresh_head: bool = False
) -> Weights:
    """The tensors of a graph as the checkpoint has them, checked; or random ones."""
    from ..checkpoint.check import check
    from ..checkpoint.tensor_names import HEADS
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
    anew = head if fresh_head else []
    aside = {name.partition(".")[0] for name in anew}
    if described.graph.head is not None and not any(node.path for node in described.graph.head.walk()):
        aside |= set(HEADS)  # a head that holds no weights, tied ones neither, is for the trunk of any checkpoint
    weight_map = check(
        checkpoint,
        parameters,
        config=config,
        ignore=sorted(f"{name}.*" for name in aside),
        fresh=anew,
    )
    return weights_from(checkpoint, parameters, weight_map, seed=seed, initializer_range=config.initializer_range)
