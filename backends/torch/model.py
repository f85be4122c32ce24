"""A realized graph on torch: the module users train, and the model that generation runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.backend.protocol import RealizeOptions
from ...core.checkpoint.base import TensorInfo
from ...core.checkpoint.weights import release
from ...core.errors import BackendUnavailableError, CheckpointError
from ...core.forward.arguments import ForwardArguments
from ...core.forward.inputs import (
    as_embeds,
    as_integers,
    as_mask,
)
from ...core.messages import mention
from ...core.tasks.labels import as_labels
from .cache import TorchCache
from .module import LlamaModule, as_float32
from .tensors import dtype_name, dtype_of, from_numpy, to_numpy
from .training import TrainsModule

if TYPE_CHECKING:
    from ...core.config.schema import LlamaConfig
    from ...core.graph.graph import Graph
    from ...core.tasks.outputs import ModelOutput
    from ...core.tasks.task import Task


class TorchModel(TrainsModule):
    """The module as generation and the facade see it: lists, NumPy or tensors in, tensors out, no gradients.

    Gradients are recorded while ``module.train()`` is on, or where an input asks for them.
    """

    def __init__(self, module: LlamaModule) -> None:
        self.module = module
        self.config, self.graph, self.task = module.config, module.graph, module.task

    @property
    def dtype(self) -> str:
        """Name of the parameters' dtype."""
        return dtype_name(self.module.dtype)

    @property
    def device(self) -> str:
        """Where it runs, as torch writes it."""
        return str(self.module.device)

    def forward(self, arguments: ForwardArguments) -> ModelOutput:
        """See :class:`polyllama.extend.Model`."""
        keep = arguments.logits_to_keep
        if not isinstance(keep, (int, slice, Tensor)):
            keep = as_integers(keep, "logits_to_keep")
        tensors = {
            "input_ids": self._tensor(arguments.input_ids, lambda v: as_integers(v, "input_ids")),
            "inputs_embeds": self._tensor(arguments.inputs_embeds, as_embeds),
            "attention_mask": self._tensor(arguments.attention_mask, as_mask),
            "position_ids": self._tensor(arguments.position_ids, lambda v: as_integers(v, "position_ids")),
            **{
                name: self._tensor(value, functools.partial(as_labels, name=name))
                for name, value in arguments.labels.items()
            },
            "logits_to_keep": keep if isinstance(keep, (int, slice)) else self._tensor(keep, lambda v: v),
        }
        gradients = self.module.training or self._differentiating
        gradients = gradients or any(isinstance(v, Tensor) and v.requires_grad for v in tensors.values())
        observe = {} if arguments.observe is None else {"observe": arguments.observe}
        with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
            output: ModelOutput = self.module(
                **tensors,
                past_key_values=arguments.past_key_values,
                use_cache=arguments.use_cache,
                output_hidden_states=arguments.output_hidden_states,
                output_attentions=arguments.output_attentions,
                **arguments.loss_options,
                **observe,
            )
        return output

    def _tensor(self, value: Any, read: Callable[[Any], np.ndarray]) -> Tensor | None:
        """A tensor on the module's device; what is none yet is read as an array first."""
        if value is None:
            return None
        return (value if isinstance(value, Tensor) else from_numpy(read(value))).to(self.module.device)

    def new_cache(self, batch: int | None = None, capacity: int | None = None) -> TorchCache:
        """An empty cache with room for `capacity` tokens."""
        return TorchCache(batch, capacity)

    def to_numpy(self, array: Tensor) -> np.ndarray:
        """A tensor as float32 NumPy."""
        return as_float32(array)

    def state(self) -> Iterator[tuple[TensorInfo, Callable[[], np.ndarray]]]:
        """Every parameter as it is now, in the module's dtype.

        Raises:
            CheckpointError: the module holds other parameters than the graph, such as adapters.
        """
        self._check_complete()
        for parameter in self.graph.parameters():
            tensor = self.module.get_parameter(parameter.name)
            info = TensorInfo(parameter.name, dtype_name(tensor.dtype), tuple(tensor.shape))
            yield info, functools.partial(to_numpy, tensor)

    def _check_complete(self) -> None:
        held = {name: tuple(p.shape) for name, p in self.module.named_parameters()}
        wanted = {p.name: p.shape for p in self.graph.parameters()}
        extra, missing = sorted(set(held) - set(wanted)), sorted(set(wanted) - set(held))
        other = [name for name in wanted if name in held and held[name] != wanted[name]]
        if extra or missing or other:
            differing = extra + missing + other
            raise CheckpointError(
                f"the module's parameters are not its graph's any more: {len(differing)} differ, "
                f"such as {', '.join(differing[:3])}",
                hint="merge adapters and undo replaced layers before saving, or save module.state_dict() yourself",
            )


def realize(
    graph: Graph,
    weights: Mapping[str, np.ndarray],
    options: RealizeOptions,
    *,
    config: LlamaConfig,
    task: Task,
) -> TorchModel:
    """Build the module on no device at all, then hand it each tensor where and as it is wanted."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)  # the process's, as torch has no other
    device = torch.device(options.device or _best_device())
    _check_device(device)
    dtype = None if options.dtype == "auto" else dtype_of(options.dtype)
    if dtype is None:
        stored = getattr(weights, "dtype", None) or "float32"
        dtype = dtype_of(config.dtype or stored)
    with torch.device("meta"):
        module = LlamaModule(graph, config, task)
    for parameter in graph.parameters():
        # Packed words stay what they are; torch knows no uint32 by the name the graph has for it.
        held = None if parameter.bits is not None else dtype
        read = from_numpy(weights[parameter.name])
        tensor = read.to(device=device, dtype=held)
        if tensor is not read:  # else it is the mapped file itself
            release(weights, parameter.name)
        trained = parameter.bits is None and parameter.purpose != "quantization"
        path, _, leaf = parameter.name.rpartition(".")
        setattr(module.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=trained))
    module._tie()
    return TorchModel(module.eval())


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_device(device: torch.device) -> None:
    """What the cheap look before importing torch could not know."""
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError(
            f"torch {torch.__version__} sees no CUDA device",
            hint="use " + mention("device", "cpu") + ", or install a CUDA build and driver",
        )
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise BackendUnavailableError(f"there is no {device}: torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise BackendUnavailableError("torch sees no MPS device", hint="use " + mention("device", "cpu"))
