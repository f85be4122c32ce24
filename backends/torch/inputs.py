"""Inputs of a pass as tensors: what is none yet is read as an array first, and what is one is checked where it lies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...core.array_kinds import as_numpy, check_plain, kind_of
from ...core.errors import InputError
from ...core.forward.inputs import (
    HostInputs,
    as_embeds,
    as_integers,
    as_mask,
    check_additive,
    check_cache,
    read_inputs,
    read_num_items,
)
from ...core.tasks.labels import as_labels
from .cache import TorchCache
from .tensors import from_numpy

if TYPE_CHECKING:
    from ...core.config.schema import LlamaConfig
    from ...core.forward.arguments import ForwardArguments
    from ...core.tasks.task import Task


_OWN = (None, "numpy", "torch")


def as_tensors(arguments: ForwardArguments, device: torch.device, *, move: bool) -> ForwardArguments:
    """The arguments of a pass with every input as a tensor; what is made is made on `device`.

    Args:
        move: whether tensors are moved there too.
    """

    def tensor(value: Any, read: Callable[[Any], np.ndarray], name: str) -> Any:
        if isinstance(value, Tensor):
            if value.layout is not torch.strided or (value.is_meta and device.type != "meta"):
                check_plain(value, name)
            return value.to(device) if move else value
        if value is None or isinstance(value, int | slice):
            return value
        return from_numpy(read(as_numpy(value, name) if kind_of(value) else value)).to(device)

    def integers(name: str) -> Any:
        return tensor(getattr(arguments, name), functools.partial(as_integers, name=name), name)

    def label(name: str, value: Any) -> Any:
        return tensor(value, functools.partial(as_labels, name=name), name)

    labels = {name: label(name, value) for name, value in arguments.labels.items()}
    return replace(
        arguments,
        input_ids=integers("input_ids"),
        inputs_embeds=tensor(arguments.inputs_embeds, as_embeds, "inputs_embeds"),
        attention_mask=tensor(arguments.attention_mask, as_mask, "attention_mask"),
        position_ids=integers("position_ids"),
        logits_to_keep=integers("logits_to_keep"),
        adapter_rows=integers("adapter_rows"),
        labels=labels,
    )


def read_tensors(config: LlamaConfig, task: Task, cache: Any, arguments: ForwardArguments) -> HostInputs:
    """The tensors of a pass, checked: all on the CPU; elsewhere, where a look would wait for the device, the types."""
    loss_options = arguments.loss_options
    if not torch.compiler.is_compiling():
        foreign = {name: as_numpy(value, name) for name, value in loss_options.items() if kind_of(value) not in _OWN}
        loss_options = read_num_items({**loss_options, **foreign})
        check_tensors(config, task, cache, arguments)
    positions, mask = arguments.position_ids, arguments.attention_mask
    if positions is not None and positions.ndim == 1:
        positions = positions[None]
    if mask is not None and mask.is_floating_point():
        mask = _read_floats(mask)
    tokens = arguments.input_ids if arguments.input_ids is not None else arguments.inputs_embeds
    keep = arguments.logits_to_keep
    if isinstance(keep, int) and tokens is not None:
        keep = min(keep, tokens.shape[1])
    ids, positions, keep = widened(arguments.input_ids), widened(positions), widened(keep)
    labels = {name: widened(value) for name, value in arguments.labels.items()}
    # No `attended`: the mask itself is there, whatever it masks.
    return HostInputs(ids, arguments.inputs_embeds, mask, positions, labels, keep, None, loss_options)


def widened(value: Any) -> Any:
    """Integers as the int64 that torch's indexing takes; anything else as it is."""
    if not isinstance(value, Tensor) or value.dtype in (torch.int64, torch.bool) or value.is_floating_point():
        return value
    return value.to(torch.int64)


def _read_floats(mask: Tensor) -> Tensor:
    """A mask of floats: ones and zeros in two dimensions, 0 where attended in four; so rare that a look may cost."""
    if mask.ndim == 2 and bool((mask == 1).any() & ((mask == 0) | (mask == 1)).all()):
        return mask == 1
    check_additive(mask.ndim)
    return mask == 0


def check_tensors(config: LlamaConfig, task: Task, cache: Any, arguments: ForwardArguments) -> None:
    """Check what can be checked of the tensors of a pass where they lie."""
    named = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")
    tensors = {name: getattr(arguments, name) for name in named} | dict(arguments.labels)
    for name, value in tensors.items():
        if value is not None and not isinstance(value, Tensor):
            raise InputError(f"{name} is a {type(value).__name__}, wanted a tensor")
    if cache is not None and not isinstance(cache, TorchCache):
        check_cache(cache)
        raise InputError(f"past_key_values is a {type(cache).__name__}, of another backend")
    keep, embeds = arguments.logits_to_keep, arguments.inputs_embeds
    if isinstance(keep, slice):
        raise InputError("logits_to_keep is a slice", hint="give a count or a tensor of positions")
    for name in ("input_ids", "position_ids"):
        value = tensors[name]
        if value is not None and (value.is_floating_point() or value.dtype == torch.bool):
            raise InputError(f"{name} holds {str(value.dtype).removeprefix('torch.')}, wanted integers")
    if embeds is not None and not embeds.is_floating_point():
        raise InputError(f"inputs_embeds holds {str(embeds.dtype).removeprefix('torch.')}, wanted floats")
    held = [value for value in (*tensors.values(), keep) if isinstance(value, Tensor)]
    if any(value.device.type != "cpu" or _stands_for_others(value) for value in held):
        return
    on_host: dict[str, Any] = {name: _host(getattr(arguments, name)) for name in named}
    if embeds is not None:
        on_host["inputs_embeds"] = np.broadcast_to(np.float32(0), tuple(embeds.shape))  # the shape is what is checked
    labels = {name: _host(value) for name, value in arguments.labels.items()}
    keep = keep if isinstance(keep, int) else _host(keep)
    read_inputs(config, task, cache, replace(arguments, labels=labels, logits_to_keep=keep, **on_host))


def _stands_for_others(value: Tensor) -> bool:
    """Whether a transform of ``torch.func`` runs on it: there is no single value to look at."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(value))


def _host(tensor: Tensor | None) -> np.ndarray | None:
    """A CPU tensor as NumPy; floats that NumPy does not know as float32."""
    if tensor is None:
        return None
    tensor = tensor.detach()
    known = (torch.float16, torch.float32, torch.float64)
    return (tensor.float() if tensor.is_floating_point() and tensor.dtype not in known else tensor).numpy()
