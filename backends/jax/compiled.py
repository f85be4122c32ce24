"""What a model has compiled: functions that do not know the model, so that they do not keep it and its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from .traced import Inputs, Params, Result, Static, TracedPass

if TYPE_CHECKING:
    from ...core.config.schema import LlamaConfig
    from ...core.dtypes import Array
    from ...core.tasks.task import Task


@dataclass
class Count:
    """How often something happened; shared by all that it happens to."""

    value: int = 0


def traced(pass_: TracedPass, traces: Count) -> Callable[..., tuple[Result, Any]]:
    """A pass that counts when it is traced."""

    def trace(params: Params, inputs: Inputs, buffers: Any, static: Static) -> tuple[Result, Any]:
        traces.value += 1  # runs while tracing only
        return pass_(params, inputs, buffers, static)

    return trace


def loss_of(pass_: TracedPass, task: Task, config: LlamaConfig) -> Callable[..., Array]:
    """The task's loss, compiled anew for each content of the config, whose fields may be set: `config_now`."""

    def loss(
        fields: Mapping[str, Array],
        labels: Mapping[str, Array],
        attended: Array | None,
        options: Mapping[str, Any],
        *,
        config_now: LlamaConfig,
    ) -> Array:
        with pass_.precision():
            found: Array = task.loss(jnp, fields, **labels, config=config, attended=attended, **options)
        return found

    return loss
