"""A realized graph on torch: the module users train, and the model that generation runs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...core.checkpoint.protocol import TensorInfo
from ...core.errors import CheckpointError
from ...core.forward.arguments import ForwardArguments
from ...core.graph.cache import Cache
from ...core.same_arrays import SameArrays
from .cache import TorchCache
from .inputs import as_tensors
from .module import LlamaModule, as_float32
from .tensors import dtype_name, to_numpy
from .training import TrainsModule

if TYPE_CHECKING:
    from ...core.api.llama import Llama
    from ...core.tasks.outputs import ModelOutput


class TorchModel(TrainsModule):
    """The module as generation and the facade see it: lists, NumPy or tensors in, tensors out, no gradients.

    Gradients are recorded while ``module.train()`` is on, or where an input asks for them.
    """

    arrays = "torch"
    copies_whole = True
    adapts_rows = True
    handed_out = False
    """Whether somebody was given the module."""

    _given: Mapping[str, Tensor] | None = None

    def __init__(self, module: LlamaModule) -> None:
        self.module = module
        self.config, self.graph, self.task = module.config, module.graph, module.task_head

    def belongs_to(self, llama: Llama) -> None:
        """Tell the module which facade is around it."""
        self.module._belongs_to(llama)

    @property
    def dtype(self) -> str:
        """Name of the parameters' dtype."""
        return dtype_name(self.module.dtype)

    @property
    def device(self) -> str:
        """Where it runs, as torch writes it."""
        return str(self.module.device)

    @torch.no_grad()
    def forward_alone(self, arguments: ForwardArguments) -> ModelOutput:
        """A pass of generation: without gradients, while training too."""
        return self.forward(arguments)

    def forward(self, arguments: ForwardArguments) -> ModelOutput:
        """See :class:`polyllama.extend.Model`."""
        rows = arguments.adapter_rows
        arguments = as_tensors(arguments, self.module.device, move=True)
        past = arguments.past_key_values
        names = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "logits_to_keep")
        tensors = {name: getattr(arguments, name) for name in names} | dict(arguments.labels)
        gradients = self.module.training or self._differentiating
        gradients = gradients or any(isinstance(v, Tensor) and v.requires_grad for v in tensors.values())
        observe = {} if arguments.observe is None else {"observe": arguments.observe}
        with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
            if self.module.runs_as_it_is and (past is None or isinstance(past, Cache)):
                return self.module.run(arguments)
            adapters = self.graph.adapters
            adapter = {} if rows is None else {"adapter": [adapters[row] if row >= 0 else None for row in rows]}
            output: ModelOutput = self.module(
                **tensors,
                **adapter,
                past_key_values=arguments.past_key_values,
                use_cache=None if arguments.cache_unasked else arguments.use_cache,
                output_hidden_states=arguments.output_hidden_states,
                output_attentions=arguments.output_attentions,
                return_dict=True,
                **arguments.loss_options,
                **observe,
            )
        return output

    def weights_state(self) -> Hashable | None:
        """See :class:`polyllama.extend.Model`: who was given the module may change its weights at any time."""
        return None if self.handed_out else SameArrays(dict(self.module.named_parameters()))

    def static_cache(self, batch: int, capacity: int) -> TorchCache:
        """See :meth:`LlamaModule.static_cache`."""
        return self.module.static_cache(batch, capacity)

    def cache_of(self, entries: Mapping[str, Sequence[Any]], batch: int, length: int) -> TorchCache:
        """See :class:`polyllama.extend.Model`."""
        return self.module.cache_of(entries, batch, length)

    def new_cache(self, batch: int | None = None, capacity: int | None = None) -> TorchCache:
        """An empty cache with room for `capacity` tokens."""
        return TorchCache(batch, capacity)

    def to_numpy(self, array: Tensor) -> np.ndarray:
        """A tensor as float32 NumPy."""
        return as_float32(array)

    @contextlib.contextmanager
    def holding(self, state_dict: Mapping[str, Tensor] | None) -> Iterator[None]:
        """Have :meth:`state` give these tensors instead of the module's parameters; ``None`` for the parameters."""
        self._given = state_dict
        try:
            yield
        finally:
            self._given = None

    def state(self) -> Iterator[tuple[TensorInfo, Callable[[], np.ndarray]]]:
        """Every parameter as it is now, in the module's dtype.

        Raises:
            CheckpointError: the module holds other parameters than the graph, such as adapters.
        """
        held = dict(self.module.named_parameters() if self._given is None else self._given)
        if self._given is not None:
            for name in self.module.tied_names():
                held.pop(name, None)
        self._check_complete({name: tuple(tensor.shape) for name, tensor in held.items()})
        for parameter in self.graph.parameters():
            tensor = held[parameter.name]
            info = TensorInfo(parameter.name, dtype_name(tensor.dtype), tuple(tensor.shape))
            yield info, functools.partial(to_numpy, tensor)

    def _check_complete(self, held: Mapping[str, tuple[int, ...]]) -> None:
        wanted = {p.name: p.shape for p in self.graph.parameters()}
        extra, missing = sorted(set(held) - set(wanted)), sorted(set(wanted) - set(held))
        other = [name for name in wanted if name in held and held[name] != wanted[name]]
        if extra or missing or other:
            differing = extra + missing + other
            raise CheckpointError(
                f"{'the module' if self._given is None else 'state_dict'} holds other parameters than its graph: "
                f"{len(differing)} differ, "
                f"such as {', '.join(differing[:3])}",
                hint="merge adapters and undo replaced layers before saving, or save module.state_dict() yourself",
            )
