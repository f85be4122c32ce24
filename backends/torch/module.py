"""The graph as a ``torch.nn.Module`` whose ``state_dict`` is the checkpoint."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import Tensor, nn

from ...core.backend.training import refuse_cache
from ...core.dtypes import name_of
from ...core.errors import BackendError, InputError
from ...core.forward.arguments import ForwardArguments
from ...core.forward.forward import Engine, Request, forward, length_ropes
from ...core.forward.inputs import HostInputs, check_additive, check_cache, read_inputs, read_num_items
from ...core.graph.from_config import build_graph
from .cache import TorchCache
from .checkpointing import Checkpointing
from .modules import TorchContext, attach_node
from .tensors import dtype_of, to_numpy

if TYPE_CHECKING:
    from ...core.config.schema import LlamaConfig
    from ...core.graph.graph import Graph
    from ...core.tasks.outputs import ModelOutput
    from ...core.tasks.task import Task


ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")


class LlamaModule(Checkpointing):
    """A Llama as an ordinary ``nn.Module``.

    ``state_dict()`` has the keys and shapes of the Hugging Face checkpoint; leaves are ``nn.Linear`` and
    ``nn.Embedding``, so optimizers, ``torch.compile``, hooks and adapter libraries work as on any module.

    Args:
        graph: the spec to build, from :func:`polyllama.extend.build_graph`.
        attn_implementation: ``"sdpa"`` (torch's fused kernels; eager where attentions are asked for) or ``"eager"``.
    """

    def __init__(self, graph: Graph, config: LlamaConfig, task: Task, attn_implementation: str = "sdpa") -> None:
        super().__init__()
        if attn_implementation not in ATTENTION_IMPLEMENTATIONS:
            raise BackendError(
                f"attn_implementation {attn_implementation!r} is not known",
                hint=f"one of {', '.join(ATTENTION_IMPLEMENTATIONS)}",
            )
        self.graph, self.config, self.task = graph, config, task
        attach_node(self, graph.decoder)
        if graph.head is not None:
            attach_node(self, graph.head)
        self._tie()
        self._ropes = length_ropes(graph)
        self.attn_implementation = attn_implementation
        self._engine = self._build_engine()

    def _tie(self) -> None:
        for node in self.graph.walk():
            tied = node.shares_with
            if tied is not None:
                module, source = self.get_submodule(node.path), self.get_submodule(tied)
                for name, parameter in source.named_parameters(recurse=False):
                    setattr(module, name, parameter)

    def _build_engine(self) -> Engine:
        """Reads parameters through the module, so that whatever replaces them later is what runs."""
        return Engine(
            xp,
            _ParametersByName(self),
            as_frequencies=self._frequencies,
            to_host=to_numpy,
            context=functools.partial(TorchContext, root=self, attn_implementation=self.attn_implementation),
        )

    def __getstate__(self) -> dict[str, Any]:
        # The engine points at this very module: a copy makes its own.
        return {name: value for name, value in self.__dict__.items() if name != "_engine"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._tie()
        self._engine = self._build_engine()

    @property
    def device(self) -> torch.device:
        """Where the embedding is, and so the inputs must be."""
        return self._embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype."""
        return self._embedding.dtype

    @property
    def _embedding(self) -> Tensor:
        return self.get_parameter(self.graph.decoder.embed.float_name)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.get_submodule(self.graph.decoder.embed.name)

    def _frequencies(self, array: np.ndarray) -> Tensor:
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        return torch.from_numpy(array).to(self.device, wide)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: TorchCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **loss_options: Any,
    ) -> ModelOutput | tuple[Any, ...]:
        """One pass over tensors on this module's device.

        Args:
            input_ids: ``[B, S]`` token ids; or `inputs_embeds` ``[B, S, hidden_size]``, exactly one of them.
            attention_mask: ``[B, past + S]``, 1 where attended, padding on either side; or
                ``[B or 1, 1, S, past + S]``.
            position_ids: ``[B or 1, S]``; by default the count of attended tokens before each.
            past_key_values: the cache of an earlier output.
            labels: what the task's loss is to be against, e.g. ``[B, S]`` token ids, -100 ignored; a task may have
                other names for them.
            use_cache: whether a cache comes out; by default as ``config.use_cache`` says, but not while training.
            return_dict: ``False`` gives a plain tuple.
            cache_position: accepted as the documentation has it, and checked: the cache knows its own length.
            logits_to_keep: logits for only the last so many positions, or for the given ones; 0 for all.
            loss_options: ``num_items_in_batch``; the task's labels under other names (``start_positions``).

        Returns:
            The task's output, e.g. :class:`~polyllama.extend.CausalLMOutput`.
        """
        arguments = ForwardArguments.of(
            self.task,
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
            labels=labels,
            use_cache=self.config.use_cache and not self.training if use_cache is None else use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            logits_to_keep=logits_to_keep,
            **loss_options,
        )
        cache = arguments.cache(TorchCache)
        refuse_cache(cache, self.checkpointing_now() is not None)
        given = read_tensors(self, cache, arguments)
        if not torch.compiler.is_compiling():
            check_cache_position(cache, cache_position)
        engine = self._engine
        if engine.device != self.device:
            engine.move_to(self.device)
        embeds = None if inputs_embeds is None else inputs_embeds.to(self.dtype)
        request = Request.of(arguments, given, self.config, _as_it_is, embeds)
        with row_kernels(input_ids if input_ids is not None else inputs_embeds):
            output = forward(engine, self.graph, self.task, request, cache, self._ropes)
        output.to_numpy = as_float32
        return output.to_tuple() if return_dict is False else output


def read_tensors(module: LlamaModule, cache: Any, arguments: ForwardArguments) -> HostInputs:
    """The tensors of a pass, checked: all on the CPU; elsewhere, where a look would wait for the device, the types."""
    loss_options = arguments.loss_options
    if not torch.compiler.is_compiling():
        loss_options = read_num_items(loss_options)
        check_tensors(module, cache, arguments)
    positions, mask = arguments.position_ids, arguments.attention_mask
    if positions is not None and positions.ndim == 1:
        positions = positions[None]
    if mask is not None and mask.is_floating_point():
        check_additive(mask.ndim)
        mask = mask == 0  # additive: 0 where allowed
    tokens = arguments.input_ids if arguments.input_ids is not None else arguments.inputs_embeds
    keep = arguments.logits_to_keep
    if isinstance(keep, int) and tokens is not None:
        keep = min(keep, tokens.shape[1])
    labels = arguments.labels
    # No `attended`: the mask itself is there, whatever it masks.
    return HostInputs(arguments.input_ids, arguments.inputs_embeds, mask, positions, labels, keep, None, loss_options)


def check_tensors(module: LlamaModule, cache: Any, arguments: ForwardArguments) -> None:
    """Check what can be checked of the tensors of a pass where they lie."""
    named = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")
    tensors = {name: getattr(arguments, name) for name in named} | dict(arguments.labels)
    for name, value in tensors.items():
        if value is not None and not isinstance(value, Tensor):
            raise InputError(
                f"{name} is a {type(value).__name__}, wanted a tensor", hint="llm.forward takes lists and NumPy too"
            )
    if cache is not None and not isinstance(cache, TorchCache):
        check_cache(cache)
        raise InputError(f"past_key_values is a {type(cache).__name__}, of another backend")
    keep, embeds = arguments.logits_to_keep, arguments.inputs_embeds
    if isinstance(keep, slice):
        raise InputError("logits_to_keep is a slice", hint="give a count or a tensor of positions")
    held = [value for value in (*tensors.values(), keep) if isinstance(value, Tensor)]
    if any(value.device.type != "cpu" for value in held):
        return
    if embeds is not None and not embeds.is_floating_point():
        raise InputError(f"inputs_embeds holds {embeds.dtype}, wanted floats")
    on_host: dict[str, Any] = {name: _host(getattr(arguments, name)) for name in named}
    if embeds is not None:
        on_host["inputs_embeds"] = np.broadcast_to(np.float32(0), tuple(embeds.shape))  # the shape is what is checked
    labels = {name: _host(value) for name, value in arguments.labels.items()}
    keep = keep if isinstance(keep, int) else _host(keep)
    read_inputs(module.config, module.task, cache, replace(arguments, labels=labels, logits_to_keep=keep, **on_host))


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _host(tensor: Tensor | None) -> np.ndarray | None:
    """A CPU tensor as NumPy; half precision, which NumPy does not know, as float32."""
    if tensor is None:
        return None
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def check_cache_position(cache: TorchCache | None, cache_position: Tensor | None) -> None:
    """``cache_position`` may only say what the cache knows: how many tokens it holds."""
    if cache_position is None or not cache_position.numel():
        return
    past, first = cache.length if cache is not None else 0, int(cache_position.reshape(-1)[0])
    if first != past:
        raise InputError(
            f"cache_position starts at {first}, the cache holds {past} tokens",
            hint="leave it out: the cache knows its own length",
        )


@contextlib.contextmanager
def row_kernels(inputs: Tensor | None) -> Iterator[None]:
    """Let torch's own matrix-vector kernels run where a CPU decodes a single row, instead of oneDNN's.

    For a single row in half precision oneDNN repacks each matrix on every call; torch's own kernels read it once, twice
    as fast, with the same float32 sums. The switch is the process's, so it is held for one pass only.
    """
    single = inputs is not None and inputs.shape[0] * inputs.shape[1] == 1 and inputs.device.type == "cpu"
    if not single or torch.is_grad_enabled() or torch.compiler.is_compiling() or not torch.backends.mkldnn.enabled:
        yield
        return
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(True)


class _ParametersByName(Mapping[str, Tensor]):
    """A module's parameters by checkpoint name, looked up when asked for."""

    def __init__(self, module: nn.Module) -> None:
        self._find = module.get_parameter
        self._all = module.named_parameters

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._find(name)
        except AttributeError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._all())

    def __len__(self) -> int:
        return sum(1 for _ in self._all())


def as_float32(tensor: Tensor) -> np.ndarray:
    """A tensor as float32 NumPy."""
    return to_numpy(tensor.detach().float())


def build_module(config: LlamaConfig, task: Task, *, dtype: Any = "float32", seed: int = 0) -> LlamaModule:
    """A freshly initialized module to train: normal weights of ``config.initializer_range``, norms one, biases zero.

    >>> from polyllama import LlamaConfig
    >>> from polyllama.plugins.tasks.causal_lm import CausalLM
    >>> config = LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
    ...                      num_attention_heads=2)
    >>> module = build_module(config, CausalLM())
    >>> module(input_ids=torch.tensor([[1, 2, 3]])).logits.shape
    torch.Size([1, 3, 32])
    """
    graph = build_graph(config, task)
    module = LlamaModule(graph, config, task).to(dtype_of(name_of(dtype)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for spec in graph.parameters():
            parameter = module.get_parameter(spec.name)
            if spec.purpose == "norm":
                parameter.fill_(1.0)
            elif spec.purpose == "bias":
                parameter.zero_()
            else:
                parameter.normal_(0.0, config.initializer_range, generator=generator)
    return module
