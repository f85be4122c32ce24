"""A realized graph on the native kernels: NumPy in and out, a whole pass in one call where the graph allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

import numpy as np

from ...core.backend.protocol import RealizeOptions
from ...core.checkpoint.protocol import TensorInfo
from ...core.errors import BackendError, InputError, SettingsError, warn
from ...core.forward.forward import Engine
from ...core.forward.spec_model import SpecModel
from ...core.graph.cache import Cache
from ...core.graph.nodes import Decoder, DecoderLayer, Embedding, Linear
from ...core.graph.quantized import QuantizedEmbedding, QuantizedLinear
from ...core.messages import mention
from . import packed_file
from .cache import CpuCache
from .program import Lowered, lower
from .sizes import CHUNK, DTYPES, nearest_dtype
from .topology import physical_cores, processors
from .weights import CpuWeights, FloatView, pack

if TYPE_CHECKING:
    from ...core.config.schema import LlamaConfig
    from ...core.forward.arguments import ForwardArguments
    from ...core.graph.graph import Graph
    from ...core.graph.node import Context
    from ...core.tasks.outputs import ModelOutput
    from ...core.tasks.task import Task

PRODUCTS = 1 << 31
"""Multiplications that a single product does at a time, so that Ctrl-C waits for no more of a long prompt's head."""

THREADS = 4096
"""The most threads that the kernels take."""

BYTES_PER_THREAD = 8 << 20
"""Weights that are worth a further thread: what takes one thread less long than waiting for the others does."""


class CpuModel(SpecModel):
    """A graph lowered to a program. Arrays are float32 NumPy, whatever the weights are held in.

    Attributes:
        lowered: the program.
        weights: what it reads.
    """

    def __init__(
        self, graph: Graph, config: LlamaConfig, task: Task, weights: CpuWeights, lowered: Lowered, dtype: str
    ) -> None:
        self.weights, self.lowered = weights, lowered
        engine = Engine(
            np, FloatView(weights), as_frequencies=np.asarray, to_host=np.asarray, overrides=self._overrides()
        )
        super().__init__(
            graph, config, task, engine, dtype=dtype, stored_dtype=dtype, device="cpu", as_array=_same, to_numpy=_same
        )
        self._frequencies = [np.ascontiguousarray(rope.row_frequencies()) for rope in lowered.ropes]

    @property
    def threads(self) -> int:
        """Threads that a pass runs on."""
        return self.lowered.program.threads

    @property
    def instruction_set(self) -> str:
        """Whose kernels run."""
        return self.lowered.program.isa

    @property
    def batch_invariant(self) -> frozenset[str]:
        """See :class:`polyllama.extend.Model`: several tokens are multiplied in tiles, and a single one otherwise.

        Nothing is claimed of a node that runs by its own definition, whose products are NumPy's.
        """
        lowered, graph = self.lowered, self.graph
        ours = lowered.whole is not None and (graph.head is None or lowered.head is not None)
        return frozenset({"prefill"} if ours else ())

    @property
    def cache_element(self) -> str:
        """What keys and values are held in."""
        return self.lowered.cache.element

    @property
    def arrays(self) -> str:
        """See :class:`polyllama.extend.Model`."""
        return "numpy"

    def new_cache(self, batch: int | None = None, capacity: int | None = None) -> CpuCache:
        """An empty cache with room for `capacity` tokens."""
        return CpuCache(batch, capacity, self.lowered.cache)

    def state(self) -> Iterator[tuple[TensorInfo, Callable[[], np.ndarray]]]:
        """Every parameter in the dtype it is held in, unpacked."""
        return self.weights.state()

    def forward(self, arguments: ForwardArguments) -> ModelOutput:
        """See :class:`polyllama.extend.Model`."""
        cache = arguments.past_key_values
        if isinstance(cache, Cache) and not isinstance(cache, CpuCache):
            raise InputError(f"past_key_values is a {type(cache).__name__} of another backend")
        return super().forward(arguments)

    def _embeds(self, embeds: np.ndarray | None) -> np.ndarray | None:
        return None if embeds is None else np.ascontiguousarray(embeds, np.float32)

    def _overrides(self) -> Mapping[type, Callable[[Any, Any, Context], Any]]:
        return {
            Decoder: _weakly(self._run_decoder),
            DecoderLayer: _weakly(self._run_layer),
            Linear: _weakly(self._run_linear),
            QuantizedLinear: _weakly(self._run_linear),
            Embedding: _weakly(self._run_embedding),
            QuantizedEmbedding: _weakly(self._run_embedding),
        }

    def _run_embedding(self, node: Embedding, ids: np.ndarray, ctx: Context) -> np.ndarray:
        if node is not self.lowered.table:  # an adapter's small table beside the one that the kernels look up
            return np.asarray(node.apply(ctx.xp, ctx.weights, ids, ctx))
        flat = np.ascontiguousarray(ids, np.int64).reshape(1, -1)
        out = np.empty((1, flat.size, node.dim), np.float32)
        frequencies = [np.zeros((1, f.shape[1]), np.float32) for f in self._frequencies]
        for start in range(0, flat.size, CHUNK):
            part = slice(start, min(start + CHUNK, flat.size))
            positions = np.zeros((1, part.stop - start), np.int64)
            self.lowered.program.run(0, 0, flat[:, part], positions, frequencies, None, 0, hidden=out[:, part])
        return out.reshape(*ids.shape, node.dim)

    def _run_linear(self, node: Any, x: np.ndarray, ctx: Context) -> np.ndarray:
        packed = self.weights.packed[node.tied_to or node.name]
        rows = np.ascontiguousarray(x, np.float32).reshape(-1, x.shape[-1])
        y = np.empty((len(rows), packed.matrix.padded_rows), np.float32)
        step = min(CHUNK, max(32, PRODUCTS // (packed.layout.rows * packed.layout.columns)))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            self.lowered.program.product(packed.matrix, rows[part], y[part])
        return y[:, : packed.layout.rows].reshape(*x.shape[:-1], packed.layout.rows)

    def _run_decoder(self, node: Decoder, x: np.ndarray, ctx: Context) -> np.ndarray:
        lowered = self.lowered
        by_row = ctx.adapter_rows is not None
        if lowered.whole is None or by_row or ctx.observe is not None or ctx.attentions is not None:
            return np.asarray(node.apply(ctx.xp, ctx.weights, x, ctx))
        captured = None
        if ctx.hidden_states is not None:
            captured = np.empty((len(lowered.layers) + 1, *x.shape), np.float32)
        y = self._run_range(lowered.whole, x, ctx, lowered.hidden, captured)
        for state in captured if captured is not None else ():
            ctx.keep_hidden(state)
        return y

    def _run_layer(self, node: DecoderLayer, x: np.ndarray, ctx: Context) -> np.ndarray:
        place = next((i for i, layer in enumerate(self.graph.decoder.layers) if layer is node), None)
        found = None if place is None else self.lowered.layers[place]
        if place is not None and ctx.adapter_rows is not None and self.lowered.adapted[place]:
            found = None
        if found is None or ctx.observe is not None or ctx.attentions is not None:
            return np.asarray(node.apply(ctx.xp, ctx.weights, x, ctx))
        return self._run_range(found, x, ctx, 0, None)

    def _run_range(
        self, operations: tuple[int, int], x: np.ndarray, ctx: Context, buffer: int, captured: np.ndarray | None
    ) -> np.ndarray:
        """Run operations on `x` ``[B, S, E]``, a chunk of positions at a time."""
        batch, length, width = x.shape
        cache = ctx.cache
        if cache is None:
            cache = self.new_cache(batch, length)
        assert isinstance(cache, CpuCache)
        past, step = cache.length, max(1, CHUNK // batch)
        native = cache.reserve(past + length)
        frequencies = [np.ascontiguousarray(ctx.frequencies(rope), np.float32) for rope in self.lowered.ropes]
        positions = np.asarray(ctx.positions, np.int64)
        out = np.empty((batch, length, width), np.float32)
        for start in range(0, length, step):
            stop = min(start + step, length)
            here = slice(start, stop)
            mask = None
            if ctx.mask is not None:
                mask = np.ascontiguousarray(ctx.mask[:, 0, here, : past + stop]).view(np.uint8)
            kept = None if captured is None else np.empty((len(captured), batch, stop - start, width), np.float32)
            some = np.empty((batch, stop - start, width), np.float32)
            self.lowered.program.run(
                *operations,
                np.ascontiguousarray(x[:, here], np.float32),
                np.ascontiguousarray(positions[:, here]),
                frequencies,
                native,
                past + start,
                mask=mask,
                captured=kept,
                hidden=some,
                hidden_buffer=buffer,
            )
            out[:, here] = some
            if captured is not None:
                captured[:, :, here] = kept
        return out


def _weakly(method: Callable[..., Any]) -> Callable[[Any, Any, Context], Any]:
    """A method that its own object holds without being kept alive by it; whoever runs a pass holds the model."""
    found = WeakMethod(method)

    def run(node: Any, x: Any, ctx: Context) -> Any:
        bound: Any = found()
        return bound(node, x, ctx)

    return run


def _same(array: Any) -> Any:
    return array


def realize(
    graph: Graph,
    weights: Mapping[str, np.ndarray],
    options: RealizeOptions,
    *,
    config: LlamaConfig,
    task: Task,
    isa: str,
) -> CpuModel:
    """Pack the weights and lower the graph."""
    dtype = own_dtype(graph, weights, options.dtype, config)
    packed = pack(graph, weights, dtype, packed_file.find(graph, weights, dtype))
    cache = dtype if options.kv_cache == "auto" else options.kv_cache
    threads = options.threads or min(physical_cores(), 1 + packed.nbytes // BYTES_PER_THREAD, THREADS)
    if threads > THREADS:
        hint = f"it is fastest with one for each core, here {physical_cores()}"
        raise SettingsError(f"threads: the cpu backend takes at most {THREADS}, not {threads}", hint=hint)
    if options.threads and threads > (usable := processors()):
        warn(
            f"threads: {threads} are more than the {usable} that can run here at one time, and will wait for one "
            f"another; leave the setting out, or take at most {physical_cores()}"
        )
    lowered = lower(graph, packed, isa=isa, threads=threads, dtype=dtype, cache=cache)
    return CpuModel(graph, config, task, packed, lowered, dtype)


def own_dtype(graph: Graph, weights: Mapping[str, np.ndarray], asked: str, config: LlamaConfig) -> str:
    """What to compute in: what was asked for, or the model's own; packed weights by themselves take int8 inputs."""
    if asked != "auto":
        if asked not in DTYPES:
            raise BackendError(
                f"the cpu backend computes in {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, not in {asked}",
                hint="leave " + mention("dtype") + " at 'auto', or take another backend",
            )
        return asked
    if any(parameter.bits for parameter in graph.parameters()):
        return "bfloat16"
    own: str = config.dtype or getattr(weights, "dtype", None) or "float32"
    if own == "float64":
        message = "the model is in float64, which the cpu backend does not compute in: it runs in float32"
        warn(message)
    return nearest_dtype(own)
