"""The spec running itself on an array namespace: the whole of a first version of any backend."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..array_kinds import kind_of
from ..graph.cache import Cache, ConcatenatingCache, filled
from ..public import for_plugins
from .forward import Engine, Request, forward, length_ropes
from .inputs import read_inputs

if TYPE_CHECKING:
    import numpy as np

    from ..checkpoint.protocol import TensorInfo
    from ..config.schema import LlamaConfig
    from ..dtypes import Array
    from ..graph.graph import Graph
    from ..tasks.outputs import ModelOutput
    from ..tasks.task import Task
    from .arguments import ForwardArguments


@for_plugins
class SpecModel:
    """A graph on an array namespace, every node by its own definition unless the engine overrides it.

    Args:
        engine: namespace, native weights, overrides.
        dtype: what it computes in; `stored_dtype`: what the weights came in, and are saved in.
        as_array: NumPy array -> native array.
        to_numpy: native array -> NumPy, without a change of dtype.
    """

    adapts_rows = True

    def __init__(
        self,
        graph: Graph,
        config: LlamaConfig,
        task: Task,
        engine: Engine,
        *,
        dtype: str,
        stored_dtype: str,
        device: str,
        as_array: Callable[[np.ndarray], Array],
        to_numpy: Callable[[Array], np.ndarray],
    ) -> None:
        self.graph, self.config, self.task = graph, config, task
        self.engine, self.dtype, self.device = engine, dtype, device
        self.stored_dtype = stored_dtype
        self._as_array, self._to_numpy = as_array, to_numpy
        self._ropes = length_ropes(graph)

    @property
    def arrays(self) -> str | None:
        """See :class:`polyllama.extend.Model`."""
        return kind_of(self.engine.weights[self.graph.decoder.embed.float_name])

    def weights_state(self) -> Hashable:
        """See :class:`polyllama.extend.Model`: these weights never change."""
        return id(self.engine.weights)

    def forward(self, arguments: ForwardArguments) -> ModelOutput:
        """See :class:`polyllama.extend.Model`."""
        cache = arguments.cache(self.new_cache)
        given = read_inputs(self.config, self.task, cache, arguments)
        embeds = self._embeds(given.inputs_embeds)
        request = Request.of(arguments, given, self.config, self._as_array, embeds)
        output = forward(self.engine, self.graph, self.task, request, cache, self._ropes)
        output.to_numpy = self.to_numpy
        return output

    def new_cache(self, batch: int | None = None, capacity: int | None = None) -> Cache:
        """An empty cache."""
        return ConcatenatingCache(batch, capacity, self.engine.xp)

    def cache_of(self, entries: Mapping[str, Sequence[np.ndarray]], batch: int, length: int) -> Cache:
        """See :class:`polyllama.extend.Model`."""
        return filled(self.new_cache(batch, length), entries, length, self._embeds)

    def to_numpy(self, array: Array) -> np.ndarray:
        """A native array as float32 NumPy."""
        import numpy as np

        return np.asarray(self._to_numpy(array), np.float32)

    def state(self) -> Iterator[tuple[TensorInfo, Callable[[], np.ndarray]]]:
        """Every parameter in the dtype it was stored in: these weights never change, so nothing is lost."""
        from ..checkpoint.protocol import TensorInfo

        def read(name: str, dtype: str) -> np.ndarray:
            from ..dtypes import numpy_dtype

            array = self._to_numpy(self.engine.weights[name])
            if dtype == "uint32" and array.dtype.itemsize == 4:
                return array.view("uint32")  # packed words, whatever sign the namespace gives them
            return array.astype(numpy_dtype(dtype))

        for parameter in self.graph.parameters():
            dtype = parameter.held_as(self.stored_dtype)
            yield TensorInfo(parameter.name, dtype, parameter.shape), partial(read, parameter.name, dtype)

    def _embeds(self, embeds: np.ndarray | None) -> Array | None:
        if embeds is None:
            return None
        weights: Mapping[str, Array] = self.engine.weights
        dtype = weights[self.graph.decoder.embed.float_name].dtype
        return self.engine.xp.astype(self._as_array(embeds), dtype)
