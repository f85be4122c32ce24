"""The model as a pure function: what ``jax.jit``, ``jax.grad``, ``jax.vmap`` and sharded arrays are for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.errors import InputError, warn
from ...core.forward.inputs import (
    as_integers,
    as_mask,
    check_additive,
    check_embeds_shape,
    check_ids,
    check_keep,
    check_mask,
    check_positions,
    read_labels,
    read_num_items,
)
from ...core.graph.graph import nodes_of_type
from ...core.graph.nodes import Attention, Dropout
from ...core.graph.text_tokens import check_text, text_by_padding
from ...core.tasks.labels import as_labels
from .arrays import as_float32, in_32_bits, is_traced
from .nodes import Checkpoint
from .params import check_params
from .traced import Inputs, Params, Static, TracedPass, causal_mask, same_sequence

if TYPE_CHECKING:
    from ...core.config.schema import LlamaConfig
    from ...core.dtypes import Array
    from ...core.forward.arguments import ForwardArguments
    from ...core.graph.graph import Graph
    from ...core.tasks.outputs import ModelOutput


def apply(
    pass_: TracedPass,
    config: LlamaConfig,
    params: Params,
    arguments: ForwardArguments,
    *,
    checkpoint: Checkpoint | None = None,
) -> ModelOutput:
    """One pass without a cache; any argument may be traced.

    Args:
        params: the weights, a dict by checkpoint name.
        arguments: of the pass, none of them a cache. A position that does not rise begins another sequence, where
            ``position_ids`` are given without a mask. With ``labels`` the output has a ``loss`` to differentiate. Its
            own are ``train``, whether dropout acts, and ``dropout_rng``, its random key, a new one for every step.
        checkpoint: ``jax.checkpoint``, for gradients that compute each layer anew instead of keeping what is in it.

    Raises:
        InputError: shapes that do not fit; or a traced mask where the RoPE depends on how long each row is.
    """
    check_params(pass_.graph, params)
    loss_options = read_num_items(arguments.loss_options)
    dropout_rng = dropout_key(pass_.graph, arguments.own.get("train", False), arguments.own.get("dropout_rng"))
    inputs, allowed, keep = _read(pass_, config, arguments, dropout_rng)
    flags = arguments.output_hidden_states, arguments.output_attentions
    static = Static(keep if isinstance(keep, int) else 0, 0, *flags)
    with pass_.precision():
        ctx = pass_.context(params, inputs, allowed, None, static, checkpoint=checkpoint)
        hidden = ctx.run(pass_.graph.decoder, pass_.embed(ctx, jnp.asarray(inputs.tokens)))
        fields = pass_.finish(ctx, hidden, inputs, static)
        loss = None
        if arguments.labels:
            arrays = {name: _label(value, name) for name, value in arguments.labels.items()}
            loss = pass_.task.loss(jnp, fields, **arrays, config=config, attended=inputs.attended, **loss_options)
    output = pass_.task.output_type(
        loss=loss,
        hidden_states=None if ctx.hidden_states is None else tuple(ctx.hidden_states),
        attentions=None if ctx.attentions is None else tuple(ctx.attentions),
        **fields,
    )
    output.to_numpy = as_float32
    return output


def _read(
    pass_: TracedPass, config: LlamaConfig, arguments: ForwardArguments, dropout_rng: Any
) -> tuple[Inputs, Array, Any]:
    """The checked inputs of a pass, who may look at whom ``[B or 1, 1, S, S]``, and the positions that are kept."""
    input_ids, attention_mask, position_ids = arguments.input_ids, arguments.attention_mask, arguments.position_ids
    if (input_ids is None) == (arguments.inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise InputError(f"exactly one of input_ids and inputs_embeds is wanted, {given} given")
    refused = {"past_key_values": arguments.past_key_values, "use_cache": arguments.use_cache or None}
    refused["observe"] = arguments.observe
    for name, value in refused.items():
        if value is not None:
            raise InputError(f"{name} cannot go through a JAX transform", hint="leave it out, or call forward itself")
    tokens = _ids(input_ids, config) if input_ids is not None else _array(arguments.inputs_embeds)
    if input_ids is None:
        check_embeds_shape(tuple(tokens.shape), config.hidden_size)
    batch, new = tokens.shape[:2]
    mask = None if attention_mask is None else _mask(attention_mask, batch, new)
    key_mask = mask if mask is not None and mask.ndim == 2 else None
    _check_concrete(pass_, config, tokens, key_mask, arguments.labels)
    keep = check_keep(arguments.logits_to_keep, pass_.task, new)
    positions = _positions(position_ids, key_mask, batch, new)
    inputs = Inputs(
        tokens=tokens if tokens.ndim == 3 else tokens.astype(jnp.int32),
        positions=positions,
        key_mask=jnp.ones((batch, new), bool) if key_mask is None else jnp.asarray(key_mask),
        start=jnp.int32(0),
        new=jnp.int32(new),
        frequencies=_frequencies(pass_, position_ids, key_mask, batch, new),
        kept=None if isinstance(keep, int) else jnp.asarray(keep, jnp.int32),
        dropout_rng=dropout_rng,
        attended=_attended(pass_, config, tokens, key_mask),
        adapter_rows=None if arguments.adapter_rows is None else jnp.asarray(arguments.adapter_rows, jnp.int32),
    )
    if mask is not None and mask.ndim == 4:
        allowed = jnp.asarray(mask) | jnp.eye(new, dtype=bool)  # a query always sees itself
    else:
        allowed = causal_mask(inputs.start, new, new, inputs.key_mask)
        if mask is None and position_ids is not None:
            allowed = allowed & same_sequence(positions)
    return inputs, allowed, keep


def _label(value: Any, name: str) -> Array:
    if is_traced(value):
        return jnp.asarray(value)
    return jnp.asarray(value if isinstance(value, jax.Array) else in_32_bits(as_labels(value, name), name))


def _attended(pass_: TracedPass, config: LlamaConfig, tokens: Any, key_mask: Any) -> Array | None:
    """What a head is told of padding: by the mask, or for one result a row by the config's padding id as it is now."""
    if key_mask is not None:
        return jnp.asarray(key_mask)
    by_row = pass_.task.outputs_per == "row" and tokens.ndim == 2
    return text_by_padding(jnp.asarray(tokens), config.pad_token_id) if by_row else None


def dropout_key(graph: Graph, train: bool, dropout_rng: Any) -> Any:
    """The random key of dropout, ``None`` where there is none.

    Raises:
        InputError: the graph has dropout, `train` is on and there is no key, or what is given is none.
    """
    if not train:
        if dropout_rng is not None:
            warn("dropout_rng does nothing without train=True")
        return None
    if dropout_rng is None:
        found = {"attention_dropout": [node.dropout for node in nodes_of_type(graph, Attention)]}
        found["a head's dropout"] = [node.p for node in nodes_of_type(graph, Dropout)]
        for name, probabilities in found.items():
            if any(probabilities):
                raise InputError(
                    f"train=True with {name} {max(probabilities)} needs a random key",
                    hint="pass dropout_rng=jax.random.key(seed), a new one for every step",
                )
    elif not hasattr(dropout_rng, "dtype"):
        raise InputError(f"dropout_rng is {dropout_rng!r}, no random key", hint="pass jax.random.key(seed)")
    return dropout_rng


def _check_concrete(
    pass_: TracedPass, config: LlamaConfig, tokens: Any, key_mask: Any, labels: Mapping[str, Any]
) -> None:
    """Look at whatever is not being traced: rows without text, labels that do not fit."""
    batch, new = tokens.shape[:2]
    unseen = is_traced(key_mask)
    attended = None if key_mask is None or unseen else np.asarray(key_mask)
    if pass_.task.outputs_per == "row" and not unseen and not is_traced(tokens):
        check_text(np.asarray(tokens) if tokens.ndim == 2 else None, attended, config.pad_token_id, batch)
    if labels and not is_traced(*labels.values()):
        whole = np.ones((batch, new), bool) if attended is None else attended
        pass_.task.check_labels(config, read_labels(pass_.task, labels), whole)


def _array(value: Any) -> Any:
    """What is traced or JAX's already as it is, anything else as NumPy."""
    return value if isinstance(value, jax.Array) else np.asarray(value)


def _ids(input_ids: Any, config: LlamaConfig) -> Any:
    """``[B, S]`` token ids; of traced ones shape and dtype are checked, of others the range too."""
    if not is_traced(input_ids):
        ids = as_integers(input_ids, "input_ids")
        check_ids(ids, config.vocab_size)
        return ids
    if input_ids.ndim != 2 or 0 in input_ids.shape:
        raise InputError(f"input_ids has shape {list(input_ids.shape)}, wanted [batch, sequence]")
    if input_ids.dtype.kind not in "iu":
        raise InputError(f"input_ids holds {input_ids.dtype}, wanted integers")
    return input_ids


def _mask(attention_mask: Any, batch: int, new: int) -> Any:
    """``[B, S]`` or ``[B or 1, 1, S, S]`` booleans; a four-dimensional one may be additive."""
    if not is_traced(attention_mask):
        given = as_mask(attention_mask)
        check_mask(given, batch, new, 0)
        return given.astype(bool)
    mask = _array(attention_mask)
    if jnp.issubdtype(mask.dtype, jnp.floating):
        check_additive(mask.ndim)
        mask = mask == 0
    elif mask.dtype.kind not in "biu":
        raise InputError(f"attention_mask holds {mask.dtype}", hint="give 1 and 0")
    if mask.shape not in ((batch, new), (batch, 1, new, new), (1, 1, new, new)):
        raise InputError(f"attention_mask has shape {list(mask.shape)}, wanted [{batch}, {new}]")
    return mask.astype(bool)


def _positions(position_ids: Any, key_mask: Any, batch: int, new: int) -> Array:
    """``[B, S]``: as given, else each token's count of attended tokens before it."""
    if position_ids is not None:
        given: Any = position_ids if is_traced(position_ids) else check_positions(position_ids, batch, new)
        if given.ndim not in (1, 2) or given.shape[-1] != new or given.shape[:-1] not in ((), (1,), (batch,)):
            raise InputError(f"position_ids has shape {list(given.shape)}, wanted [{batch}, {new}]")
        if given.dtype.kind not in "iu":
            raise InputError(f"position_ids holds {given.dtype}, wanted integers")
        if not is_traced(given):
            given = in_32_bits(np.asarray(given), "position_ids")
        return jnp.broadcast_to(jnp.asarray(given, jnp.int32), (batch, new))
    if key_mask is None:
        return jnp.broadcast_to(jnp.arange(new, dtype=jnp.int32), (batch, new))
    return jnp.maximum(jnp.cumsum(jnp.asarray(key_mask).astype(jnp.int32), axis=1) - 1, 0)


def _frequencies(pass_: TracedPass, position_ids: Any, key_mask: Any, batch: int, new: int) -> tuple[Array, ...]:
    """Rows of frequencies of length-dependent RoPE, which are computed on the host."""
    if not pass_.ropes:
        return ()
    if is_traced(position_ids, key_mask):
        kinds = ", ".join(sorted({rope.rope_type for rope in pass_.ropes}))
        raise InputError(
            f"{kinds} RoPE depends on how long each row is, and that is being traced",
            hint="close over attention_mask and position_ids instead of passing them through the transform",
        )
    if position_ids is not None:
        lengths = np.broadcast_to(np.asarray(position_ids).max(axis=-1) + 1, (batch,))
    else:
        lengths = np.full((batch,), new) if key_mask is None else np.asarray(key_mask).sum(axis=1)
    return tuple(jnp.asarray(rope.row_frequencies(lengths)) for rope in pass_.ropes)


_registered: set[type] = set()


def register_output(cls: type[ModelOutput]) -> None:
    """Let an output class pass through JAX's transforms: a pytree of the fields that are there."""
    if cls in _registered:
        return
    names = [field.name for field in dataclasses.fields(cls) if field.name not in ("to_numpy", "past_key_values")]

    def flatten(output: ModelOutput) -> tuple[tuple[Any, ...], None]:
        if output.past_key_values is not None:
            raise InputError("an output with past_key_values cannot leave a JAX transform", hint="call without a cache")
        return tuple(getattr(output, name) for name in names), None

    def unflatten(_: None, values: Any) -> ModelOutput:
        return cls(**dict(zip(names, values, strict=True)), to_numpy=as_float32)

    jax.tree_util.register_pytree_node(cls, flatten, unflatten)
    _registered.add(cls)
