"""The spec running itself on an array namespace: the whole of a first version of any backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from .cache import Cache, ConcatenatingCache
from .forward import Engine, Request, forward, length_ropes
from .inputs import read_inputs, read_num_items
from .labels import split_labels

if TYPE_CHECKING:
    import numpy as np

    from .checkpoint.base import TensorInfo
    from .config import LlamaConfig
    from .graph import Array, Graph
    from .outputs import ModelOutput
    from .task import Task


class SpecModel:
    """A graph on an array namespace, every node by its own definition unless the engine overrides it.

    Args:
        engine: namespace, native weights, overrides.
        dtype: what it computes in; `stored_dtype`: what the weights came in, and are saved in.
        as_array: NumPy array -> native array.
        to_numpy: native array -> NumPy, without a change of dtype.
    """

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

    def forward(
        self,
        input_ids: Any = None,
        *,
        attention_mask: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        past_key_values: Any = None,
        labels: Any = None,
        use_cache: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        logits_to_keep: Any = 0,
        **options: Any,
    ) -> ModelOutput:
        """See :meth:`polyllama.core.model.Llama.forward`."""
        given_labels, options = split_labels(self.task, labels, options)
        cache = past_key_values if past_key_values is not None else self.new_cache() if use_cache else None
        given = read_inputs(
            self.config,
            self.task,
            cache,
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=given_labels,
            logits_to_keep=logits_to_keep,
        )
        options = read_num_items(options)
        keep = given.logits_to_keep
        request = Request(
            input_ids=self._native(given.input_ids),
            inputs_embeds=self._embeds(given.inputs_embeds),
            attention_mask=self._native(given.attention_mask),
            position_ids=self._native(given.position_ids),
            attended=self._native(given.attended),
            labels={name: self._as_array(array) for name, array in given.labels.items()},
            config=self.config,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            logits_to_keep=keep if isinstance(keep, int) else self._as_array(keep),
            loss_options={k: v for k, v in options.items() if k != "observe"},
            observe=options.get("observe"),
        )
        output = forward(self.engine, self.graph, self.task, request, cache, self._ropes)
        output.to_numpy = self.to_numpy
        return output

    def new_cache(self, batch: int | None = None, capacity: int | None = None) -> Cache:
        """An empty cache."""
        return ConcatenatingCache(batch, capacity, self.engine.xp)

    def to_numpy(self, array: Array) -> np.ndarray:
        """A native array as float32 NumPy."""
        import numpy as np

        return np.asarray(self._to_numpy(array), np.float32)

    def state(self) -> Iterator[tuple[TensorInfo, Callable[[], np.ndarray]]]:
        """Every parameter in the dtype it was stored in: these weights never change, so nothing is lost."""
        from .checkpoint.base import TensorInfo

        def read(name: str, dtype: str) -> np.ndarray:
            from .dtypes import numpy_dtype

            array = self._to_numpy(self.engine.weights[name])
            if dtype == "uint32" and array.dtype.itemsize == 4:
                return array.view("uint32")  # packed words, whatever sign the namespace gives them
            return array.astype(numpy_dtype(dtype))

        for parameter in self.graph.parameters():
            dtype = parameter.held_as(self.stored_dtype)
            yield TensorInfo(parameter.name, dtype, parameter.shape), partial(read, parameter.name, dtype)

    def _native(self, array: np.ndarray | None) -> Array | None:
        return None if array is None else self._as_array(array)

    def _embeds(self, embeds: np.ndarray | None) -> Array | None:
        if embeds is None:
            return None
        weights: Mapping[str, Array] = self.engine.weights
        dtype = weights[self.graph.decoder.embed.float_name].dtype
        return self.engine.xp.astype(self._as_array(embeds), dtype)
