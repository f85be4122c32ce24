"""Inputs of a pass: looked at and checked, but for those that ``mx.compile`` traces, which have a shape alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ...core.errors import InputError
from ...core.forward.inputs import ADDITIVE_MASKED, HostInputs, check_additive, read_inputs
from .arrays import from_numpy

if TYPE_CHECKING:
    from ...core.config.schema import LlamaConfig
    from ...core.forward.arguments import ForwardArguments
    from ...core.graph.cache import Cache
    from ...core.tasks.task import Task


_ARRAYS = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "logits_to_keep")


def read(config: LlamaConfig, task: Task, cache: Cache | None, arguments: ForwardArguments) -> HostInputs:
    """:func:`~polyllama.extend.read_inputs`; with traced inputs, whose numbers nobody can check, MLX
    arrays.

    Raises:
        InputError: what does not fit; of traced inputs, their shapes.
    """
    inputs, labels = {name: getattr(arguments, name) for name in _ARRAYS}, arguments.labels
    if not any_traced(arguments):
        return read_inputs(config, task, cache, arguments)
    if cache is not None:
        raise InputError("a cache cannot go through mx.compile", hint="leave use_cache and past_key_values out")
    given: dict[str, Any] = {name: None if value is None else _array(value) for name, value in inputs.items()}
    tokens = given["input_ids"] if given["input_ids"] is not None else given["inputs_embeds"]
    if tokens is None or (given["input_ids"] is not None and given["inputs_embeds"] is not None):
        raise InputError("exactly one of input_ids and inputs_embeds is wanted")
    if given["input_ids"] is not None and tokens.ndim != 2:
        raise InputError(f"input_ids has shape {list(tokens.shape)}, wanted [batch, sequence]")
    batch, new = tokens.shape[:2]
    mask = given["attention_mask"]
    if mask is not None:
        if tuple(mask.shape) not in ((batch, new), (batch, 1, new, new), (1, 1, new, new)):
            raise InputError(f"attention_mask has shape {list(mask.shape)}, wanted [{batch}, {new}]")
        if mx.issubdtype(mask.dtype, mx.floating):
            check_additive(mask.ndim)
            mask = mask > ADDITIVE_MASKED
        mask = mask.astype(mx.bool_)
    positions = given["position_ids"]
    keep = inputs["logits_to_keep"]
    return HostInputs(
        given["input_ids"],
        given["inputs_embeds"],
        mask,
        positions if positions is None or positions.ndim == 2 else positions[None],
        {name: _array(value) for name, value in labels.items()},
        min(keep, new) if isinstance(keep, int) else _array(keep),
        None,  # the mask itself is there, whatever it masks
    )


def native(array: Any) -> mx.array:
    """What :func:`read` gave as an MLX array."""
    return array if isinstance(array, mx.array) else from_numpy(array)


def _array(value: Any) -> Any:
    return value if isinstance(value, mx.array) else from_numpy(np.asarray(value))


def any_traced(arguments: ForwardArguments) -> bool:
    """Whether ``mx.compile`` traces any of the arrays of a pass."""
    given = (*(getattr(arguments, name) for name in _ARRAYS), *arguments.labels.values())
    return any(_is_traced(value) for value in given)


def _is_traced(value: Any) -> bool:
    if not isinstance(value, mx.array):
        return False
    try:
        mx.eval(value)
    except (ValueError, RuntimeError):  # MLX's refusal to compute what it traces
        return True
    return False
