"""The protocol of backends: availability, realizing a graph, and the model that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..public import for_plugins

if TYPE_CHECKING:
    import numpy as np

    from ..checkpoint.protocol import TensorInfo
    from ..config.schema import LlamaConfig
    from ..dtypes import Array
    from ..forward.arguments import ForwardArguments
    from ..graph.cache import Cache
    from ..graph.graph import Graph
    from ..tasks.outputs import ModelOutput
    from ..tasks.task import Task


@for_plugins
@dataclass(frozen=True)
class Availability:
    """Whether a backend can run here: `devices` it has, best first; `reason` says why not (or what to know)."""

    usable: bool
    reason: str | None = None
    devices: tuple[str, ...] = ()


@for_plugins
@dataclass(frozen=True)
class RealizeOptions:
    """How a backend is asked to realize a graph.

    Attributes:
        dtype: ``"auto"`` (the backend decides, as a rule the checkpoint's own) or a dtype name.
        device: one of the backend's devices, or ``None`` for its best.
        threads: how many a CPU backend may use, or ``None`` for its own choice.
        kv_cache: element type of keys and values, or ``"auto"``; only for backends that list it in ``kv_caches``.
        attn_implementation: how attention is computed, ``None`` for the backend's choice; only for backends that list
            it in ``attn_implementations``.
    """

    dtype: str = "auto"
    device: str | None = None
    threads: int | None = None
    kv_cache: str = "auto"
    attn_implementation: str | None = None


@for_plugins
@runtime_checkable
class Model(Protocol):
    """A realized graph: what generation, the facade and the task heads work with.

    One whose ``forward`` returns before its outputs are computed may say so with an attribute ``asynchronous = True``:
    generation then starts each pass before it hands out the tokens of the one before. One that takes arguments of its
    own lists their names as ``forward_options``; they come in as ``arguments.own``.

    One that says as ``arrays`` which framework it computes with (``"torch"``, ``"numpy"``, ``"jax"`` or ``"mlx"``) gets
    arrays of others as NumPy; without it they come as the caller has them. One with a method
    ``cache_of(entries, batch, length)`` goes on from keys and values ``[batch, kv heads, length, head_dim]``: it makes
    a cache of them, given by attention as pairs of its own arrays or NumPy's, in whatever element type.

    ``copy.deepcopy`` and ``pickle`` realize a model anew from :meth:`state`. One that can be copied and pickled itself
    says ``copies_whole = True``; one that has more to it than weights, such as a mode of training, gives that as a
    mapping by ``modes()`` and takes it by ``take_modes(modes)``.

    What it has run for one prompt is used again for another that begins like it. ``weights_state()`` says for how long:
    what it gives (anything hashable) is equal as long as the weights are the same; ``None``, or no such method, where
    somebody may change them between requests, and then it is for as long as requests run. One that is compiled for each
    number of rows says ``compiles_rows = True`` and is given few numbers of them.

    One whose pass gives each row its own adapter says ``adapts_rows = True``; without it ``adapters=`` is refused. It
    hands ``arguments.adapter_rows`` to the pass's context, as :class:`~polyllama.extend.SpecModel` does and
    :class:`~polyllama.extend.Request` with :func:`~polyllama.extend.forward`; nodes do the rest.

    One that gives a row the same bits in any company as alone says for which passes: ``batch_invariant =
    frozenset({"prefill", "decode"})``. ``"prefill"`` is a pass of several tokens a row, ``"decode"`` one of a token a
    row; rows are of one length, without padding, and the logits of every place are asked for. How many other rows there
    are, and what they hold, then changes no bit of a row's logits, nor of its keys and values. Without a claim a row is
    the same up to rounding.

    One with a method ``static_cache(batch, capacity)`` makes a cache whose storage stays what it is, which a
    ``StaticCache`` then has; without it that has :meth:`new_cache`'s.
    """

    config: LlamaConfig
    graph: Graph

    @property
    def dtype(self) -> str: ...
    @property
    def device(self) -> str: ...

    def forward(self, arguments: ForwardArguments) -> ModelOutput:
        """Run one pass: native arrays (or nested lists, or NumPy) in, native arrays out."""
        ...

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for `batch` rows; `capacity` tokens are planned for, more may come."""
        ...

    def to_numpy(self, array: Array) -> np.ndarray:
        """A native array as float32 NumPy."""
        ...

    def state(self) -> Iterator[tuple[TensorInfo, Callable[[], np.ndarray]]]:
        """Every parameter, described, with a function that gives it: what saving writes, one at a time."""
        ...


@for_plugins
class Backend(Protocol):
    """What a plugin registers: it says whether it can run, and realizes graphs.

    It may also have ``dtypes``, the names of those it computes in, and ``memory(workload) -> MemoryEstimate``, what a
    model takes on it without being loaded; :mod:`polyllama.core.memory.estimate` says what is assumed without.
    """

    name: str

    def availability(self) -> Availability:
        """Cheap, never raises, imports nothing heavy."""
        ...

    def realize(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        options: RealizeOptions,
        *,
        config: LlamaConfig,
        task: Task,
    ) -> Model:
        """Turn a graph and its weights into something that runs."""
        ...
