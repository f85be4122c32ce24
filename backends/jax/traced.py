"""The part of a pass that is traced: from token ids to outputs, every shape static, everything else data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from ...core.graph.graph import Graph
from ...core.graph.node import Node
from ...core.graph.rope import Rope
from .arrays import DTYPES
from .cache import INPUTS, Buffers, CacheShapes, CacheWindow, shape_of, write
from .nodes import CPU_OVERRIDES, Checkpoint, JaxContext

if TYPE_CHECKING:
    from ...core.dtypes import Array
    from ...core.graph.cache import Cache
    from ...core.tasks.task import Task

Params = Mapping[str, Any]
"""The weights, a pytree: a dict by checkpoint name."""


class Inputs(NamedTuple):
    """What changes from pass to pass without a new trace; `S` is padded, `K` is all slots of the cache, or `S`.

    Attributes:
        tokens: ``[B, S]`` token ids, or ``[B, S, E]`` embeddings.
        positions: ``[B, S]``; of the whole row so far, where the pass starts over.
        key_mask: ``[B, K]`` booleans, true where a slot holds an attended token.
        start: slots used before, and `new`: tokens that are not padding.
        mask: ``[B or 1, 1, S, K]`` booleans, in place of the causal mask.
        frequencies: per length-dependent RoPE ``[B, rotary_dim / 2]``.
        kept: positions that the head is run for, where given one by one.
        dropout_rng: a random key while training.
        attended: ``[B, S]`` booleans for heads, as a :class:`~polyllama.extend.Context` has them.
        adapter_rows: ``[B]``, the adapter of each row, as a context has them too.
    """

    tokens: Array
    positions: Array
    key_mask: Array
    start: Array
    new: Array
    mask: Array | None = None
    frequencies: tuple[Array, ...] = ()
    kept: Array | None = None
    dropout_rng: Array | None = None
    attended: Array | None = None
    adapter_rows: Array | None = None


@dataclass(frozen=True)
class Static:
    """What a trace is made for.

    Attributes:
        kept: the head is run for the last so many tokens; 0 for all.
        restart: slots that a pass over everything so far covers; 0 for a pass over the new tokens only.
    """

    kept: int = 0
    restart: int = 0
    output_hidden_states: bool = False
    output_attentions: bool = False


class Result(NamedTuple):
    """What a traced pass gives: the task's fields, and what was asked for beside them."""

    fields: dict[str, Array]
    hidden_states: tuple[Array, ...] | None
    attentions: tuple[Array, ...] | None


@dataclass(frozen=True, eq=False)
class TracedPass:
    """A graph as pure functions of its parameters.

    Attributes:
        ropes: the length-dependent ones.
        platform: what it runs on, as JAX calls it.
    """

    graph: Graph
    task: Task
    ropes: tuple[Rope, ...]
    dtype: str
    platform: str

    def __call__(
        self,
        params: Params,
        inputs: Inputs,
        buffers: Buffers | None,
        static: Static,
        observe: Callable[[Node, Array], None] | None = None,
    ) -> tuple[Result, Buffers | None]:
        """One pass; the buffers come back with the new keys and values in them."""
        start, length = inputs.start, inputs.tokens.shape[1]
        if static.restart:
            first, total, written = jnp.int32(0), static.restart, inputs.start + inputs.new
        else:
            first, total, written = start, length, inputs.new
        window = CacheWindow(None if buffers is None else dict(buffers), first, jnp.arange(total) < written)
        keys = inputs.key_mask.shape[1] if buffers is not None else total
        mask = inputs.mask
        if mask is None:
            mask = causal_mask(first, total, keys, inputs.key_mask)
        with self.precision():
            ctx = self.context(params, inputs, mask, window, static, observe)
            x = self.embed(ctx, inputs.tokens)
            if window.buffers is not None and INPUTS in window.buffers:
                window.buffers[INPUTS] = (write(window.buffers[INPUTS][0], x, start),)
            if static.restart and window.buffers is not None:
                x = window.buffers[INPUTS][0][:, : static.restart]
            hidden = ctx.run(self.graph.decoder, x)
            if static.restart:
                hidden = _new_part(hidden, start, length, axis=1)
            fields = self.finish(ctx, hidden, inputs, static)
        states, weights = ctx.hidden_states, ctx.attentions
        if static.restart:
            states = None if states is None else [_new_part(state, start, length, axis=1) for state in states]
            weights = None if weights is None else [_new_part(part, start, length, axis=2) for part in weights]
        result = Result(fields, None if states is None else tuple(states), None if weights is None else tuple(weights))
        return result, window.buffers

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Float32 means float32: GPUs and TPUs would otherwise multiply in less."""
        return jax.default_matmul_precision("highest") if self.dtype == "float32" else contextlib.nullcontext()

    def context(
        self,
        params: Params,
        inputs: Inputs,
        mask: Array,
        cache: Cache | None,
        static: Static,
        observe: Callable[[Node, Array], None] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> JaxContext:
        """The context of one pass; with `checkpoint`, a backward pass through it computes each layer anew."""
        by_rope = {id(rope): rows for rope, rows in zip(self.ropes, inputs.frequencies, strict=False)}

        def frequencies(rope: Rope) -> Array:
            rows = by_rope.get(id(rope))
            return jnp.asarray(rope.row_frequencies()) if rows is None else rows

        ctx = JaxContext(
            jnp,
            computed_in(params, self.dtype),
            inputs.positions,
            frequencies,
            mask=mask,
            cache=cache,
            overrides=CPU_OVERRIDES if self.platform == "cpu" else {},
            output_hidden_states=static.output_hidden_states,
            output_attentions=static.output_attentions,
            observe=observe,
            dropout_rng=inputs.dropout_rng,
            checkpoint=checkpoint,
            checkpointed=self.graph.decoder.layers,
        )
        ctx.adapter_rows = inputs.adapter_rows
        return ctx

    def embed(self, ctx: JaxContext, tokens: Array) -> Array:
        """Token ids through the embedding; embeddings as they are, in the model's dtype."""
        if tokens.ndim == 3:
            return tokens.astype(DTYPES[self.dtype])
        return ctx.run(self.graph.decoder.embed, tokens)

    def finish(self, ctx: JaxContext, hidden: Array, inputs: Inputs, static: Static) -> dict[str, Array]:
        """The head for the positions that are wanted, and the task's outputs."""
        ctx.input_ids = inputs.tokens if inputs.tokens.ndim == 2 else None
        ctx.attended = inputs.attended
        kept = hidden
        if inputs.kept is not None:
            kept = jnp.take(hidden, inputs.kept, axis=1)
        elif static.kept:
            kept = jax.lax.dynamic_slice_in_dim(hidden, inputs.new - static.kept, static.kept, axis=1)
        raw = kept if self.graph.head is None else ctx.run(self.graph.head, kept)
        return self.task.outputs(ctx, raw, hidden)

    def buffer_shapes(self, params: Params) -> dict[str, tuple[jax.ShapeDtypeStruct, ...]]:
        """What a cache of one row and one slot holds: learnt from the graph itself, whatever its nodes are."""
        cache = CacheShapes()
        one = jnp.zeros((1, 1), jnp.int32)
        rows = tuple(jnp.asarray(rope.row_frequencies()) for rope in self.ropes)
        zero = jnp.int32(0)
        inputs = Inputs(one, one, one.astype(bool), zero, zero, frequencies=rows)

        def trunk(params: Params) -> Array:
            ctx = self.context(params, inputs, jnp.ones((1, 1, 1, 1), bool), cache, Static())
            x = self.embed(ctx, inputs.tokens)
            ctx.run(self.graph.decoder, x)
            return x

        embedded = jax.eval_shape(trunk, dict(params))
        shapes = dict(cache.shapes)
        if self.ropes:
            shapes[INPUTS] = (shape_of(embedded),)
        return shapes


def computed_in(params: Params, dtype: str) -> Params:
    """The weights in the dtype that is computed in; they may be held in another, and packed words stay."""
    wanted = DTYPES[dtype]
    if all(array.dtype == wanted or not jnp.issubdtype(array.dtype, jnp.floating) for array in params.values()):
        return params
    return {
        name: jnp.asarray(array).astype(wanted) if jnp.issubdtype(array.dtype, jnp.floating) else array
        for name, array in params.items()
    }


def causal_mask(start: Array, length: int, keys: int, key_mask: Array) -> Array:
    """``[B, 1, S, K]``: causal, without padded keys; a query may always see itself, so no softmax runs over nothing."""
    queries = start + jnp.arange(length, dtype=jnp.int32)[:, None]
    slots = jnp.arange(keys, dtype=jnp.int32)[None, :]
    return ((slots <= queries) & key_mask[:, None, None, :keys]) | (slots == queries)


def same_sequence(positions: Array) -> Array:
    """``[B, 1, S, S]``: which tokens belong to one sequence of a packed row; a new one begins where none rises."""
    begins = positions[:, 1:] <= positions[:, :-1]
    number = jnp.pad(jnp.cumsum(begins.astype(jnp.int32), axis=1), [(0, 0), (1, 0)])
    return number[:, None, :, None] == number[:, None, None, :]


def _new_part(array: Array, start: Array, length: int, axis: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, start, length, axis=axis)
