"""Packed weights: every width against the product with the unpacked float64 matrix, and whole quantized models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..core.dtypes import numpy_dtype
from ..core.quantization.affine import dequantize
from ..core.quantization.packing import BITS
from .candidate import Candidate
from .checks import check
from .checks_lengths import TEXTS
from .checks_models import cached, logits_of
from .measure import Measurement, compare, equal, failure, within
from .probes import IDS, WIDE, Probe, probe
from .rounding import Expected, quantized_linear_bound, quantized_rows_bound

MANY, FEW, ONE = IDS[:2], IDS[:1, :5], IDS[:1, :1]
"""Backends take a single row, a few and many by different roads."""

KERNELS = (4, 8)
"""Widths that most libraries have kernels of their own for."""


def unpacked(p: Probe, name: str) -> tuple[Any, Any]:
    """A packed matrix in float64, and the part of each value that is not its group's bias."""
    words, scales, biases = (p.weights[f"{name}.{kind}"] for kind in ("weight", "scales", "biases"))
    bits = next(parameter.bits for parameter in p.graph.parameters() if parameter.name == f"{name}.weight")
    assert bits is not None  # it is packed
    weight = dequantize(words, scales, biases, bits=bits, dtype=np.float64)
    return weight, weight - np.repeat(biases, weight.shape[1] // biases.shape[1], axis=1)


def _linear(bits: int) -> Callable[[Candidate], Iterator[Measurement]]:
    rows = (MANY, FEW, ONE) if bits in KERNELS else (MANY, ONE)
    return lambda candidate: _products(candidate, probe(f"quantized.neutral.int{bits}"), rows)


def _products(candidate: Candidate, p: Probe, inputs: tuple[Any, ...]) -> Iterator[Measurement]:
    """The head's product with the hidden states that the backend gives it."""
    weight, steps = unpacked(p, "lm_head")
    for rows in inputs:
        found = candidate.run(p, rows, output_hidden_states=True)
        x = found["hidden_states"][-1]
        bound = quantized_linear_bound(candidate.precision, x, weight, steps)
        yield within(found["logits"], x @ weight.T, bound, f"logits of {rows.size} tokens")


@check("quantized.embedding", "rows of a packed embedding are scale * q + bias")
def embedding(candidate: Candidate) -> Iterator[Measurement]:
    for bits in (4, 8):
        p = probe(f"quantized.neutral.int{bits}")
        table, steps = unpacked(p, "model.embed_tokens")
        found = candidate.run(p, MANY, output_hidden_states=True)["hidden_states"][0]
        bound = quantized_rows_bound(candidate.precision, table, steps)[MANY]
        yield within(found, table[MANY], bound, f"int{bits}: hidden_states[0]")


for _bits in BITS:
    check(
        f"quantized.linear.int{_bits}",
        f"a product with weights packed into {_bits} bits: one row, a few and many",
        each_dtype=_bits in KERNELS,
    )(_linear(_bits))


def _model(name: str) -> Callable[[Candidate], Iterator[Measurement]]:
    return lambda candidate: logits_of(candidate, probe(name), MANY)


for _name, _what in (
    ("quantized.int4", "a whole model in 4 bits"),
    ("quantized.int8", "a whole model in 8 bits"),
    ("quantized.tied", "a head that is the packed embedding"),
    ("quantized.mixed", "some modules in 4 bits, some in 8, some plain; linear layers with biases"),
):
    check(_name, _what)(_model(_name))


def _lengths(bits: int) -> Callable[[Candidate], Iterator[Measurement]]:
    """300 tokens beside 129, and one more of each: many rows of a product in the first pass, a few in the second.

    Attention adds nothing here, so a token gets what it gets in any other row, and the truth is found in short ones.
    """

    def run(candidate: Candidate) -> Iterator[Measurement]:
        p, starts, stops = probe(f"quantized.lengths.int{bits}"), (0, 171), (300, 301)
        ids, mask = TEXTS[:2, : stops[-1]], np.ones((2, stops[0]), np.int64)
        mask[1, : starts[1]] = 0
        short = candidate.oracle(p, ids.reshape(-1, 14))["logits"]
        wanted = Expected(*(part.reshape(2, stops[-1], -1) for part in (short.wanted, short.bound)))
        first = candidate.forward(p, ids[:, :300], attention_mask=mask, use_cache=True)
        second = candidate.forward(p, ids[:, 300:], past_key_values=first.past_key_values)
        for begin, output in ((0, first), (300, second)):
            found = candidate.read(p, output)["logits"]
            for index, start in enumerate(starts):
                since = max(begin, start)
                here = wanted[index, since : begin + found.shape[1]]
                yield compare(found[index, since - begin :], here, f"logits[{index}, {since}:]")

    return run


def _wide(bits: int) -> Callable[[Candidate], Iterator[Measurement]]:
    return lambda candidate: _products(candidate, probe(f"quantized.wide.int{bits}"), (MANY, ONE))


for _bits in BITS:
    check(
        f"quantized.lengths.int{_bits}",
        f"a layer packed into {_bits} bits: rows of 300 and 129 tokens in one batch, and one more token of each",
        thorough=_bits not in KERNELS,
    )(_lengths(_bits))
    check(
        f"quantized.wide.int{_bits}",
        f"a product of {WIDE} inputs with weights packed into {_bits} bits: a row and many",
        thorough=_bits not in KERNELS,
    )(_wide(_bits))


@check("quantized.cached", "a quantized model, in chunks and token by token")
def quantized_cached(candidate: Candidate) -> Iterator[Measurement]:
    return cached(candidate, probe("quantized.int4"), (7, 8, 30))


@check("quantized.adapted", "LoRA and DoRA beside packed weights, the embedding's and the head's too")
def quantized_adapted(candidate: Candidate) -> Measurement:
    p = probe("quantized.adapted")
    return compare(candidate.run(p, ONE)["logits"], candidate.oracle(p, ONE)["logits"], "logits")


@check("quantized.state", "packed weights come back bit for bit, as 32-bit words", each_dtype=False)
def quantized_state(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("quantized.mixed")
    model = candidate.realize(p, candidate.dtype)
    candidate.forward(p, ONE)  # a backend may repack when it first multiplies
    stored = {info.name: (info, read) for info, read in model.state()}
    for parameter in p.graph.parameters():
        if parameter.name not in stored:
            yield failure(f"{parameter.name} does not come back")
            continue
        info, read = stored[parameter.name]
        array = read()
        if info.dtype != array.dtype.name or (parameter.bits and info.dtype != "uint32"):
            yield failure(f"{parameter.name} comes back as {array.dtype}, announced as {info.dtype}")
            continue
        wanted = p.weights[parameter.name]
        if not parameter.bits:
            wanted = wanted.astype(numpy_dtype(info.dtype)).astype(np.float64)
        yield equal(array.astype(np.float64), wanted, parameter.name)
