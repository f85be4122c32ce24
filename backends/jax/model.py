"""A realized graph on JAX: what generation and the facade run, and the pure function that JAX's transforms take."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as host
import numpy as np

from ...core.backend.protocol import RealizeOptions
from ...core.backend.training import Measure, read_checkpointing
from ...core.checkpoint.base import TensorInfo
from ...core.checkpoint.weights import release
from ...core.errors import BackendError, InputError
from ...core.forward.arguments import ForwardArguments
from ...core.forward.forward import attended_tokens, length_ropes
from ...core.forward.inputs import HostInputs, read_inputs
from ...core.forward.layout import Layout, lay_out
from .arrays import as_float32, device_name, dtype_of, find_device
from .cache import JaxCache
from .functional import apply, dropout_key, register_output
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
        traces: how often a pass was traced.
    """

    forward_options = ("params", "train", "dropout_rng")

    def __init__(self, graph: Graph, config: LlamaConfig, task: Task, params: dict[str, Array], dtype: str) -> None:
        self.graph, self.config, self.task = graph, config, task
        self.params = params
        self.dtype = dtype
        self.traces = 0
        self._checkpoint: Checkpoint | None = None
        # A pass may be padded where each token has its own output, and where a mask tells a head of whole rows which
        # tokens are text; other heads see exact lengths.
        self._per_token = task.outputs_per == "token" or graph.head is None
        register_output(task.output_type)
        self._prepare()

    def _prepare(self) -> None:
        """What runs the graph; compiled anew when it is needed."""
        platform = next(iter(self._embedding.devices())).platform
        self.pass_ = TracedPass(self.graph, self.task, tuple(length_ropes(self.graph)), self.dtype, platform)
        self._compiled = jax.jit(self._trace, static_argnames="static", donate_argnames="buffers")
        self._compiled_loss = jax.jit(self._loss)

    @property
    def device(self) -> str:
        """Where the embedding is, as JAX writes it."""
        return device_name(min(self._embedding.devices(), key=lambda device: int(device.id)))

    @property
    def _embedding(self) -> Array:
        return self.params[f"{self.graph.decoder.embed.name}.weight"]

    def forward(self, arguments: ForwardArguments) -> ModelOutput:
        """See :class:`polyllama.extend.Model`. It is compiled, and not differentiated: :meth:`apply` is.

        Arguments of its own: ``params``, other weights than the model's; ``train``, whether dropout acts, and
        ``dropout_rng``, its random key.
        """
        own = arguments.own
        dropout_rng = dropout_key(self.graph, own.get("train", False), own.get("dropout_rng"))
        cache = arguments.cache(self.new_cache)
        given = read_inputs(self.config, self.task, cache, arguments)
        if cache is not None and not isinstance(cache, JaxCache):
            raise InputError(f"past_key_values is a {type(cache).__name__} of another backend")
        weights = own.get("params")
        if weights is None or weights is self.params:
            weights = self.params
        else:
            check_params(self.graph, weights)
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
        layout = lay_out(
            host,
            new=new,
            past=past,
            attention_mask=given.attention_mask,
            past_mask=None if cache is None else cache.mask,
            position_ids=given.position_ids,
        )
        slots = length if cache is None else cache.reserve(self._buffer_shapes, past + length, self._sharding)
        rows = self._rows_so_far(given, cache, layout, batch, new)
        restart = _restarts(rows, cache)
        restart_slots = min(padded_length(past + length, SMALLEST_PREFILL), slots) if restart else 0
        positions = rows.positions if restart else layout.positions
        mask = _mask(given, layout, past, positions if restart else None)
        keep = given.logits_to_keep
        inputs = Inputs(
            tokens=_pad(tokens if tokens.ndim == 3 else tokens.astype(np.int32), length),
            positions=_pad(np.broadcast_to(positions, (batch, positions.shape[1])), restart_slots or length, np.int32),
            key_mask=_key_mask(layout, batch, past + new, slots),
            start=np.int32(past),
            new=np.int32(new),
            mask=None if mask is None else _widened(mask, restart_slots or length, slots),
            frequencies=rows.frequencies,
            kept=None if isinstance(keep, int) else keep.astype(np.int32),
            dropout_rng=dropout_rng,
            attended=_attended(given, layout, past, length),
        )
        flags = arguments.output_hidden_states, arguments.output_attentions
        static = Static(keep if isinstance(keep, int) else 0, restart_slots, *flags)
        result = self._execute(params, inputs, cache, static, arguments.observe)
        if cache is not None:  # only now: a pass that failed leaves the cache as it was
            if self.pass_.ropes:
                cache.positions, cache.regime = rows.positions, rows.regime
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
            labels = {name: _narrowed(array) for name, array in given.labels.items()}
            loss = self._compiled_loss(fields, labels, dict(given.loss_options))
        output = self.task.output_type(
            loss=loss,
            past_key_values=cache,
            hidden_states=None if states is None else tuple(_first(state, new) for state in states),
            attentions=None if weights is None else tuple(part[:, :, :new, : past + new] for part in weights),
            **fields,
        )
        output.to_numpy = as_float32
        return output

    def _trace(self, params: Params, inputs: Inputs, buffers: Any, static: Static) -> tuple[Result, Any]:
        self.traces += 1  # runs while tracing only
        return self.pass_(params, inputs, buffers, static)

    def _loss(self, fields: Mapping[str, Array], labels: Mapping[str, Array], options: Mapping[str, Any]) -> Array:
        with self.pass_.precision():
            return self.task.loss(jnp, fields, **labels, config=self.config, **options)

    @functools.cached_property
    def _buffer_shapes(self) -> Mapping[str, tuple[jax.ShapeDtypeStruct, ...]]:
        return self.pass_.buffer_shapes(self.params)

    @property
    def _sharding(self) -> Any:
        """Where caches are made: on the parameters' device, on every one of them where they are spread over several."""
        sharding = self._embedding.sharding
        if isinstance(sharding, jax.sharding.NamedSharding):
            return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())  # type: ignore[no-untyped-call]
        return sharding

    def new_cache(self, batch: int | None = None, capacity: int | None = None) -> JaxCache:
        """An empty cache with room for `capacity` tokens, rounded up to few sizes."""
        return JaxCache(batch, capacity)

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


def _mask(given: HostInputs, layout: Layout, past: int, restarted: np.ndarray | None) -> np.ndarray | None:
    """The mask that takes the causal one's place, if any does; `restarted`: positions of a pass over everything."""
    if restarted is not None:
        return None if layout.key_mask is not None else _packed(restarted)
    return layout.mask if _needs_mask(given, past) else None


def _needs_mask(given: HostInputs, past: int) -> bool:
    """Whether the mask says more than "causal, without padded keys", which the traced pass works out by itself."""
    if given.attention_mask is not None:
        return bool(given.attention_mask.ndim == 4)
    return given.position_ids is not None and past == 0 and _packed(given.position_ids) is not None


def _packed(positions: np.ndarray) -> np.ndarray | None:
    """The mask of several sequences packed into a row, told by positions that do not rise; ``None`` where all do."""
    if bool((positions[:, 1:] > positions[:, :-1]).all()):
        return None
    length = positions.shape[1]
    layout = lay_out(host, new=length, past=0, attention_mask=None, past_mask=None, position_ids=positions)
    return np.asarray(layout.mask)


def _pad(array: np.ndarray, length: int, dtype: Any = None) -> np.ndarray:
    """`array` ``[B, n, ...]`` with its last entry along the second axis repeated up to `length`."""
    array = array if dtype is None else array.astype(dtype)
    more = length - array.shape[1]
    return array if more <= 0 else np.concatenate([array, np.repeat(array[:, -1:], more, axis=1)], axis=1)


def _key_mask(layout: Layout, batch: int, used: int, slots: int) -> np.ndarray:
    """``[B, slots]``: the slots in use, without padding."""
    mask = np.zeros((batch, slots), bool)
    mask[:, :used] = True if layout.key_mask is None else layout.key_mask
    return mask


def _attended(given: HostInputs, layout: Layout, past: int, length: int) -> np.ndarray | None:
    """``[B, length]`` booleans for heads; what a pass is padded with is no text."""
    attended = attended_tokens(given.attended, given.attention_mask, layout, past)
    if attended is None:
        return None
    return np.pad(np.asarray(attended), [(0, 0), (0, length - attended.shape[1])])


def _narrowed(labels: np.ndarray) -> np.ndarray:
    """Labels in 32 bits, as JAX has them."""
    return labels.astype({"i": np.int32, "f": np.float32}.get(labels.dtype.kind, labels.dtype))


def _widened(mask: np.ndarray, length: int, slots: int) -> np.ndarray:
    """A mask ``[B or 1, 1, S, K]`` for a padded pass and all slots."""
    whole = np.zeros((mask.shape[0], 1, length, slots), bool)
    whole[:, :, : mask.shape[2], : mask.shape[3]] = mask
    whole[:, :, mask.shape[2] :, :1] = True  # what only pads looks at something, so that nothing is NaN
    return whole


def _first(array: Array, count: int) -> Array:
    return array if array.shape[1] == count else array[:, :count]


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
    return JaxModel(graph, config, task, params, name)
