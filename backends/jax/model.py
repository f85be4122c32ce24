"""A realized graph on JAX: what generation and the facade run, and the pure function that JAX's transforms take."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as host
import numpy as np

from ...core.array_kinds import as_numpy
from ...core.backend.training import Measure, read_checkpointing
from ...core.checkpoint.protocol import TensorInfo
from ...core.errors import InputError, UnsupportedError
from ...core.forward.arguments import ForwardArguments
from ...core.forward.forward import length_ropes
from ...core.forward.inputs import HostInputs, read_inputs
from ...core.forward.layout import Layout, seen_so_far
from ...core.graph.text_tokens import text_by_padding
from ...core.same_arrays import SameArrays
from .arrays import DTYPES, as_float32, device_name, in_32_bits
from .cache import JaxCache
from .compiled import Count, loss_of, traced
from .functional import apply, dropout_key, register_output
from .layouts import attended_of, key_mask_of, layout_of, mask_of, padded, widened
from .lengths import SMALLEST_PREFILL, padded_length
from .nodes import Checkpoint
from .params import check_params
from .traced import Inputs, Params, Result, Static, TracedPass

if TYPE_CHECKING:
    from ...core.config.schema import LlamaConfig
    from ...core.dtypes import Array
    from ...core.graph.graph import Graph
    from ...core.tasks.outputs import ModelOutput
    from ...core.tasks.task import Task


class JaxModel:
    """A graph under ``jit``: lists, NumPy or JAX arrays in, JAX arrays out.

    Lengths are padded and caches have a fixed number of slots, so a model is traced for a few lengths, once more for
    each doubling of a cache, and never per token.

    Attributes:
        forward_options: arguments of :meth:`forward` that the other backends do not have.
        params: the weights as a pytree, a dict by checkpoint name; put others there, trained or sharded, as you like.
            Empty for a model that is given them in every call, and of which `device` says where it is to run.
    """

    arrays = "jax"
    compiles_rows = True
    adapts_rows = True
    forward_options = ("params", "train", "dropout_rng")

    def __init__(
        self,
        graph: Graph,
        config: LlamaConfig,
        task: Task,
        params: dict[str, Array],
        dtype: str,
        device: jax.Device | None = None,
    ) -> None:
        self.graph, self.config, self.task = graph, config, task
        self.params = params
        self._place = device
        self.dtype = dtype
        self._traces = Count()
        self._checkpoint: Checkpoint | None = None
        # A pass may be padded where each token has its own output, and where a mask tells a head of whole rows which
        # tokens are text; other heads see exact lengths.
        self._per_token = task.outputs_per == "token" or graph.head is None
        register_output(task.output_type)
        self._prepare()

    def _prepare(self) -> None:
        """What runs the graph; compiled anew when it is needed."""
        platform = self.jax_device.platform
        self.pass_ = TracedPass(self.graph, self.task, tuple(length_ropes(self.graph)), self.dtype, platform)
        # Neither knows this object: one that held it would keep it, and its weights, until Python looks for cycles.
        trace = traced(self.pass_, self._traces)
        self._compiled = jax.jit(trace, static_argnames="static", donate_argnames="buffers")
        self._compiled_loss = jax.jit(loss_of(self.pass_, self.task, self.config), static_argnames="config_now")

    @property
    def traces(self) -> int:
        """How often a pass was traced."""
        return self._traces.value

    @property
    def device(self) -> str:
        """Where the embedding is, as JAX writes it."""
        return device_name(self.jax_device)

    @property
    def jax_device(self) -> jax.Device:
        """:attr:`device` itself; the one that was asked for where there are no parameters yet."""
        if not self.params:
            return self._place or jax.devices()[0]
        devices = self._embedding_of(self.params).devices()
        found: jax.Device = min(devices, key=lambda device: int(device.id))
        return found

    def _embedding_of(self, params: Params) -> Array:
        return params[self.graph.decoder.embed.float_name]

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of every parameter, as :attr:`params` hold them where nobody put others there."""
        float_type = DTYPES[self.dtype]
        return {
            p.name: jax.ShapeDtypeStruct(p.shape, jnp.uint32 if p.bits else float_type)  # type: ignore[no-untyped-call]
            for p in self.graph.parameters()
        }

    def with_params(self, params: Params) -> JaxModel:
        """The same model with other weights, which shares what is compiled.

        Raises:
            InputError: they are not this graph's.
        """
        check_params(self.graph, params)
        other = copy.copy(self)
        other.params = dict(self._here(params))
        return other

    def weights_state(self) -> Hashable:
        """See :class:`polyllama.extend.Model`: other weights are other arrays."""
        return SameArrays(self.params)

    def _here(self, params: Params) -> Params:
        """Parameters as arrays of JAX's: those that are stay where they are, others go to the model's device."""
        return {
            name: array if isinstance(array, jax.Array) else jax.device_put(as_numpy(array, name), self.jax_device)
            for name, array in params.items()
        }

    def forward(self, arguments: ForwardArguments) -> ModelOutput:
        """See :class:`polyllama.extend.Model`. It is compiled, and not differentiated: :meth:`apply` is.

        Arguments of its own: ``params``, other weights than the model's; ``train``, whether dropout acts, and
        ``dropout_rng``, its random key.
        """
        own = arguments.own
        dropout_rng = dropout_key(self.graph, own.get("train", False), own.get("dropout_rng"))
        cache = arguments.cache(self.new_cache)
        given = read_inputs(self.config, self.task, cache, arguments)
        if given.attended is None and self.task.outputs_per == "row":
            given = replace(given, attended=text_by_padding(given.input_ids, self.config.pad_token_id))
        if cache is not None and not isinstance(cache, JaxCache):
            raise InputError(f"past_key_values is a {type(cache).__name__} of another backend")
        weights = own.get("params")
        if weights is None or weights is self.params:
            weights = self.params
        if weights is not self.params or not self.params:
            check_params(self.graph, weights)
            weights = self._here(weights)
        result, past, new = self._run(weights, given, cache, dropout_rng, arguments)
        return self._output(result, given, cache, past, new)

    def apply(self, params: Params, input_ids: Any = None, **arguments: Any) -> ModelOutput:
        """The model as a pure function of `params`, for JAX's transforms; see :func:`apply`."""
        given = ForwardArguments.of(self.task, input_ids, options=("train", "dropout_rng"), **arguments)
        return apply(self.pass_, self.config, params, given, checkpoint=self._checkpoint)

    def value_and_gradients(self, measure: Measure, arguments: ForwardArguments) -> tuple[Array, Params]:
        """See :class:`polyllama.extend.Trains`."""

        def value(params: Params) -> Array:
            return measure(jnp, apply(self.pass_, self.config, params, arguments, checkpoint=self._checkpoint))

        found: tuple[Array, Params] = jax.jit(jax.value_and_grad(value))(self.params)
        return found

    def resize(self, graph: Graph, config: LlamaConfig, changed: Mapping[str, np.ndarray]) -> None:
        """See :class:`polyllama.core.loading.resize.Resizes`. Weights that are spread over devices stay spread."""
        for name, array in changed.items():
            old = self.params[name]
            self.params[name] = jax.device_put(array.astype(old.dtype), old.sharding)
        self.graph, self.config = graph, config
        self._prepare()

    def modes(self) -> dict[str, Any]:
        """Types of parameters and the checkpointing of gradients, for a copy.

        Raises:
            UnsupportedError: the parameters are spread over several devices.
        """
        spread = [name for name, array in self.params.items() if len(getattr(array, "devices", tuple)()) > 1]
        if spread:
            raise UnsupportedError(
                f"{spread[0]} is spread over several devices, and a copy is not", hint="save the model and load it"
            )
        dtypes = {name: str(array.dtype) for name, array in self.params.items()}
        return {"dtypes": dtypes, "checkpoint": self._checkpoint}

    def take_modes(self, modes: Mapping[str, Any]) -> None:
        """Be as :meth:`modes` said of the original."""
        self._checkpoint = modes["checkpoint"]
        self.params = {name: self.params[name].astype(dtype) for name, dtype in modes["dtypes"].items()}

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradients through :meth:`apply` compute each layer anew."""
        return self._checkpoint is not None

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """Let gradients through :meth:`apply` compute each layer anew instead of keeping what is in it.

        A function that was compiled before stays as it is.

        Args:
            gradient_checkpointing_kwargs: arguments of ``jax.checkpoint``: ``policy``, ``prevent_cse``.
        """
        options = read_checkpointing(gradient_checkpointing_kwargs, ("policy", "prevent_cse"), "jax")
        self._checkpoint = functools.partial(jax.checkpoint, **options)

    def gradient_checkpointing_disable(self) -> None:
        """Keep what the layers compute, as at first."""
        self._checkpoint = None

    def _run(
        self,
        params: Params,
        given: HostInputs,
        cache: JaxCache | None,
        dropout_rng: Any,
        arguments: ForwardArguments,
    ) -> tuple[Result, int, int]:
        tokens = given.input_ids if given.input_ids is not None else given.inputs_embeds
        assert tokens is not None  # read_inputs saw to it
        batch, new = tokens.shape[:2]
        if cache is not None:
            cache.claim(self, batch)
        past = 0 if cache is None else cache.length
        length = self._length(given, new, arguments.observe is not None or dropout_rng is not None)
        layout = layout_of(given, cache, new, past)
        layout = replace(layout, positions=in_32_bits(layout.positions, "position_ids"))
        slots = length if cache is None else cache.reserve(self._buffer_shapes, past + length, self._sharding(params))
        rows = self._rows_so_far(given, cache, layout, batch, new)
        restart = _restarts(rows, cache)
        restart_slots = min(padded_length(past + length, SMALLEST_PREFILL), slots) if restart else 0
        positions = rows.positions if restart else layout.positions
        seen = None if cache is None or not self.pass_.ropes else cache.seen
        mask = mask_of(layout, seen, past, new, restart)
        keep = given.logits_to_keep
        inputs = Inputs(
            tokens=padded(tokens if tokens.ndim == 3 else tokens.astype(np.int32), length),
            positions=padded(np.broadcast_to(positions, (batch, positions.shape[1])), restart_slots or length),
            key_mask=key_mask_of(layout, batch, past + new, slots),
            start=np.int32(past),
            new=np.int32(new),
            mask=None if mask is None else widened(mask, restart_slots or length, slots),
            frequencies=rows.frequencies,
            kept=None if isinstance(keep, int) else keep.astype(np.int32),
            dropout_rng=dropout_rng,
            attended=attended_of(given, layout, past, length),
            adapter_rows=None if arguments.adapter_rows is None else arguments.adapter_rows.astype(np.int32),
        )
        flags = arguments.output_hidden_states, arguments.output_attentions
        static = Static(keep if isinstance(keep, int) else 0, restart_slots, *flags)
        result = self._execute(params, inputs, cache, static, arguments.observe)
        if cache is not None:  # only now: a pass that failed leaves the cache as it was
            if self.pass_.ropes:
                cache.positions, cache.regime = rows.positions, rows.regime
                cache.seen = seen_so_far(host, layout, seen, new=new, past=past)
            cache.advance(new, layout.key_mask)
        return result, past, new

    def _execute(
        self,
        params: Params,
        inputs: Inputs,
        cache: JaxCache | None,
        static: Static,
        observe: Callable[..., None] | None,
    ) -> Result:
        """The pass itself, compiled unless somebody observes it; the cache gets its buffers back."""
        result: Result
        buffers = None if cache is None else cache.buffers
        if observe is None:
            result, buffers = self._compiled(params, inputs, buffers, static=static)
        else:
            result, buffers = self.pass_(params, inputs, buffers, static, observe)
        if cache is not None:
            cache.buffers = buffers or {}
        return result

    def _length(self, given: HostInputs, new: int, exact: bool) -> int:
        """Tokens that a pass is padded to; `exact` where observers look on or random numbers depend on the shape."""
        pads = self._per_token or (self.task.outputs_per == "row" and given.attended is not None)
        return padded_length(new, SMALLEST_PREFILL) if pads and not exact else new

    def _rows_so_far(
        self, given: HostInputs, cache: JaxCache | None, layout: Layout, batch: int, new: int
    ) -> _RowsSoFar:
        """How long each row is with the new tokens, by ``core/forward``'s rule, where the RoPE depends on that."""
        ropes = self.pass_.ropes
        if not ropes:
            return _RowsSoFar(layout.positions, (), None)
        positions = np.broadcast_to(layout.positions, (batch, new))
        if cache is not None and cache.positions is not None:
            positions = np.concatenate([cache.positions, positions], axis=1)
        if given.position_ids is not None or layout.key_mask is None:
            lengths = positions.max(axis=1) + 1
        else:
            lengths = layout.key_mask.sum(axis=1)
        regime = np.stack([rope.regime(lengths) for rope in ropes], axis=1)
        frequencies = tuple(
            np.broadcast_to(rope.row_frequencies(lengths), (batch, rope.rotary_dim // 2)) for rope in ropes
        )
        return _RowsSoFar(positions, frequencies, regime)

    def _output(self, result: Result, given: HostInputs, cache: JaxCache | None, past: int, new: int) -> ModelOutput:
        fields, states, weights = result
        if isinstance(given.logits_to_keep, int) and given.logits_to_keep == 0 and self._per_token:
            fields = {name: _first(value, new) for name, value in fields.items()}
        loss = None
        if given.labels:
            labels = {name: in_32_bits(array, name) for name, array in given.labels.items()}
            loss = self._compiled_loss(
                fields, labels, given.attended, dict(given.loss_options), config_now=self.config.model_copy()
            )
        output = self.task.output_type(
            loss=loss,
            past_key_values=cache,
            hidden_states=None if states is None else tuple(_first(state, new) for state in states),
            attentions=None if weights is None else tuple(part[:, :, :new, : past + new] for part in weights),
            **fields,
        )
        output.to_numpy = as_float32
        return output

    @functools.cached_property
    def _buffer_shapes(self) -> Mapping[str, tuple[jax.ShapeDtypeStruct, ...]]:
        return self.pass_.buffer_shapes(self.shapes)

    def _sharding(self, params: Params) -> Any:
        """Where caches are made: on the parameters' device, on every one of them where they are spread over several."""
        sharding = getattr(self._embedding_of(params), "sharding", None)  # NumPy's arrays have none
        if isinstance(sharding, jax.sharding.NamedSharding):
            return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())  # type: ignore[no-untyped-call]
        return sharding

    def new_cache(self, batch: int | None = None, capacity: int | None = None) -> JaxCache:
        """An empty cache with room for `capacity` tokens, rounded up to few sizes."""
        return JaxCache(batch, capacity)

    def cache_of(self, entries: Mapping[str, Sequence[Any]], batch: int, length: int) -> JaxCache:
        """See :class:`polyllama.extend.Model`."""
        cache = self.new_cache(batch, length)
        cache.reserve(self._buffer_shapes, length, self._sharding(self.params))
        for name, parts in entries.items():
            cache.put(name, *parts)
        cache.advance(length, None)
        return cache

    def to_numpy(self, array: Array) -> np.ndarray:
        """A JAX array as float32 NumPy."""
        return as_float32(array)

    def state(self) -> Iterator[tuple[TensorInfo, Callable[[], np.ndarray]]]:
        """Every parameter as it is now, in the dtype it is computed in."""
        for parameter in self.graph.parameters():
            array = self.params[parameter.name]
            info = TensorInfo(parameter.name, str(array.dtype), tuple(array.shape))
            yield info, functools.partial(np.asarray, array)


class _RowsSoFar(NamedTuple):
    """Positions ``[B, past + S]``, per length-dependent RoPE the rows' frequencies, and what tells those apart."""

    positions: np.ndarray
    frequencies: tuple[np.ndarray, ...]
    regime: np.ndarray | None


def _restarts(rows: _RowsSoFar, cache: JaxCache | None) -> bool:
    """Whether a row has grown into other frequencies than its cached keys were rotated by."""
    before = None if cache is None else cache.regime
    return before is not None and rows.regime is not None and not np.array_equal(rows.regime, before)


def _first(array: Array, count: int) -> Array:
    return array if array.shape[1] == count else array[:, :count]
