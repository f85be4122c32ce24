"""The backend: an array namespace, where the weights go, and one node done faster than by its definition."""

from __future__ import annotations

from typing import Any

from polyllama.extend import Availability, BackendError, Engine, Graph, RealizeOptions, RMSNorm, SpecModel


def rms_norm(node: Any, x: Any, ctx: Any) -> Any:
    """RMSNorm without an array of squares: their sum is each row's dot product with itself."""
    squares = ctx.xp.vecdot(x, x)[..., None]
    return ctx.weights[f"{node.name}.weight"] * (x * (squares / node.dim + node.eps) ** -0.5)


class NumPy32:
    """NumPy on the CPU, always in float32."""

    name = "numpy32"
    dtypes = ("float32",)

    def availability(self) -> Availability:
        return Availability(True, devices=("cpu",))

    def realize(self, graph: Graph, weights: Any, options: RealizeOptions, *, config: Any, task: Any) -> SpecModel:
        import numpy as np

        if options.dtype not in ("auto", *self.dtypes):
            raise BackendError(f"numpy32 computes in float32, not in {options.dtype}", hint="leave dtype at 'auto'")
        native = {p.name: np.asarray(weights[p.name], p.held_as("float32")) for p in graph.parameters()}
        return SpecModel(
            graph,
            config,
            task,
            Engine(np, native, as_frequencies=lambda f: f, to_host=lambda a: a, overrides={RMSNorm: rms_norm}),
            dtype="float32",
            stored_dtype=getattr(weights, "dtype", "float32"),
            device="cpu",
            as_array=lambda a: a,
            to_numpy=lambda a: a,
        )
