"""Shared by the tests of testing: models and helpers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from polyllama.core.backend.protocol import Availability
from polyllama.core.forward.forward import Engine
from polyllama.core.forward.spec_model import SpecModel
from polyllama.core.graph.cache import ConcatenatingCache
from polyllama.core.graph.node import Context
from polyllama.core.graph.nodes import Attention
from polyllama.core.graph.rope import Rope
from polyllama.testing.candidate import Candidate
from polyllama.testing.catalogue import all_checks
from polyllama.testing.checks import run_check


class SpecBackend:
    """The spec on NumPy (or on torch, for the half precisions), with what a test breaks."""

    name = "saboteur"

    def __init__(self, dtypes: tuple[str, ...] = ("float32",), **broken: Any) -> None:
        self.dtypes, self.broken = dtypes, broken

    def availability(self) -> Availability:
        return Availability(True, devices=("cpu",))

    def realize(self, graph: Any, weights: Any, options: Any, *, config: Any, task: Any) -> SpecModel:
        dtype, made = options.dtype, self.broken.get("model", SpecModel)
        native, as_array, to_numpy, xp = self._library(dtype)
        held = {p.name: native(weights[p.name]) for p in graph.parameters()}
        engine = Engine(
            xp,
            held,
            as_frequencies=lambda f: as_array(f.astype("float64" if dtype == "float64" else "float32")),
            to_host=to_numpy,
            overrides=self.broken.get("overrides", {}),
            context=self.broken.get("context", Context),
        )
        return made(
            graph,
            config,
            task,
            engine,
            dtype=dtype,
            stored_dtype=weights.dtype,
            device="cpu",
            as_array=as_array,
            to_numpy=to_numpy,
        )

    @staticmethod
    def _library(dtype: str) -> tuple[Any, Any, Any, Any]:
        if dtype in ("float32", "float64"):
            import numpy as numpy_xp

            def held(array: Any) -> Any:
                array = np.asarray(array)
                return array if array.dtype == np.uint32 else array.astype(dtype)  # packed words stay what they are

            return held, lambda a: a, lambda a: a, numpy_xp
        import array_api_compat.torch as torch_xp
        from polyllama.backends.torch.tensors import dtype_of, from_numpy, to_numpy

        def native(array: Any) -> Any:
            return from_numpy(np.asarray(array)).to(dtype_of(dtype))

        return native, from_numpy, to_numpy, torch_xp


def interleaved_rope(node: Rope, x: Any, ctx: Context) -> Any:
    """Pairs component 2i with 2i + 1 instead of i with i + half."""
    xp, (cos, sin) = ctx.xp, ctx.rotary(node)
    turned, rest = x[..., : node.rotary_dim], x[..., node.rotary_dim :]
    first, second = turned[..., 0::2], turned[..., 1::2]
    y = xp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return xp.concat([xp.reshape(y, turned.shape), rest], axis=-1)


def attention(node: Attention, x: Any, ctx: Context, group: Callable[[int, int], list[int]], softmax: Any) -> Any:
    """Attention written out, with another grouping of heads or softmax."""
    xp, (batch, length, _) = ctx.xp, x.shape

    def heads(linear: Any, count: int) -> Any:
        y = xp.reshape(ctx.run(linear, x), (batch, length, count, node.head_dim))
        return xp.permute_dims(y, (0, 2, 1, 3))

    q, k, v = heads(node.q, node.num_heads), heads(node.k, node.num_kv_heads), heads(node.v, node.num_kv_heads)
    q, k = ctx.run(node.rope, q), ctx.run(node.rope, k)
    if ctx.cache is not None:
        k, v = ctx.cache.update(node.name, k, v)
    chosen = xp.asarray(group(node.num_heads, node.num_kv_heads))
    k, v = xp.take(k, chosen, axis=1), xp.take(v, chosen, axis=1)
    scores = ctx.widen(xp.matmul(q, xp.permute_dims(k, (0, 1, 3, 2))) * node.head_dim**-0.5)
    p = xp.astype(softmax(xp, ctx.masked(scores)), v.dtype)
    ctx.keep_attention(p)
    y = xp.permute_dims(xp.matmul(p, v), (0, 2, 1, 3))
    return ctx.run(node.o, xp.reshape(y, (batch, length, node.num_heads * node.head_dim)))


def model_with(cache: type[ConcatenatingCache]) -> type[SpecModel]:
    class Model(SpecModel):
        def new_cache(self, batch: int | None = None, capacity: int | None = None) -> Any:
            return cache(batch, capacity, self.engine.xp)

    return Model


def outcome(backend: Any, check: str, dtype: str = "float32") -> Any:
    return run_check(all_checks()[check], Candidate(backend, dtype))
