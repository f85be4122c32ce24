"""The reference backend: the spec running itself in NumPy, float64 by default. The truth others are held to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...core.backend.protocol import Availability, RealizeOptions
from ...core.errors import BackendError
from ...core.messages import mention

if TYPE_CHECKING:
    import numpy as np

    from ...core.config.schema import LlamaConfig
    from ...core.forward.spec_model import SpecModel
    from ...core.graph.graph import Graph
    from ...core.memory.estimate import MemoryEstimate, Workload
    from ...core.tasks.task import Task

DTYPES = ("float64", "float32")


class ReferenceBackend:
    """NumPy, every node by its own definition. Slow and exact."""

    name = "reference"
    dtypes = DTYPES

    def availability(self) -> Availability:
        """NumPy is a dependency, so always."""
        return Availability(True, devices=("cpu",))

    def memory(self, workload: Workload) -> MemoryEstimate:
        """What the spec takes in NumPy, every weight copied."""
        from ...core.graph.quantized import QuantizedLinear
        from ...core.memory.estimate import spec_estimate, tiled_linear

        dtype = "float64" if workload.dtype == "auto" else workload.dtype
        if dtype not in DTYPES:
            raise BackendError(f"the reference backend computes in {' or '.join(DTYPES)}, not in {dtype}")
        return spec_estimate(workload, dtype, {QuantizedLinear: tiled_linear})

    def realize(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        options: RealizeOptions,
        *,
        config: LlamaConfig,
        task: Task,
    ) -> SpecModel:
        """Copy the weights into the asked dtype (``"auto"`` is float64) and run the graph's own definitions."""
        import numpy as np

        from ...core.checkpoint.weights import release
        from ...core.forward.forward import Engine
        from ...core.forward.spec_model import SpecModel

        dtype = "float64" if options.dtype == "auto" else options.dtype
        if dtype not in DTYPES:
            raise BackendError(
                f"the reference backend computes in {' or '.join(DTYPES)}, not in {dtype}",
                hint="leave " + mention("dtype") + " at 'auto', or take another backend",
            )

        def as_array(array: np.ndarray) -> np.ndarray:
            return array

        native: dict[str, Any] = {}
        for parameter in graph.parameters():
            native[parameter.name] = np.asarray(weights[parameter.name]).astype(parameter.held_as(dtype))
            release(weights, parameter.name)
        engine = Engine(
            np, native, as_frequencies=lambda f: f.astype(dtype), to_host=as_array, overrides=_overrides(graph)
        )
        return SpecModel(
            graph,
            config,
            task,
            engine,
            dtype=dtype,
            stored_dtype=getattr(weights, "dtype", dtype),
            device="cpu",
            as_array=as_array,
            to_numpy=as_array,
        )


def _overrides(graph: Graph) -> Mapping[type, Any]:
    """Packed weights are unpacked a tile at a time; nothing is imported for a graph that has none."""
    if not any(p.bits for p in graph.parameters()):
        return {}
    from ...core.graph.quantized import QuantizedLinear

    def in_tiles(node: Any, x: Any, ctx: Any) -> Any:
        return node.apply_in_tiles(ctx.xp, ctx.weights, x, ctx)

    return {QuantizedLinear: in_tiles}
