"""How much memory a model takes on a backend, worked out without loading it.

A backend says so by its method ``memory(workload) -> MemoryEstimate``; one that has none gets :func:`spec_estimate`,
which is what the spec itself takes where each operation makes a new array (as in NumPy). The parts here are for both: a
pass over arrays without contents (:func:`run_ghosts`) and loading one tensor after the other (:func:`load_peak`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..dtypes import itemsize
from ..forward.forward import Engine, Request, forward, length_ropes
from ..graph.cache import Cache
from ..graph.graph import Graph
from ..graph.node import Context, Node, Parameter
from ..graph.tree import shape_apart_from_names
from ..public import for_plugins
from .ghost import Ghost, Memory, given, new
from .ghost_namespace import GhostNamespace

if TYPE_CHECKING:
    from ..backend.protocol import Backend
    from ..config.schema import LlamaConfig
    from ..graph.node import Override
    from ..tasks.task import Task

QUANTIZING = 13
"""Bytes that quantizing takes for each value of the block it is at, beside the matrix and the result."""


@for_plugins
@dataclass(frozen=True)
class Workload:
    """What memory is wanted for.

    Attributes:
        batch: rows that go through the model together.
        context: tokens of a row, prompt and generated text together: what the cache has room for.
        prompt: how many of them are prompt, run before the first token is generated.
        chunk: the most tokens of a prompt in one pass; ``None`` for all at once (``prefill_chunk_size``).
        dtype: what is asked for, ``"auto"`` or a name; `stored_dtype`: what most weights are stored in.
        device: a device of the backend, ``None`` for its first.
        stored: name -> bytes of each tensor as it is stored.
        mapped: whether stored tensors are mapped from files, so that reading them takes no memory of its own.
        quantized_while_loading: the weights are stored plain, and the graph is quantized.
        kv_cache: what keys and values are held in, ``"auto"`` or a name, for a backend that offers a choice.
        parameters: the graph's, which whoever has them need not have listed again.
    """

    graph: Graph
    config: LlamaConfig
    task: Task
    batch: int = 1
    context: int = 2048
    prompt: int = 2048
    chunk: int | None = None
    dtype: str = "auto"
    stored_dtype: str = "float32"
    device: str | None = None
    stored: Mapping[str, int] = field(default_factory=dict)
    mapped: bool = True
    quantized_while_loading: bool = False
    kv_cache: str = "auto"
    parameters: tuple[Parameter, ...] = ()

    def __post_init__(self) -> None:
        if not self.parameters:
            object.__setattr__(self, "parameters", self.graph.parameters())

    @property
    def on_cpu(self) -> bool:
        """Whether it is the host's own memory that everything is in."""
        return self.device is None or self.device.partition(":")[0] == "cpu"

    def native_dtype(self) -> str:
        """What ``"auto"`` means on a backend that computes in what the checkpoint says."""
        return self.dtype if self.dtype != "auto" else self.config.dtype or self.stored_dtype

    def held_bytes(self, dtype: str) -> dict[str, int]:
        """Name -> bytes of each tensor where floats are held in `dtype`; packed words are what they are."""
        return {p.name: tensor_bytes(p, dtype) for p in self.parameters}


@for_plugins
@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a model takes, beside what the framework itself does.

    Attributes:
        dtype: what it computes in.
        weights: held for as long as the model is.
        cache: keys and values of a full context.
        activations: the most that a pass takes beside those: the prompt's, or a step's at the end of the context.
        load_peak: the most while loading, weights included.
        host_peak: the most in the host's memory while loading, where the device has its own.
    """

    dtype: str
    weights: int
    cache: int
    activations: int
    load_peak: int
    host_peak: int = 0

    @property
    def running(self) -> int:
        """The most while it runs."""
        return self.weights + self.cache + self.activations

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.load_peak, self.running)


def tensor_bytes(parameter: Parameter, dtype: str) -> int:
    """Bytes of one tensor where floats are held in `dtype`."""
    count = 1
    for extent in parameter.shape:
        count *= extent
    return count * itemsize(parameter.held_as(dtype))


def estimate(backend: Backend, workload: Workload) -> MemoryEstimate:
    """What `backend` takes for `workload`, by its own account where it gives one.

    Raises:
        BackendError: it does not compute in the asked dtype.
    """
    own = getattr(backend, "memory", None)
    if own is not None:
        found: MemoryEstimate = own(workload)
        return found
    dtypes = tuple(getattr(backend, "dtypes", ()))
    dtype = workload.native_dtype()
    if workload.dtype == "auto" and dtypes and dtype not in dtypes:
        dtype = dtypes[0]
    return spec_estimate(workload, dtype)


@for_plugins
def spec_estimate(workload: Workload, dtype: str, overrides: Mapping[type, Override] | None = None) -> MemoryEstimate:
    """The spec running itself, every operation making a new array; each weight is copied once while loading."""
    held = workload.held_bytes(dtype)
    cache, activations = run_ghosts(workload, dtype, overrides)
    loading = load_peak(workload, held, lambda name, size: 0)
    return MemoryEstimate(dtype, sum(held.values()), cache, activations, loading)


def tiled_linear(node: Any, x: Ghost, ctx: Context) -> Ghost:
    """As ``QuantizedLinear.apply_in_tiles``; two tiles are enough to know what the others take."""
    from ..graph.quantized import TILE, values

    xp, (words, scales, biases) = ctx.xp, node.tensors(ctx.weights)
    step, wide = max(1, TILE // node.in_features), ctx.widen(x)
    parts = []
    for start in range(0, min(node.out_features, 2 * step), step):
        rows = slice(start, start + step)
        w = values(xp, words[rows, :], scales[rows, :], biases[rows, :], node.bits, ctx)
        parts.append(xp.matmul(wide, xp.permute_dims(w, (1, 0))))
    if node.out_features > 2 * step:
        parts.append(new(x.memory, (*x.shape[:-1], node.out_features - 2 * step), wide.dtype, (wide,)))
    y = xp.astype(parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1), x.dtype)
    z: Ghost = y + ctx.weights[f"{node.name}.bias"] if node.bias else y
    return z


@for_plugins
def load_peak(workload: Workload, held: Mapping[str, int], extra: Callable[[str, int], int]) -> int:
    """The most while weights are taken over one by one: what is held, what is read, and what a backend adds.

    Args:
        held: name -> bytes in the backend, in the order of loading.
        extra: what more the backend takes while it takes a tensor over, of so many bytes as it is read; negative where
            it takes over the very memory that was read, or the mapped file, which it does not even touch.
    """
    done, most = 0, 0
    for name, bytes_held, read, making in loading_steps(workload, held):
        most = max(most, done + making, done + read + bytes_held + extra(name, read))
        done += bytes_held
    return max(most, done)


def loading_steps(workload: Workload, held: Mapping[str, int]) -> Iterator[tuple[str, int, int, int]]:
    """Per tensor its name, bytes held, bytes of the array that is handed over, and bytes while that array is made.

    Reading a mapped file takes memory too, until the backend has copied the tensor and gives it back.
    """
    from ..quantization.affine import BLOCK

    packed = _packed_modules(workload) if workload.quantized_while_loading else {}
    kept = 0  # the three tensors of the last quantized module
    for name, size in held.items():
        module = name.rpartition(".")[0]
        if module in packed and not name.endswith(".bias"):
            source, count = workload.stored.get(f"{module}.weight", 0), packed[module]
            made = sum(held[f"{module}.{part}"] for part in ("weight", "scales", "biases"))
            making = 0
            if name.endswith(".weight"):
                making = made + source + min(count, BLOCK) * QUANTIZING
                kept = made - size
            yield name, size, size, making
            continue
        yield name, size, kept + workload.stored.get(name, size), 0


def _packed_modules(workload: Workload) -> dict[str, int]:
    """Modules that are quantized while loading, and how many values each has."""
    return {p.name.rpartition(".")[0]: p.size for p in workload.parameters if p.bits is not None}


class GhostCache(Cache):
    """Keys and values that are only counted.

    Args:
        past: tokens that are in it already.
        slots: what each buffer has room for; ``None`` where new keys are concatenated to the old ones.
    """

    def __init__(self, memory: Memory, workload: Workload, past: int, slots: int | None) -> None:
        super().__init__(workload.batch, workload.context)
        self.memory, self.slots = memory, slots
        self.length = past
        self.entries: dict[str, tuple[Ghost, Ghost]] = {}

    def update(self, name: str, keys: Ghost, values: Ghost) -> tuple[Ghost, Ghost]:
        stop = self.length + keys.shape[2]
        old = self.entries.get(name)
        if old is None and (self.slots is not None or self.length):
            slots = self.slots if self.slots is not None else self.length
            old = self._empty(keys, slots), self._empty(values, slots)
        if self.slots is not None and old is not None:
            self.entries[name] = old
            return old[0][:, :, :stop], old[1][:, :, :stop]
        if old is not None:
            xp = GhostNamespace(self.memory)
            keys, values = xp.concat([old[0], keys], axis=2), xp.concat([old[1], values], axis=2)
        self.entries[name] = keys, values
        return keys, values

    def _empty(self, like: Ghost, slots: int) -> Ghost:
        return new(self.memory, (*like.shape[:2], slots, like.shape[3]), like.dtype)

    def nbytes(self) -> dict[str, int]:
        """Bytes of the keys and values of each attention."""
        return {name: sum(part.storage.nbytes for part in parts) for name, parts in self.entries.items()}


class GhostWeights(Mapping[str, Ghost]):
    """The graph's tensors, which are counted elsewhere."""

    def __init__(self, graph: Graph, dtype: str, memory: Memory) -> None:
        self._parameters = {p.name: p for p in graph.parameters()}
        self._dtype, self._memory = dtype, memory

    def __getitem__(self, name: str) -> Ghost:
        parameter = self._parameters[name]
        return given(self._memory, parameter.shape, parameter.held_as(self._dtype))

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


@for_plugins
def run_ghosts(
    workload: Workload,
    dtype: str,
    overrides: Mapping[type, Override] | None = None,
    *,
    slots: int | None = None,
    memory: Callable[[], Memory] = Memory,
    context: Callable[..., Context] = Context,
) -> tuple[int, int]:
    """Bytes of the cache at the end of the context, and the most that a pass takes beside it.

    Args:
        overrides: node type -> what the backend does instead of the definition, in terms of ghosts.
        slots: what buffers of the cache have room for; ``None`` where it grows by concatenating.
        memory: what counts.
    """
    graph, alike = folded(workload.graph)
    chunk = min(workload.chunk or workload.prompt, workload.prompt)
    passes = [(chunk, workload.prompt - chunk), (1, workload.context - 1)]
    cache_bytes = activations = 0
    for count, past in dict.fromkeys(passes):
        counted = memory()
        cache = GhostCache(counted, workload, past, slots)
        _run(graph, workload, dtype, overrides or {}, counted, cache, count, context)
        held = cache.nbytes()
        at_end = sum(size * _times(name, alike) for name, size in held.items())
        cache_bytes = max(
            cache_bytes, at_end * (workload.context if slots is None else 1) // (past + count if slots is None else 1)
        )
        activations = max(activations, counted.peak - sum(held.values()))
    return cache_bytes, activations


def _run(
    graph: Graph,
    workload: Workload,
    dtype: str,
    overrides: Mapping[type, Override],
    memory: Memory,
    cache: GhostCache,
    count: int,
    context: Callable[..., Context],
) -> None:
    import numpy as np

    xp = GhostNamespace(memory)
    length = cache.length + count

    def to_host(array: Ghost) -> Any:
        return np.full(array.shape, length)

    engine = Engine(
        xp,
        GhostWeights(graph, dtype, memory),
        as_frequencies=lambda f: given(memory, f.shape, "float64" if dtype == "float64" else "float32"),
        to_host=to_host,
        overrides=overrides,
        context=context,
    )
    ids = given(memory, (workload.batch, count), "int64")
    keep = 1 if workload.task.generates else 0
    # A head of one result for each of several rows must know their padding: a mask, as predict gives it.
    attended = given(memory, ids.shape, "bool") if workload.task.outputs_per == "row" and workload.batch > 1 else None
    request = Request(input_ids=ids, attended=attended, logits_to_keep=keep)
    output = forward(engine, graph, workload.task, request, cache, length_ropes(graph))
    finish = getattr(memory, "finish", None)
    if finish is not None:
        finish(list(output.values()), cache)


def folded(graph: Graph) -> tuple[Graph, dict[str, int]]:
    """The graph with runs of alike layers cut to three, and for each layer left how many it stands for.

    What one layer takes is free again before the next begins, so more of them take no more; the first differs from the
    others in that its input is held from outside.
    """
    kept: list[Node] = []
    alike: dict[str, int] = {}
    last: Any = None
    run = 0
    for layer in graph.decoder.layers:
        shape = shape_apart_from_names(layer)
        run = run + 1 if shape == last else 1
        last = shape
        if run > 3:
            alike[kept[-1].name] += 1  # type: ignore[attr-defined]
            continue
        kept.append(layer)
        alike[layer.name] = 1  # type: ignore[attr-defined]
    return dataclasses.replace(graph, decoder=dataclasses.replace(graph.decoder, layers=tuple(kept))), alike


def _times(name: str, alike: Mapping[str, int]) -> int:
    return next((count for layer, count in alike.items() if name.startswith(f"{layer}.")), 1)


def largest(sizes: Iterable[int] | Sequence[int]) -> int:
    """The largest, or 0 of none."""
    return max(sizes, default=0)
