"""A realized graph on MLX: a module to train, and the model that generation runs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

import mlx.core as mx
import numpy as np
from mlx.nn.utils import value_and_grad
from mlx.utils import tree_flatten

from ...core.backend.protocol import RealizeOptions
from ...core.backend.training import Measure, read_checkpointing, refuse_cache
from ...core.checkpoint.protocol import TensorInfo
from ...core.checkpoint.weights import release
from ...core.errors import BackendUnavailableError, warn
from ...core.forward.arguments import ForwardArguments
from ...core.forward.forward import Engine, Request, forward, length_ropes
from ...core.forward.inputs import check_embeds_shape
from ...core.graph.cache import Cache, filled
from ...core.graph.nodes import Linear
from ...core.messages import mention
from ...core.same_arrays import SameArrays
from .arrays import as_float32, dtype_name, dtype_of, from_numpy, to_numpy
from .cache import MlxCache
from .inputs import any_traced, native, read
from .modules import Composite, MlxContext, attach, layers_between_starts
from .namespace import MlxNamespace
from .tree import TypedModule, find, put

if TYPE_CHECKING:
    from ...core.config.schema import LlamaConfig
    from ...core.graph.graph import Graph
    from ...core.tasks.outputs import ModelOutput
    from ...core.tasks.task import Task


class LlamaModule(TypedModule):
    """A Llama as an ordinary ``mlx.nn.Module``: its flattened parameters have the names of the checkpoint.

    In ``train()`` mode nothing is evaluated before somebody asks, so that ``nn.value_and_grad`` may go through it::

        step = nn.value_and_grad(module, lambda ids: module(ids, labels=ids).loss)
    """

    def __init__(self, graph: Graph, config: LlamaConfig, task: Task, device: str = "cpu") -> None:
        super().__init__()
        for node in (graph.decoder, graph.head):
            if node is not None:
                attach(self, node, widen=_plain_cpu(device))
        # Past nn.Module, for which these would be parts of the module.
        object.__setattr__(self, "_known", MlxModel(self, graph, config, task, device).__dict__)

    @property
    def model_of(self) -> MlxModel:
        """The model around this module, which holds it; made when it is asked for, so that neither keeps the other."""
        model = MlxModel.__new__(MlxModel)
        model.module, model.__dict__ = self, self._known
        return model

    def __call__(self, input_ids: Any = None, *, return_dict: bool = True, **arguments: Any) -> Any:
        """One pass; arguments as :meth:`polyllama.Llama.forward`."""
        model = self.model_of
        output = model.forward(ForwardArguments.of(model.task, input_ids, **arguments))
        return output if return_dict else output.to_tuple()


class _ParametersByName(Mapping[str, mx.array]):
    """A module's parameters by checkpoint name, looked up when asked for, so that whatever replaces them later runs."""

    def __init__(self, module: ReferenceType[Any]) -> None:
        self._module = module

    def __getitem__(self, name: str) -> mx.array:
        array = find(self._module(), name)
        if not isinstance(array, mx.array):
            raise KeyError(name)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> list[str]:
        module: Any = self._module()
        parameters = module.parameters()
        return [str(entry[0]) for entry in tree_flatten(parameters)]


class MlxModel:
    """The module as generation and the facade see it: lists, NumPy or MLX arrays in, MLX arrays out.

    Outside training, a pass hands its outputs to MLX to compute (``mx.async_eval``) and returns without waiting.
    """

    # Beside the dictionary of the other attributes, which the module keeps.
    __slots__ = ("__dict__", "__weakref__", "module")

    asynchronous = True
    adapts_rows = True
    arrays = "mlx"
    handed_out = False
    """Whether somebody was given the module."""

    def __init__(self, module: LlamaModule, graph: Graph, config: LlamaConfig, task: Task, device: str) -> None:
        self.module, self.graph, self.config, self.task, self.device = module, graph, config, task, device
        self._ropes = length_ropes(graph)
        self._where = mx.Device(mx.gpu if device == "gpu" else mx.cpu)
        self._checkpointing = False
        self._stride = layers_between_starts(graph.decoder)
        held = ref(module)  # whoever runs a pass holds it

        def context(*given: Any, **named: Any) -> MlxContext:
            module: Any = held()
            return module.model_of._context(*given, **named)  # type: ignore[no-any-return]

        self._engine = Engine(
            MlxNamespace(),
            _ParametersByName(held),
            as_frequencies=from_numpy,
            to_host=to_numpy,
            context=context,
        )

    def weights_state(self) -> Hashable | None:
        """See :class:`polyllama.extend.Model`: who was given the module may change its weights at any time."""
        if self.handed_out:
            return None
        parameters: Any = self.module.parameters()  # type: ignore[no-untyped-call]
        return SameArrays(dict(tree_flatten(parameters)))

    def _context(self, *args: Any, **kwargs: Any) -> MlxContext:
        return MlxContext(
            *args,
            root=self.module,
            on_gpu=self.device == "gpu",
            plain=_plain_cpu(self.device),
            stride=self._stride,
            checkpointing=self._checkpointing,
            **kwargs,
        )

    @property
    def _embedding(self) -> mx.array:
        array: mx.array = find(self.module, self.graph.decoder.embed.float_name)
        return array

    @property
    def dtype(self) -> str:
        """Name of the parameters' dtype."""
        return dtype_name(self._embedding.dtype)

    def forward(self, arguments: ForwardArguments) -> ModelOutput:
        """See :class:`polyllama.extend.Model`.

        ``inputs_embeds`` may be part of a computation that is being differentiated; everything else is looked at,
        unless ``mx.compile`` traces it, in training mode.
        """
        output = self._pass(arguments)
        if not self.module.training:
            with mx.stream(self._where):
                mx.async_eval(*_arrays(output, output.past_key_values))  # type: ignore[no-untyped-call]
        return output

    def _pass(self, arguments: ForwardArguments) -> ModelOutput:
        """:meth:`forward`, of which nothing is computed before somebody asks."""
        cache = None if arguments.cache_unasked and any_traced(arguments) else arguments.cache(self.new_cache)
        refuse_cache(cache, self._checkpointing and self.module.training)
        embeds = arguments.inputs_embeds
        if isinstance(embeds, mx.array):
            check_embeds_shape(embeds.shape, self.config.hidden_size)
            # A stand-in of its shape, for the checks alone: looking at it would cut off a gradient.
            arguments = replace(arguments, inputs_embeds=np.broadcast_to(np.float32(0), embeds.shape))
        given = read(self.config, self.task, cache, arguments)
        with mx.stream(self._where):
            if embeds is not None:
                embeds = native(np.asarray(embeds) if not isinstance(embeds, mx.array) else embeds)
                embeds = embeds.astype(self._embedding.dtype)
            request = Request.of(arguments, given, self.config, native, embeds)
            output = forward(self._engine, self.graph, self.task, request, cache, self._ropes)
            output.to_numpy = self.to_numpy
        return output

    def value_and_gradients(
        self, measure: Measure, arguments: ForwardArguments
    ) -> tuple[mx.array, dict[str, mx.array]]:
        """See :class:`polyllama.extend.Trains`."""

        def value() -> mx.array:
            scalar: mx.array = measure(self._engine.xp, self._pass(arguments))
            return scalar

        with mx.stream(self._where):
            found, gradients = value_and_grad(self.module, value)()
        flat: Any = tree_flatten(gradients)
        return found, {str(name): gradient for name, gradient in flat}

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradients compute each layer anew while training."""
        return self._checkpointing

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """Keep only what goes into each layer while training; ``mx.checkpoint`` has no options."""
        read_checkpointing(gradient_checkpointing_kwargs, (), "mlx")
        self._checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep what the layers compute, as at first."""
        self._checkpointing = False

    def resize(self, graph: Graph, config: LlamaConfig, changed: Mapping[str, np.ndarray]) -> None:
        """See :class:`polyllama.core.loading.resize.Resizes`."""
        by_columns = _by_columns(graph) if _plain_cpu(self.device) else frozenset()
        with mx.stream(self._where):
            for name, array in changed.items():
                put(self.module, name, _load(array, find(self.module, name).dtype, name in by_columns))
        for node in graph.walk():
            module = find(self.module, node.path)
            if isinstance(module, Composite):
                module.node = node
        self.graph, self.config, self._ropes = graph, config, length_ropes(graph)
        self._engine.move_to(self._engine.device)  # frequencies are known by the ropes of the old graph

    def modes(self) -> dict[str, Any]:
        """Which modules train and which parameters are frozen, for a copy."""
        modules = {name: (module._training, set(module._no_grad)) for name, module in self._modules()}
        return {"checkpointing": self._checkpointing, "modules": modules}

    def take_modes(self, modes: Mapping[str, Any]) -> None:
        """Be as :meth:`modes` said of the original."""
        self._checkpointing = modes["checkpointing"]
        for name, module in self._modules():
            module._training, module._no_grad = modes["modules"][name]

    def _modules(self) -> Iterator[tuple[str, Any]]:
        yield from self.module.named_modules()  # type: ignore[no-untyped-call]

    def new_cache(self, batch: int | None = None, capacity: int | None = None) -> MlxCache:
        """An empty cache with room for `capacity` tokens."""
        return MlxCache(batch, capacity)

    def cache_of(self, entries: Mapping[str, Sequence[Any]], batch: int, length: int) -> MlxCache:
        """See :class:`polyllama.extend.Model`."""
        dtype = self._embedding.dtype
        with mx.stream(self._where):
            return filled(self.new_cache(batch, length), entries, length, lambda array: native(array).astype(dtype))

    @property
    def batch_invariant(self) -> frozenset[str]:
        """See :class:`polyllama.extend.Model`: measured on CPUs under Linux, and claimed nowhere else."""
        measured = sys.platform == "linux" and self.device == "cpu"
        return frozenset({"prefill", "decode"} if measured else ())

    def to_numpy(self, array: mx.array) -> np.ndarray:
        """An MLX array as float32 NumPy."""
        return as_float32(array)

    def state(self) -> Iterator[tuple[TensorInfo, Callable[[], np.ndarray]]]:
        """Every parameter as it is now, in the module's dtype."""
        for parameter in self.graph.parameters():
            array = find(self.module, parameter.name)
            info = TensorInfo(parameter.name, dtype_name(array.dtype), tuple(array.shape))
            yield info, functools.partial(to_numpy, array)


def _arrays(output: ModelOutput, cache: Cache | None) -> Iterator[mx.array]:
    """What a pass leaves behind to be computed. Keys and values come with the outputs, which are made from them."""
    for name, value in output.items():
        if isinstance(value, tuple):
            yield from value
        elif name != "past_key_values":
            yield value
    if cache is not None:
        if cache.mask is not None:
            yield cache.mask
        if cache.history is not None:
            yield from (cache.history.embeds, cache.history.positions)
            if cache.history.seen is not None:
                yield cache.history.seen


def realize(
    graph: Graph,
    weights: Mapping[str, np.ndarray],
    options: RealizeOptions,
    *,
    config: LlamaConfig,
    task: Task,
) -> MlxModel:
    """Build the module, whose own random weights are never computed, and put each tensor in its place."""
    device = options.device or ("gpu" if mx.metal.is_available() else "cpu")
    if device not in ("cpu", "gpu"):
        raise BackendUnavailableError(
            f"mlx has no device {device!r}", hint="use " + mention("device", "gpu") + " or " + mention("device", "cpu")
        )
    if device == "gpu" and not mx.metal.is_available():
        raise BackendUnavailableError("this build of mlx sees no Metal GPU", hint="use " + mention("device", "cpu"))
    dtype = dtype_of(options.dtype if options.dtype != "auto" else _own_dtype(config, weights))
    by_columns = _by_columns(graph) if _plain_cpu(device) else frozenset()
    with mx.stream(mx.Device(mx.gpu if device == "gpu" else mx.cpu)):
        module = LlamaModule(graph, config, task, device)
        module.eval()
        for parameter in graph.parameters():
            # Packed words stay what they are.
            held = dtype if parameter.bits is None else mx.uint32
            array = _load(weights[parameter.name], held, parameter.name in by_columns)
            mx.eval(array)  # one at a time, so that what it was made from can go
            release(weights, parameter.name)
            put(module, parameter.name, array)
    model: MlxModel = module.model_of
    return model


def _plain_cpu(device: str) -> bool:
    """Whether MLX multiplies matrices by plain loops here, as it does on CPUs outside macOS."""
    return device == "cpu" and sys.platform != "darwin"


def _own_dtype(config: LlamaConfig, weights: Mapping[str, np.ndarray]) -> str:
    """The dtype a model asks for by itself; MLX has none wider than float32."""
    name: str = config.dtype or getattr(weights, "dtype", None) or "float32"
    if name == "float64":
        message = "the model is in float64, which MLX does not compute in: it runs in float32"
        warn(message)
        return "float32"
    return name


def _by_columns(graph: Graph) -> frozenset[str]:
    """Names of the matrices that are multiplied by.

    Plain loops read a matrix more than twice as fast along its columns (the outputs) as along its rows, and ask only
    that memory be in that order: names and shapes stay what they are.
    """
    return frozenset(node.weight_name for node in graph.walk() if isinstance(node, Linear))


def _load(array: np.ndarray, dtype: mx.Dtype, by_columns: bool) -> mx.array:
    loaded = from_numpy(array).astype(dtype)
    return mx.contiguous(loaded.T).T if by_columns else loaded
