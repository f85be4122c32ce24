"""Backends that are wrong on purpose: each is caught by the check that names what is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from polyllama.core.forward.arguments import ForwardArguments
from polyllama.core.forward.spec_model import SpecModel
from polyllama.core.graph.activations import ACTIVATIONS
from polyllama.core.graph.adapted import LoraEmbedding, LoraLinear
from polyllama.core.graph.cache import ConcatenatingCache
from polyllama.core.graph.node import Context, causal_mask
from polyllama.core.graph.nodes import Attention, Embedding, GatedMLP, Linear, RMSNorm
from polyllama.core.graph.rope import Rope
from polyllama.testing.candidate import Candidate
from polyllama.testing.catalogue import all_checks
from polyllama.testing.checks import run_check
from sabotage import SpecBackend, attention, interleaved_rope, model_with, outcome


def low(xp: Any, x: Any) -> Any:
    """`x` as a half precision would hold it, in its own dtype."""
    half = getattr(xp, "bfloat16", None) or xp.float16
    return xp.astype(xp.astype(x, half), x.dtype)


def unscaled_rope(node: Rope, x: Any, ctx: Context) -> Any:
    """Forgets the attention factor of yarn and longrope."""
    return dataclasses.replace(node, attention_factor=1.0).apply(ctx.xp, ctx.weights, x, ctx)


def whole_rope(node: Rope, x: Any, ctx: Context) -> Any:
    """Rotates the part of a partial head that should pass, with the first part's angles."""
    if node.rotary_dim == node.head_dim:
        return node.apply(ctx.xp, ctx.weights, x, ctx)
    half = dataclasses.replace(node, head_dim=node.rotary_dim)
    parts = [half.apply(ctx.xp, ctx.weights, part, ctx) for part in (x[..., : half.head_dim], x[..., half.head_dim :])]
    return ctx.xp.concat(parts, axis=-1)


def norm_cast_early(node: RMSNorm, x: Any, ctx: Context) -> Any:
    """Rounds the scale before it multiplies, instead of the product."""
    xp, wide = ctx.xp, ctx.widen(x)
    scale = low(xp, 1.0 / xp.sqrt(xp.mean(wide * wide, axis=-1, keepdims=True) + node.eps))
    return ctx.weights[f"{node.name}.weight"] * xp.astype(wide * scale, x.dtype)


def norm_of_narrow_squares(node: RMSNorm, x: Any, ctx: Context) -> Any:
    """Squares in the dtype itself, which float16 cannot hold."""
    xp = ctx.xp
    mean = xp.astype(xp.mean(x * x, axis=-1, keepdims=True), x.dtype)
    return ctx.weights[f"{node.name}.weight"] * (x / xp.sqrt(mean + node.eps))


def norm_without_eps(node: RMSNorm, x: Any, ctx: Context) -> Any:
    return dataclasses.replace(node, eps=0.0).apply(ctx.xp, ctx.weights, x, ctx)


def linear_in_low_precision(node: Linear, x: Any, ctx: Context) -> Any:
    """Adds up its products eight at a time, and rounds in between."""
    xp, weight = ctx.xp, ctx.weights[node.weight_name]
    y = 0.0 * xp.matmul(x, xp.permute_dims(weight, (1, 0)))
    for start in range(0, node.in_features, 8):
        part = xp.matmul(x[..., start : start + 8], xp.permute_dims(weight[:, start : start + 8], (1, 0)))
        y = low(xp, y + part)
    return y + ctx.weights[f"{node.name}.bias"] if node.bias else y


def linear_without_bias(node: Linear, x: Any, ctx: Context) -> Any:
    return dataclasses.replace(node, bias=False).apply(ctx.xp, ctx.weights, x, ctx)


def embedding_scaled(node: Embedding, x: Any, ctx: Context) -> Any:
    return node.apply(ctx.xp, ctx.weights, x, ctx) * 1.0001


def adapter_unscaled(node: Any, x: Any, ctx: Context) -> Any:
    return dataclasses.replace(node, scale=1.0).apply(ctx.xp, ctx.weights, x, ctx)


def mlp_gates_the_wrong_way(node: GatedMLP, x: Any, ctx: Context) -> Any:
    """Activates ``up`` instead of ``gate``."""
    y = ctx.run(node.gate, x) * ctx.activate(node.activation, ctx.run(node.up, x))
    return ctx.run(node.down, y)


def right_groups(heads: int, groups: int) -> list[int]:
    return [h // (heads // groups) for h in range(heads)]


def wrong_groups(heads: int, groups: int) -> list[int]:
    return [h % groups for h in range(heads)]


def right_softmax(xp: Any, x: Any) -> Any:
    e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


def low_softmax(xp: Any, x: Any) -> Any:
    e = low(xp, xp.exp(low(xp, x - xp.max(x, axis=-1, keepdims=True))))
    return low(xp, e / low(xp, xp.sum(e, axis=-1, keepdims=True)))


def grouped_wrongly(node: Any, x: Any, ctx: Context) -> Any:
    return attention(node, x, ctx, wrong_groups, right_softmax)


def softmax_in_low_precision(node: Any, x: Any, ctx: Context) -> Any:
    return attention(node, x, ctx, right_groups, low_softmax)


def tied_head_made_anew(node: Linear, x: Any, ctx: Context) -> Any:
    """A tied head whose weight is not the table: here the table upside down."""
    weights = dict(ctx.weights)
    if node.tied_to is not None:
        weights[node.weight_name] = ctx.xp.flip(weights[node.weight_name], axis=0)
    return node.apply(ctx.xp, weights, x, ctx)


class OffByOne(Context):
    """After cached tokens, positions start one too late."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.cache is not None and self.cache.length:
            self.positions = self.positions + 1


class CountsPadding(Context):
    """Positions are places in the row, masked tokens counted too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.mask is not None:
            start = self.mask.shape[-1] - self.positions.shape[1]
            self.positions = self.xp.arange(start, self.mask.shape[-1])[None]


class IgnoresPadding(Context):
    """Causal, whatever the mask says."""

    def masked(self, scores: Any) -> Any:
        allowed = causal_mask(self.xp, scores.shape[2], scores.shape[3], scores)
        return self.xp.where(allowed, scores, self.xp.asarray(-float("inf"), dtype=scores.dtype))


class SeesTheFuture(Context):
    """No causal mask where there is no padding."""

    def masked(self, scores: Any) -> Any:
        return scores if self.mask is None else super().masked(scores)


class IgnoresPositions(Context):
    """Given positions are ignored."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        past = 0 if self.cache is None else self.cache.length
        if self.positions.shape[0] == 1:  # not counted row by row around padding
            self.positions = self.xp.arange(past, past + self.positions.shape[1])[None]


class LateHiddenStates(Context):
    """Hidden states one layer late."""

    def keep_hidden(self, x: Any) -> None:
        if self.hidden_states is not None:
            self.hidden_states.append(self.hidden_states[-1] if self.hidden_states else x)


class ApproximateActivations(Context):
    """gelu by its tanh formula, as some frameworks do by default."""

    def activate(self, name: str, x: Any) -> Any:
        return ACTIVATIONS["gelu_new" if name == "gelu" else name](self.xp, x)


class StaleCache(ConcatenatingCache):
    """Gives back what was there before, and the new tokens' keys and values only from the next pass on."""

    def update(self, name: str, keys: Any, values: Any) -> Any:
        old = self.entries.get(name)
        keys, values = super().update(name, keys, values)
        if old is not None:  # the last old slot is repeated in place of the newest
            keys = self.xp.concat([old[0], keys[:, :, old[0].shape[2] - 1 : -1]], axis=2)
        return keys, values


class SharedCache(ConcatenatingCache):
    """select_rows leaves the first cache with what the second writes."""

    def _select(self, source: Any, rows: Any) -> None:
        super()._select(source, rows)
        source.entries = {name: (k[::-1], v[::-1]) for name, (k, v) in source.entries.items()}


class ForgetsTheMask(ConcatenatingCache):
    def advance(self, count: int, mask: Any) -> None:
        super().advance(count, None)


class Overflows(ConcatenatingCache):
    """Keeps no more than it was made for."""

    def update(self, name: str, keys: Any, values: Any) -> Any:
        keys, values = super().update(name, keys, values)
        if self.capacity is not None and keys.shape[2] > self.capacity:
            keys = self.xp.concat([keys[:, :, : self.capacity], 0 * keys[:, :, self.capacity :]], axis=2)
        return keys, values


class OneCache(SpecModel):
    """The same cache for everybody."""

    def new_cache(self, batch: int | None = None, capacity: int | None = None) -> Any:
        if not hasattr(self, "shared"):
            self.shared = ConcatenatingCache(None, None, self.engine.xp)
        self.shared.batch = batch
        return self.shared


class RowsByTheLongest(SpecModel):
    """Length-dependent RoPE by the longest row of the batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        frequencies = self.engine.frequencies
        self.engine.frequencies = lambda rope, lengths: frequencies(  # type: ignore[method-assign]
            rope, None if lengths is None else np.full_like(lengths, lengths.max())
        )


class NeverRestarts(SpecModel):
    """A cache keeps keys and values of the frequencies a row had when it was shorter."""

    def new_cache(self, batch: int | None = None, capacity: int | None = None) -> Any:
        class Cache(ConcatenatingCache):
            history = property(lambda self: None, lambda self, value: None)  # type: ignore[assignment]

        return Cache(batch, capacity, self.engine.xp)


class Jittery(SpecModel):
    """Not the same twice."""

    def forward(self, arguments: ForwardArguments) -> Any:
        output: Any = super().forward(arguments)
        self.calls = getattr(self, "calls", 0) + 1
        if "logits" in output:
            output.logits = output.logits + np.float32(0.5) * np.sin(np.arange(97) * self.calls)
        return output


class AcceptsAnything(SpecModel):
    """Ids beyond the vocabulary wrap around."""

    def forward(self, arguments: ForwardArguments) -> Any:
        if isinstance(arguments.input_ids, list):
            wrapped = np.asarray(arguments.input_ids) % self.config.vocab_size
            arguments = dataclasses.replace(arguments, input_ids=wrapped)
        return super().forward(arguments)


class KeepsTheFirst(SpecModel):
    """logits_to_keep counts from the wrong end."""

    def forward(self, arguments: ForwardArguments) -> Any:
        keep = arguments.logits_to_keep
        if isinstance(keep, int) and keep:
            arguments = dataclasses.replace(arguments, logits_to_keep=np.arange(keep))
        return super().forward(arguments)


class LossOverAll(SpecModel):
    """Labels of -100 count as token 0."""

    def forward(self, arguments: ForwardArguments) -> Any:
        labels = {name: np.where(np.asarray(held) == -100, 0, held) for name, held in arguments.labels.items()}
        return super().forward(dataclasses.replace(arguments, labels=labels))


class AnotherDtype(SpecModel):
    def __init__(self, *args: Any, dtype: str, **kwargs: Any) -> None:
        super().__init__(*args, dtype="float64" if dtype == "float32" else dtype, **kwargs)


class RoundedState(SpecModel):
    def state(self) -> Iterator[Any]:
        for info, read in super().state():
            yield info, lambda read=read: (read() * np.float32(1.001)).astype(np.float32)


SABOTAGE: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...], str]] = {
    # what is broken -> how, the checks that must fail, and one that must still pass
    "RoPE pairs neighbours": ({"overrides": {Rope: interleaved_rope}}, ("rope.default",), "node.rms_norm"),
    "RoPE without its factor": ({"overrides": {Rope: unscaled_rope}}, ("rope.yarn", "rope.longrope"), "rope.llama3"),
    "RoPE of whole heads": ({"overrides": {Rope: whole_rope}}, ("rope.partial",), "rope.default"),
    "RMSNorm cast early": ({"overrides": {RMSNorm: norm_cast_early}}, ("node.rms_norm.cast",), "node.linear"),
    "RMSNorm without eps": ({"overrides": {RMSNorm: norm_without_eps}}, ("node.rms_norm",), "node.linear"),
    "linear rounds in between": ({"overrides": {Linear: linear_in_low_precision}}, ("node.linear",), "node.rms_norm"),
    "LoRA unscaled": (
        {"overrides": {LoraLinear: adapter_unscaled}},
        ("node.adapted",),
        "node.embedding",
    ),
    "LoRA on embeddings unscaled": ({"overrides": {LoraEmbedding: adapter_unscaled}}, ("node.adapted",), "node.linear"),
    "no biases": ({"overrides": {Linear: linear_without_bias}}, ("attention.biases", "mlp.biases"), "attention.mha"),
    "embedding scaled": ({"overrides": {Embedding: embedding_scaled}}, ("node.embedding",), "inputs.embeds"),
    "MLP gates wrongly": ({"overrides": {GatedMLP: mlp_gates_the_wrong_way}}, ("node.gated_mlp",), "node.attention"),
    "heads grouped wrongly": ({"overrides": {Attention: grouped_wrongly}}, ("attention.gqa",), "attention.mha"),
    "softmax in low precision": (
        {"overrides": {Attention: softmax_in_low_precision}},
        ("node.attention.softmax",),
        "node.rms_norm",
    ),
    "tied weights not tied": ({"overrides": {Linear: tied_head_made_anew}}, ("weights.tied",), "attention.mha"),
    "positions off by one": ({"context": OffByOne}, ("positions.cached",), "attention.mha"),
    "positions count padding": ({"context": CountsPadding}, ("positions.holes",), "attention.mha"),
    "given positions ignored": ({"context": IgnoresPositions}, ("positions.explicit",), "attention.mha"),
    "padding mask ignored": ({"context": IgnoresPadding}, ("padding.left", "padding.mixed"), "attention.mha"),
    "no causal mask": ({"context": SeesTheFuture}, ("node.attention",), "padding.left"),
    "hidden states late": ({"context": LateHiddenStates}, ("node.decoder",), "attention.mha"),
    "gelu approximated": ({"context": ApproximateActivations}, ("activation.gelu",), "activation.gelu_new"),
    "stale cache": ({"model": model_with(StaleCache)}, ("cache.step", "cache.chunked"), "attention.mha"),
    "select_rows shares": ({"model": model_with(SharedCache)}, ("cache.select_rows",), "cache.step"),
    "cache forgets the mask": ({"model": model_with(ForgetsTheMask)}, ("cache.padded",), "cache.step"),
    "cache overflows": ({"model": model_with(Overflows)}, ("cache.capacity",), "cache.step"),
    "one cache for all": ({"model": OneCache}, ("cache.independent",), "attention.mha"),
    "lengths of the longest": (
        {"model": RowsByTheLongest},
        ("rope.dynamic.padded", "rope.longrope.padded"),
        "rope.dynamic",
    ),
    "stale frequencies": (
        {"model": NeverRestarts},
        ("rope.dynamic.cached", "rope.longrope.cached"),
        "rope.default.cached",
    ),
    "not the same twice": ({"model": Jittery}, ("sampler.repeats", "sampler.tokens"), "node.embedding"),
    "ids wrap around": ({"model": AcceptsAnything}, ("errors.id_too_large", "errors.id_negative"), "errors.no_input"),
    "keeps the first logits": ({"model": KeepsTheFirst}, ("output.logits_to_keep",), "attention.mha"),
    "loss over ignored labels": ({"model": LossOverAll}, ("output.loss",), "attention.mha"),
    "another dtype": ({"model": AnotherDtype}, ("weights.dtype",), "attention.mha"),
    "state rounded": ({"model": RoundedState}, ("weights.state",), "attention.mha"),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_sabotage_is_caught_by_the_check_that_names_it(what: str) -> None:
    broken, caught_by, still_right = SABOTAGE[what]
    backend = SpecBackend(**broken)
    for check in caught_by:
        result = outcome(backend, check)
        assert result.status == "failed", result
        assert np.isinf(result.error) or result.error > 2 * result.bound
    assert outcome(backend, still_right).status == "passed"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("override", "check"),
    [
        ({RMSNorm: norm_cast_early}, "node.rms_norm.cast"),
        ({Linear: linear_in_low_precision}, "node.linear"),
        ({Attention: softmax_in_low_precision}, "node.attention.softmax"),
        ({Rope: interleaved_rope}, "rope.default"),
        ({Attention: grouped_wrongly}, "attention.gqa"),
    ],
)
def test_sabotage_is_caught_in_half_precision(dtype: str, override: Any, check: str) -> None:
    """Where one more rounding to the same dtype is all that gives it away. float16 is rounded to bfloat16's bits."""
    assert outcome(SpecBackend((dtype,)), check, dtype).status == "passed"
    assert outcome(SpecBackend((dtype,), overrides=override), check, dtype).status == "failed"


def test_squares_that_leave_float16_are_caught() -> None:
    result = outcome(SpecBackend(overrides={RMSNorm: norm_of_narrow_squares}), "node.rms_norm", "float16")
    assert result.status == "failed"
    assert outcome(SpecBackend(overrides={RMSNorm: norm_of_narrow_squares}), "node.rms_norm").status == "passed"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_sabotaged_path_is_right_without_the_sabotage(dtype: str) -> None:
    """The spec itself on each dtype passes what catches the others, attention written out included."""

    def written_out(node: Any, x: Any, ctx: Context) -> Any:
        return attention(node, x, ctx, right_groups, right_softmax)

    backend = SpecBackend((dtype,), overrides={Attention: written_out})
    checks = {c for _, caught_by, _ in SABOTAGE.values() for c in caught_by if not c.startswith("errors.")}
    candidate = Candidate(backend, dtype)
    results = [run_check(all_checks()[check], candidate) for check in sorted(checks)]
    assert [str(r) for r in results if r.status != "passed"] == []
