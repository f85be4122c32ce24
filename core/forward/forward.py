"""One forward pass, the same for every backend: lay out, embed, trunk, head, loss.

A backend gives an :class:`Engine` (array namespace, weights, overrides); this module gives the order of things, the
handling of caches and of length-dependent RoPE, and the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from ..dtypes import Array
from ..errors import InputError
from ..graph.cache import Cache, History
from ..graph.graph import Graph
from ..graph.node import Context, Node, Override
from ..graph.rope import Rope
from ..graph.text_tokens import text_by_padding
from ..public import for_plugins
from ..tasks.outputs import ModelOutput
from .inputs import HostInputs
from .layout import Layout, lay_out, lay_out_again, seen_so_far

if TYPE_CHECKING:
    import numpy as np

    from ..config.schema import LlamaConfig
    from ..tasks.task import Task
    from .arguments import ForwardArguments


@for_plugins
@dataclass
class Engine:
    """What a backend brings to the shared pass.

    Attributes:
        xp: the array namespace.
        weights: native arrays by parameter name.
        as_frequencies: float32 NumPy inverse frequencies -> native array (float64 in the reference).
        to_host: native array -> NumPy, used for row lengths of length-dependent RoPE only.
        overrides: node type -> the backend's own way to run it.
        device: handed to array creation functions; ``None`` where the namespace has no such thing.
        context: the context class, for backends that run children in their own way.
    """

    xp: Any
    weights: Mapping[str, Array]
    as_frequencies: Callable[[np.ndarray], Array]
    to_host: Callable[[Array], np.ndarray]
    overrides: Mapping[type, Override] = field(default_factory=dict)
    device: Any = None
    context: Callable[..., Context] = Context
    _fixed: dict[int, Array] = field(default_factory=dict)

    def move_to(self, device: Any) -> None:
        """Make arrays on `device` from now on."""
        self.device = device
        self._fixed.clear()

    def frequencies(self, rope: Rope, lengths: np.ndarray | None) -> Array:
        """Native inverse frequencies of `rope`; those that depend on nothing are converted once."""
        if rope.depends_on_length:
            return self.as_frequencies(rope.row_frequencies(lengths))
        known = self._fixed.get(id(rope))
        if known is None:
            known = self._fixed[id(rope)] = self.as_frequencies(rope.row_frequencies())
        return known


@for_plugins
@dataclass(frozen=True)
class Request:
    """The native inputs of one forward pass; see :meth:`polyllama.Llama.forward` for their meaning.

    Attributes:
        attended: ``[B, S]`` booleans, what a mask says of the new tokens; given where `attention_mask` may have been
            dropped for masking nothing, as heads that pool care whether there was one.
        labels: by the names that the task takes.
        masked: whether a mask was given, one that masks nothing too.
        config: handed to the task's loss.
        adapter_rows: ``[B]`` integers, as a :class:`~polyllama.extend.Context` has them.
    """

    input_ids: Array | None = None
    inputs_embeds: Array | None = None
    attention_mask: Array | None = None
    position_ids: Array | None = None
    attended: Array | None = None
    labels: Mapping[str, Array] = field(default_factory=dict)
    config: LlamaConfig | None = None
    output_hidden_states: bool = False
    output_attentions: bool = False
    logits_to_keep: int | Array = 0
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    observe: Callable[[Node, Array], None] | None = None
    masked: bool = False
    adapter_rows: Array | None = None

    @classmethod
    def of(
        cls,
        arguments: ForwardArguments,
        given: HostInputs,
        config: LlamaConfig,
        native: Callable[[Any], Array],
        inputs_embeds: Array | None,
    ) -> Self:
        """The checked arguments of a pass in native form.

        Args:
            given: what :func:`~polyllama.extend.read_inputs` gave for `arguments`.
            native: a checked array as a native one.
            inputs_embeds: in native form, in the model's dtype.
        """

        def array(value: Any) -> Array | None:
            return None if value is None else native(value)

        keep = given.logits_to_keep
        return cls(
            input_ids=array(given.input_ids),
            inputs_embeds=inputs_embeds,
            attention_mask=array(given.attention_mask),
            position_ids=array(given.position_ids),
            attended=array(given.attended),
            labels={name: native(value) for name, value in given.labels.items()},
            config=config,
            output_hidden_states=arguments.output_hidden_states,
            output_attentions=arguments.output_attentions,
            logits_to_keep=keep if isinstance(keep, int) else native(keep),
            loss_options=given.loss_options,
            observe=arguments.observe,
            masked=given.masked,
            adapter_rows=array(arguments.adapter_rows),
        )


def length_ropes(graph: Graph) -> list[Rope]:
    """The ropes of a graph whose frequencies depend on how long a row is, each instance once."""
    found = {id(node): node for node in graph.walk() if isinstance(node, Rope) and node.depends_on_length}
    return list(found.values())


@for_plugins
def forward(
    engine: Engine, graph: Graph, task: Task, request: Request, cache: Cache | None, ropes: list[Rope]
) -> ModelOutput:
    """Run one pass and give the task's output; `cache` is updated and comes out as ``past_key_values``.

    Args:
        ropes: what :func:`length_ropes` found, once, when the graph was realized.
    """
    inputs = request.inputs_embeds if request.inputs_embeds is not None else request.input_ids
    if inputs is None or (request.inputs_embeds is not None and request.input_ids is not None):
        given = "both" if inputs is not None else "neither"
        raise InputError(f"exactly one of input_ids and inputs_embeds is wanted, {given} given")
    batch, new = int(inputs.shape[0]), int(inputs.shape[1])
    if cache is not None:
        cache.claim(engine, batch)
    layout, past = _laid_out(engine, request, cache, new)
    if ropes:
        hidden, ctx = _length_dependent_trunk(engine, graph, request, cache, ropes, layout, batch, new, past)
    else:
        hidden, ctx = _trunk(engine, graph, request, cache, layout, None, _embed(engine, graph, request, layout))
    if cache is not None:
        cache.advance(new, layout.key_mask)
    ctx.input_ids = request.input_ids
    ctx.attended = attended_tokens(request.attended, request.attention_mask, layout, past)
    if ctx.attended is None and task.outputs_per == "row" and request.config is not None:
        # By the config as it is now, which may have been given a padding id since the graph was built.
        ctx.attended = text_by_padding(request.input_ids, request.config.pad_token_id)
    return _finish(graph, task, request, cache, hidden, ctx)


def _laid_out(engine: Engine, request: Request, cache: Cache | None, new: int) -> tuple[Layout, int]:
    """Where new tokens are, and how many slots are before them; 0 where that is data of the pass."""
    if cache is not None and cache.counts_itself:
        return cache.lay_out(request, new), 0
    past = 0 if cache is None else cache.length
    layout = lay_out(
        engine.xp,
        new=new,
        past=past,
        attention_mask=request.attention_mask,
        past_mask=cache.mask if cache is not None else None,
        position_ids=request.position_ids,
        masked=request.masked,
        device=engine.device,
    )
    return layout, past


def attended_tokens(attended: Array | None, attention_mask: Array | None, layout: Layout, past: int) -> Array | None:
    """``[B, S]`` booleans for heads, what is known of the new tokens from a mask; ``None`` where there is none.

    A mask of four dimensions says who looks at whom, not which tokens are padding.

    Args:
        attended: as in :class:`Request`; decides where it is given.
    """
    if attended is not None:
        return attended
    if layout.key_mask is None or (attention_mask is not None and attention_mask.ndim == 4):
        return None
    return layout.key_mask[:, past:] if layout.attended is None else layout.attended


def _finish(
    graph: Graph, task: Task, request: Request, cache: Cache | None, hidden: Array, ctx: Context
) -> ModelOutput:
    kept = _keep(ctx.xp, hidden, request.logits_to_keep)
    raw = kept if graph.head is None else ctx.run(graph.head, kept)
    fields = task.outputs(ctx, raw, hidden)
    loss = None
    if request.labels:
        options = {"config": request.config, "attended": ctx.attended, **request.loss_options}
        loss = task.loss(ctx.xp, fields, **request.labels, **options)
    return task.output_type(
        loss=loss,
        past_key_values=cache,
        hidden_states=None if ctx.hidden_states is None else tuple(ctx.hidden_states),
        attentions=None if ctx.attentions is None else tuple(ctx.attentions),
        **fields,
    )


def _keep(xp: Any, hidden: Array, keep: int | Array) -> Array:
    """The positions a head is run for: all (0), the last few (an integer) or the given ones."""
    if isinstance(keep, int):
        return hidden if keep == 0 else hidden[:, -keep:, :]
    return xp.take(hidden, keep, axis=1)


def _context(engine: Engine, request: Request, cache: Cache | None, layout: Layout, lengths: Any) -> Context:
    ctx = engine.context(
        engine.xp,
        engine.weights,
        layout.positions,
        lambda rope: engine.frequencies(rope, lengths),
        mask=layout.mask,
        cache=cache,
        overrides=engine.overrides,
        output_hidden_states=request.output_hidden_states,
        output_attentions=request.output_attentions,
        observe=request.observe,
    )
    ctx.adapter_rows = request.adapter_rows
    return ctx


def _embed(engine: Engine, graph: Graph, request: Request, layout: Layout) -> Array:
    if request.inputs_embeds is not None:
        return request.inputs_embeds
    return _context(engine, request, None, layout, None).run(graph.decoder.embed, request.input_ids)


def _trunk(
    engine: Engine, graph: Graph, request: Request, cache: Cache | None, layout: Layout, lengths: Any, x: Array
) -> tuple[Array, Context]:
    ctx = _context(engine, request, cache, layout, lengths)
    keep = request.logits_to_keep
    if isinstance(keep, int) and not request.output_hidden_states and ctx.attentions is None and ctx.observe is None:
        ctx.keep = keep
    return ctx.run(graph.decoder, x), ctx


def _length_dependent_trunk(
    engine: Engine,
    graph: Graph,
    request: Request,
    cache: Cache | None,
    ropes: list[Rope],
    layout: Layout,
    batch: int,
    new: int,
    past: int,
) -> tuple[Array, Context]:
    """The trunk where a row's length changes its frequencies: start over when a cached row's did."""
    import numpy as np

    xp = engine.xp
    x = _embed(engine, graph, request, layout)
    positions, history = layout.positions, cache.history if cache is not None else None
    embeds = x
    if history is not None:
        embeds = xp.concat([history.embeds, x], axis=1)
        positions = _join_positions(xp, history.positions, positions, batch)
    if request.position_ids is not None or layout.key_mask is None:
        lengths = np.broadcast_to(engine.to_host(xp.max(positions, axis=1)) + 1, (batch,))
    else:
        lengths = engine.to_host(xp.sum(xp.astype(layout.key_mask, xp.int64), axis=1))
    regime = np.stack([rope.regime(lengths) for rope in ropes], axis=1)
    restart = history is not None and not np.array_equal(regime, history.regime)
    seen = None if history is None else history.seen
    sizes = {"new": new, "past": past, "device": engine.device}
    if restart:
        whole = lay_out_again(xp, layout, seen, positions, **sizes)
        hidden, ctx = _restarted(engine, graph, request, cache, whole, lengths, embeds)
    else:
        hidden, ctx = _trunk(engine, graph, request, cache, layout, lengths, x)
    if cache is not None:
        cache.history = History(embeds, positions, regime, seen_so_far(xp, layout, seen, **sizes))
    if not restart:
        return hidden, ctx
    if ctx.hidden_states is not None:
        ctx.hidden_states = [state[:, past:, :] for state in ctx.hidden_states]
    if ctx.attentions is not None:
        ctx.attentions = [weights[:, :, past:, :] for weights in ctx.attentions]
    return hidden[:, past:, :], ctx


def _restarted(
    engine: Engine, graph: Graph, request: Request, cache: Cache | None, layout: Layout, lengths: Any, embeds: Array
) -> tuple[Array, Context]:
    """The trunk over all inputs so far, into the cache's storage from its start."""
    if cache is None:
        return _trunk(engine, graph, request, cache, layout, lengths, embeds)
    request = replace(request, logits_to_keep=0)  # the caller cuts the past off by its length
    past, mask, history = cache.length, cache.mask, cache.history
    cache.reset()
    try:
        result = _trunk(engine, graph, request, cache, layout, lengths, embeds)
    except BaseException:
        # Keys and values are half rewritten; with no length and no regime the next pass writes them all again.
        cache.history = None if history is None else replace(history, regime=history.regime * 0 - 1)
        raise
    finally:
        cache.length, cache.mask = past, mask  # the caller counts the new tokens
    return result


def _join_positions(xp: Any, old: Array, new: Array, batch: int) -> Array:
    if old.shape[0] != new.shape[0]:
        old, new = (xp.broadcast_to(p, (batch, p.shape[1])) for p in (old, new))
    return xp.concat([old, new], axis=1)
