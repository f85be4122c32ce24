"""The graph as a ``torch.nn.Module`` whose ``state_dict`` is the checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import ref

import array_api_compat.torch as xp
import torch
import torch.nn.modules.module as everywhere
from torch import Tensor, nn

from ...core.backend.training import refuse_cache
from ...core.errors import BackendError, InputError, UnsupportedError
from ...core.forward.arguments import ForwardArguments
from ...core.forward.call import Reader
from ...core.forward.forward import Engine, Request, forward, length_ropes
from ...core.forward.in_kind import InKind
from ...core.forward.inputs import check_cache_position
from ...core.forward.past import Past
from ...core.generation.options import option_names
from ...core.graph.cache import filled
from ...core.graph.graph import Graph
from ...core.loading.tasks import find_task
from ...core.plugin_system.manager import plugin_manager
from ...core.settings.schema import load_settings
from .cache import TorchCache
from .checkpointing import Checkpointing
from .inputs import as_tensors, read_tensors
from .manner import Seat
from .modules import TorchContext, attach_node, hang
from .outputs import register_output
from .row_kernels import row_kernels
from .static_cache import StaticTorchCache
from .tensors import from_numpy, to_numpy

if TYPE_CHECKING:
    import numpy as np

    from ...core.api.llama import Llama
    from ...core.config.schema import LlamaConfig
    from ...core.tasks.outputs import ModelOutput
    from ...core.tasks.task import Task
    from .manner import Manner


ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")

_BEFORE_LABELS = ("input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds")

_UNSAID: Mapping[str, Any] = {
    **dict.fromkeys((*_BEFORE_LABELS, "labels", "use_cache", "output_attentions", "output_hidden_states")),
    **{"return_dict": None, "cache_position": None, "logits_to_keep": 0},
}
"""The named arguments of forward, as they are where nobody gives them."""


class LlamaModule(Checkpointing):
    """A Llama as an ordinary ``nn.Module``.

    ``state_dict()`` has the keys and shapes of the Hugging Face checkpoint; leaves are ``nn.Linear`` and
    ``nn.Embedding``, so optimizers, ``torch.compile``, hooks and adapter libraries work as on any module.

    Args:
        graph: the spec to build, from :func:`polyllama.extend.build_graph`.
        attn_implementation: ``"sdpa"`` (torch's fused kernels; eager where attentions are asked for) or ``"eager"``.
    """

    arrays = "torch"

    _trunk_of: tuple[Graph, Task] | None = None

    def __init__(self, graph: Graph, config: LlamaConfig, task: Task, attn_implementation: str = "sdpa") -> None:
        super().__init__()
        self.graph, self.config, self.task_head = graph, config, task
        self._manner.config = config
        register_output(task.output_type)
        attach_node(self, graph.decoder)
        self._lead_trunk_here()
        if graph.head is not None:
            attach_node(self, graph.head)
        self._tie()
        self._ropes = length_ropes(graph)
        self._set_attention(attn_implementation)
        self._engine = self._build_engine()

    def _set_attention(self, attn_implementation: str) -> None:
        if attn_implementation not in ATTENTION_IMPLEMENTATIONS:
            raise BackendError(
                f"attn_implementation {attn_implementation!r} is not known",
                hint=f"one of {', '.join(ATTENTION_IMPLEMENTATIONS)}",
            )
        self._manner.attention = attn_implementation

    def _lead_trunk_here(self) -> None:
        """Tell the trunk inside this module who runs it when somebody calls it by itself."""
        if self.graph.decoder.name:
            trunk: Any = self.get_submodule(self.graph.decoder.name)
            trunk.lead_to(self, functools.partial(trunk_alone, self._manner))

    @property
    def attn_implementation(self) -> str:
        """How attention is computed: ``"sdpa"`` or ``"eager"``."""
        return self._manner.attention

    @attn_implementation.setter
    def attn_implementation(self, value: str) -> None:
        self._set_attention(value)

    def _belongs_to(self, llama: Llama) -> None:
        """The facade around this module is this one; a plain module has no use for it."""

    def _tie(self) -> None:
        for node in self.graph.walk():
            tied = node.shares_with
            if tied is not None:
                module, source = self.get_submodule(node.path), self.get_submodule(tied)
                for name, parameter in source.named_parameters(recurse=False):
                    setattr(module, name, parameter)

    def tied_names(self) -> dict[str, str]:
        """Names of the parameters that are others under a second name, and theirs."""
        return {
            f"{node.path}.{leaf}": f"{node.shares_with}.{leaf}"
            for node in self.graph.walk()
            if node.shares_with is not None
            for leaf, _ in self.get_submodule(node.path).named_parameters(recurse=False)
        }

    def _build_engine(self) -> Engine:
        """Reads parameters through the module, so that whatever replaces them later is what runs.

        It holds the module weakly: a module is freed when the last who uses it lets it go, not when Python looks for
        cycles.
        """
        manner, seat = self._manner, self._manner.seat
        seat.module = ref(self)

        def context(*given: Any, **named: Any) -> TorchContext:
            module = seat.taken_by()
            return TorchContext(*given, root=module, attn_implementation=module.attn_implementation, **named)

        manner.engine = Engine(
            xp,
            _ParametersByName(seat),
            as_frequencies=lambda array: seat.taken_by()._frequencies(array),
            to_host=to_numpy,
            context=context,
        )
        return manner.engine

    def __getstate__(self) -> dict[str, Any]:
        # The engine points at this very module: a copy makes its own.
        return {name: value for name, value in self.__dict__.items() if name != "_engine"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._tie()
        self._lead_trunk_here()
        self._engine = self._build_engine()

    @property
    def device(self) -> torch.device:
        """Where the embedding is, and so the inputs must be; where accelerate will bring it, if it has it offloaded."""
        found = self._embedding.device
        if found.type != "meta":
            return found
        hooks = (getattr(module, "_hf_hook", None) for module in (self.get_input_embeddings(), self))
        devices = (getattr(hook, "execution_device", None) for hook in hooks)
        return next((torch.device(device) for device in devices if device is not None), found)

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype."""
        return self._embedding.dtype

    @property
    def _embedding(self) -> Tensor:
        path, _, leaf = self.graph.decoder.embed.float_name.rpartition(".")
        found: Tensor = getattr(self.get_submodule(path), leaf)  # no parameter in a replica of DataParallel's
        return found

    def _replicate_for_data_parallel(self) -> Any:
        replica: Any = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica._manner = replace(self._manner, seat=Seat())
        replica._engine = replica._build_engine()
        return replica

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.get_submodule(self.graph.decoder.embed.name)

    def _frequencies(self, array: np.ndarray) -> Tensor:
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        return torch.from_numpy(array).to(self.device, wide)

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        *more: Any,
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Any = None,
        logits_to_keep: Any = 0,
        **options: Any,
    ) -> ModelOutput | tuple[Any, ...]:
        """One pass over tensors on this module's device; nested lists and other frameworks' arrays are brought there.

        Args:
            input_ids: ``[B, S]`` token ids; or `inputs_embeds` ``[B, S, hidden_size]``, exactly one of them.
            attention_mask: ``[B, past + S]``, 1 where attended, padding on either side; or
                ``[B or 1, 1, S, past + S]``.
            position_ids: ``[B or 1, S]``; by default the count of attended tokens before each.
            past_key_values: the cache of an earlier output; ``(keys, values)`` of each layer; or a cache of
                transformers', which is written to and comes out again.
            more: by position, the task's labels and then `use_cache`, `output_attentions`, `output_hidden_states`,
                `return_dict` and `cache_position`.
            labels: what the task's loss is to be against, e.g. ``[B, S]`` token ids, -100 ignored; a task may have
                other names for them.
            use_cache, output_attentions, output_hidden_states, return_dict: as of :meth:`polyllama.Llama.forward`;
                by default as the configuration says, and no cache while training.
            cache_position: accepted as the documentation has it, and checked: the cache knows its own length.
            logits_to_keep: logits for only the last so many positions, or for the given ones; 0 for all.
            options: ``num_items_in_batch``; the task's labels under other names (``start_positions``); ``adapter``, as
                of :meth:`polyllama.Llama.forward`.

        Returns:
            The task's output, e.g. :class:`~polyllama.extend.CausalLMOutput`. NumPy's, JAX's and MLX's arrays give
            arrays of the same kind, without gradients, but tensors while training.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "labels": labels,
            "use_cache": use_cache,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "return_dict": return_dict,
            "cache_position": cache_position,
            "logits_to_keep": logits_to_keep,
        }
        return self._called(self.graph, self.task_head, more, given, options)

    def forward_trunk(self, *more: Any, **named: Any) -> ModelOutput | tuple[Any, ...]:
        """The trunk alone, without the head: arguments as of :meth:`forward`, but labels.

        Returns:
            :class:`~polyllama.extend.BaseModelOutput`, or a plain tuple.
        """
        given: dict[str, Any] = dict(_UNSAID)
        by_position = list(zip(_BEFORE_LABELS, more, strict=False))
        for name, value in [*by_position, *((name, named.pop(name)) for name in _UNSAID if name in named)]:
            if given[name] is not _UNSAID[name]:
                raise InputError(f"forward is given {name!r} twice", hint="give it once, by position or by name")
            given[name] = value
        graph, task = self._trunk()
        return self._called(graph, task, more[len(_BEFORE_LABELS) :], given, named)

    def _trunk(self) -> tuple[Graph, Task]:
        """The graph without its head, and the task that it has then; found once for each graph of the module."""
        known = self._trunk_of
        if known is None or known[0].decoder is not self.graph.decoder:
            task = find_task(plugin_manager(load_settings()), "base", self.config)
            known = self._trunk_of = Graph(self.graph.decoder, None, task.name, self.graph.adapters), task
        return known

    @property
    def runs_as_it_is(self) -> bool:
        """Whether a call is nothing but a pass: no class of somebody's own, no hook and no compiler has to see it."""
        return (
            type(self).forward in _PLAIN_CALLS
            and "forward" not in self.__dict__
            and self._compiled_call_impl is None
            and not (self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks)
            and not (everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks)
            and not (everywhere._global_backward_hooks or everywhere._global_backward_pre_hooks)
        )

    def run(self, arguments: ForwardArguments) -> ModelOutput:
        """A pass of arguments that were read before, with a cache of ours."""
        return self._pass(self.graph, self.task_head, arguments, None)

    def _called(
        self, graph: Graph, task: Task, more: tuple[Any, ...], given: Mapping[str, Any], options: Mapping[str, Any]
    ) -> ModelOutput | tuple[Any, ...]:
        """A pass of `graph`, which has this module's nodes, as somebody called it."""
        reader = Reader(task, self.config, self.training, elsewhere=option_names, adapters=graph.adapters)
        arguments, as_output, position = reader.read(more, given, options)
        kind = None
        if not torch.compiler.is_compiling():
            if torch._C._get_tracing_state() is not None:
                raise UnsupportedError(
                    "torch.jit.trace would keep this call's lengths for every other", hint="use torch.compile(model)"
                )
            kind = InKind.of(arguments, self.arrays, position, training=self.training)
            arguments = as_tensors(arguments, self.device, move=False)
        past = Past.of(self, arguments.past_key_values)
        output = self._pass(graph, task, past.take(arguments), position)
        past.hand_back(self, output, adapters=arguments.adapter_names)
        if kind is not None and kind.kind != "torch":
            output = kind.give(output)
        return output if as_output else output.to_tuple()

    def _pass(self, graph: Graph, task: Task, arguments: ForwardArguments, cache_position: Any) -> ModelOutput:
        """:meth:`forward` on tensors, with a cache of ours."""
        cache = arguments.cache(TorchCache)
        refuse_cache(cache, self.checkpointing_now() is not None)
        given = read_tensors(self.config, task, cache, arguments)
        tokens = arguments.input_ids if arguments.input_ids is not None else arguments.inputs_embeds
        if not torch.compiler.is_compiling():
            check_cache_position(cache, cache_position, tokens.shape[1])
        engine = self._engine
        if engine.device != self.device:
            engine.move_to(self.device)
        embeds = None if arguments.inputs_embeds is None else arguments.inputs_embeds.to(self.dtype)
        request = Request.of(arguments, given, self.config, _as_it_is, embeds)
        with row_kernels(tokens):
            output = forward(engine, graph, task, request, cache, self._ropes)
        output.to_numpy = as_float32
        return output

    def static_cache(self, batch: int, capacity: int) -> TorchCache:
        """A cache of a fixed size; one that grows where frequencies depend on the length, and passes start over."""
        if self._ropes:
            return TorchCache(batch, capacity)
        return StaticTorchCache(batch, capacity, self.device)

    def cache_of(self, entries: Mapping[str, Sequence[Any]], batch: int, length: int) -> TorchCache:
        """See :class:`polyllama.extend.Model`; gradients reach what is given."""

        def native(array: Any) -> Tensor:
            return (array if isinstance(array, Tensor) else from_numpy(array)).to(self.device, self.dtype)

        return filled(TorchCache(batch, length), entries, length, native)


_PLAIN_CALLS: set[Any] = {LlamaModule.forward}


def plain_call(forward: Any) -> Any:
    """Mark a class's ``forward`` as one that does nothing beside a pass but naming the arguments."""
    _PLAIN_CALLS.add(forward)
    return forward


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def trunk_alone(manner: Manner, trunk: Any) -> LlamaModule:
    """A module without a head around a trunk that outlived its own, to run it as that did."""
    whole = LlamaModule.__new__(LlamaModule)
    Checkpointing.__init__(whole)
    task = find_task(plugin_manager(load_settings()), "base", manner.config)
    whole.graph, whole.config, whole.task_head = Graph(trunk.node, None, task.name), manner.config, task
    whole._manner, whole._ropes = manner, length_ropes(whole.graph)
    hang(whole, trunk.node.name, trunk)
    manner.seat.module = ref(whole)
    whole._engine = manner.engine or whole._build_engine()
    whole.training = trunk.training
    return whole


class _ParametersByName(Mapping[str, Tensor]):
    """A module's parameters by checkpoint name, looked up when asked for."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    def __getitem__(self, name: str) -> Tensor:
        try:
            found: Tensor = self._seat.taken_by().get_parameter(name)
            return found
        except AttributeError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._seat.taken_by().named_parameters())

    def __len__(self) -> int:
        return sum(1 for _ in self._seat.taken_by().named_parameters())


def as_float32(tensor: Tensor) -> np.ndarray:
    """A tensor as float32 NumPy."""
    return to_numpy(tensor.detach().float())
