"""Each node type alone: in models whose other nodes add nothing, on inputs the backend itself gave.

A layer's output hidden state is compared with what the spec makes of the *backend's own* input hidden state, so errors
of earlier nodes do not count. A layer with the output projections of one part at 0 consists of the other part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..core.config.keys import ACTIVATION_NAMES
from .candidate import Candidate
from .checks import check
from .measure import Measurement, compare, equal, within
from .probes import HIDDEN, IDS, Probe, on_grid, probe
from .rounding import linear_bound, rms_norm_bound

ROWS = IDS[:2]


@check("node.embedding", "token embeddings are the rows of the table, to the last bit")
def embedding(candidate: Candidate) -> Measurement:
    p = probe("neutral")
    found = candidate.run(p, ROWS, output_hidden_states=True)["hidden_states"][0]
    return equal(found, p.weights["model.embed_tokens.weight"][ROWS], "hidden_states[0]")


def _norm_inputs() -> np.ndarray:
    """``[4, 16, E]``: squares that vanish beside eps, that are ordinary, that leave float16, and outliers."""
    x = np.random.default_rng(5).standard_normal((4, 16, HIDDEN))
    scales = np.array([2.0**-10, 1.0, 2.0**9, 1.0])[:, None, None]
    x = x * scales
    x[3, :, 7] = 300.0
    return on_grid(x)


def _norm(candidate: Candidate, p: Probe, name: str, roundings: int) -> Measurement:
    x = _norm_inputs()
    found = candidate.run(p, inputs_embeds=x, output_hidden_states=True)["hidden_states"][-1]
    mean = np.mean(x * x, axis=-1, keepdims=True)
    wanted = p.weights[name] * (x / np.sqrt(mean + p.config.rms_norm_eps))
    return within(found, wanted, rms_norm_bound(candidate.precision, wanted, roundings), "norm")


@check("node.rms_norm", "RMSNorm of small, ordinary, large and outlying values: two roundings to the dtype")
def rms_norm(candidate: Candidate) -> Measurement:
    return _norm(candidate, probe("neutral"), "model.norm.weight", roundings=2)


@check("node.rms_norm.cast", "RMSNorm casts once, after normalizing in float32: weights of 1 leave one rounding")
def rms_norm_cast(candidate: Candidate) -> Measurement:
    return _norm(candidate, probe("neutral.unit"), "norm.weight", roundings=1)


@check("node.linear", "a linear layer accumulates in float32 and rounds once")
def linear(candidate: Candidate) -> Measurement:
    p = probe("neutral")
    found = candidate.run(p, ROWS, output_hidden_states=True)
    x, weight = found["hidden_states"][-1], p.weights["lm_head.weight"]
    wanted = x @ weight.T
    return within(found["logits"], wanted, linear_bound(candidate.precision, x, weight, wanted), "logits")


def _layer(candidate: Candidate, p: Probe, index: int = 0, **options: bool) -> Measurement:
    states = candidate.run(p, ROWS, output_hidden_states=True, **options)["hidden_states"]
    return compare(states[index + 1], candidate.oracle.layer(p, index, states[index]), f"hidden_states[{index + 1}]")


@check("node.attention", "attention alone, as the backend runs it fastest")
def attention(candidate: Candidate) -> Measurement:
    return _layer(candidate, probe("attention"))


@check("node.attention.probabilities", "attention alone, where its probabilities are asked for; and the probabilities")
def attention_probabilities(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("attention")
    yield _layer(candidate, p, output_attentions=True)
    found = candidate.run(p, ROWS, output_hidden_states=True, output_attentions=True)["attentions"][0]
    yield compare(found, candidate.oracle(p, ROWS, output_attentions=True)["attentions"][0], "attentions[0]")


@check("node.attention.softmax", "softmax is computed in float32 and rounded once")
def softmax(candidate: Candidate) -> Measurement:
    """Nearly equal scores: their own errors hardly move the probabilities, so the softmax's show."""
    p = probe("softmax")
    ids = np.random.default_rng(8).integers(1, 97, (1, 64))
    wanted = candidate.oracle(p, ids, output_attentions=True)["attentions"][0].wanted
    found = candidate.run(p, ids, output_attentions=True)["attentions"][0]
    logarithms = np.log(np.where(wanted > 0, wanted, 1.0))
    span = np.max(np.abs(np.where(wanted > 0, logarithms - logarithms[..., :1], 0.0)), axis=-1, keepdims=True)
    # A score is off by a few roundings of itself (8 cover its two vectors, their product and the scaling); normalizing
    # sees it twice. Then float32's exponential, sum of K and quotient, and one rounding to the dtype.
    unit, wide = candidate.precision.unit, candidate.precision.wide
    relative = unit * (1.0 + 16.0 * span) + wide * (4.0 + wanted.shape[-1])
    return within(found, wanted, wanted * relative * candidate.precision.share, "attentions[0]")


@check("node.gated_mlp", "the gated MLP alone")
def gated_mlp(candidate: Candidate) -> Measurement:
    return _layer(candidate, probe("activations"), ACTIVATION_NAMES.index("silu"))


@check("node.decoder_layer", "a whole layer: norms, attention, MLP and both residual sums")
def decoder_layer(candidate: Candidate) -> Measurement:
    return _layer(candidate, probe("plain"))


@check("node.decoder", "the trunk: every hidden state, from the embeddings to the final norm")
def decoder(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("plain")
    found = candidate.run(p, ROWS, output_hidden_states=True)["hidden_states"]
    wanted = candidate.oracle(p, ROWS, output_hidden_states=True)["hidden_states"]
    if len(found) != len(wanted):
        yield equal(len(found), len(wanted), "number of hidden states")
        return
    for index, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        yield compare(ours, theirs, f"hidden_states[{index}]")


@check("node.foreign", "a node the backend has never heard of runs by its own definition, as a head and in the trunk")
def foreign(candidate: Candidate) -> Iterator[Measurement]:
    for name in ("foreign.head", "foreign.trunk"):
        p = probe(name)
        yield compare(candidate.run(p, ROWS)["logits"], candidate.oracle(p, ROWS)["logits"], f"{name}: logits")


@check("node.adapted", "LoRA beside embeddings, linear layers and a head, and DoRA: what the layer and its adapter add")
def adapted(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("adapted")
    inputs = {"input_ids": ROWS, "output_hidden_states": True}
    found, wanted = candidate.run(p, **inputs), candidate.oracle(p, **inputs)
    yield compare(found["hidden_states"][0], wanted["hidden_states"][0], "hidden_states[0]")
    yield compare(found["logits"], wanted["logits"], "logits")


def _activation(index: int) -> Callable[[Candidate], Measurement]:
    return lambda candidate: _layer(candidate, probe("activations"), index)


for _index, _name in enumerate(ACTIVATION_NAMES):
    check(f"activation.{_name}", f"the gated MLP with hidden_act {_name!r}")(_activation(_index))
