"""Realizing a graph on JAX: each weight on the device, in the dtype that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ...core.backend.protocol import RealizeOptions
from ...core.checkpoint.weights import release
from ...core.errors import BackendError
from .arrays import dtype_of, find_device
from .model import JaxModel

if TYPE_CHECKING:
    from ...core.config.schema import LlamaConfig
    from ...core.graph.graph import Graph
    from ...core.tasks.task import Task


def realize(
    graph: Graph,
    weights: Mapping[str, np.ndarray],
    options: RealizeOptions,
    *,
    config: LlamaConfig,
    task: Task,
) -> JaxModel:
    """Put each weight on the device in the asked dtype, one at a time."""
    device = find_device(options.device)
    name = options.dtype
    if name == "auto":
        name = config.dtype or getattr(weights, "dtype", None) or "float32"
    dtype = np.dtype(dtype_of(name))
    params: dict[str, Any] = {}
    for parameter in graph.parameters():
        array = np.asarray(weights[parameter.name])
        if array.dtype.kind not in "fV" and not parameter.bits:
            raise BackendError(f"{parameter.name} holds {array.dtype}, wanted floating-point weights")
        held = np.uint32 if parameter.bits else dtype  # packed words stay what they are
        made = jax.device_put(array.astype(held, copy=False), device)
        made.block_until_ready()  # copied in the background, the file's pages would come back
        release(weights, parameter.name)
        params[parameter.name] = made
    return JaxModel(graph, config, task, params, name, device)
