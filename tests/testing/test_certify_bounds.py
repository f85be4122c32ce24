"""The conformance kit's bounds: right backends keep them, and they are as tight as arithmetic has them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from polyllama.core.errors import UnsupportedError
from polyllama.testing import certify
from polyllama.testing.certificate import select_checks
from polyllama.testing.measure import Measurement, worst
from polyllama.testing.oracle import oracle, spec_model
from polyllama.testing.probes import IDS, WIDE, on_grid, probe
from polyllama.testing.rounding import LAMBDA, UNIT_ROUNDOFF, Precision
from sabotage import SpecBackend, outcome
from tiny_models import forward

ROUNDINGS = 2 * 20 + 3
"""On the way of an element through two layers of 20 roundings and the final norm and head: the table of rounding.py."""

LARGEST_SCORE = 1.5**2 * 4
"""Queries and keys have a gain of 1.5, and the largest of some thousand normal numbers is at four deviations. A score
that is off by two roundings of its own size moves a probability by as much, relative to it."""

SAMPLED = 2.0
"""The mean of eight squares exceeds four times the variance once in some thousand elements (chi squared)."""

PASSED_ON = 1.5
"""What an error grows to on its way, beside the largest result: see the test of it below."""

CEILING = LAMBDA * SAMPLED * PASSED_ON * math.sqrt(ROUNDINGS + 2 * 2 * LARGEST_SCORE**2)
"""Above all bounds that are measured on the spec, in units of roundoff: some 350."""

WIDE_CEILING = LAMBDA * WIDE * 2 / math.pi
"""Above that of a product of n inputs by its formula, ``lambda sqrt(n) |x| |w|``, which is ``n 2 / pi`` for numbers of
deviation 1 over a result of ``sqrt(n)``."""


def test_an_error_of_the_embeddings_is_passed_on_as_the_ceiling_has_it() -> None:
    """In float64 and far above its noise, so it depends on no library: median over the models that are whole."""
    passed_on = []
    for name in ("attention.mha", "attention.gqa", "attention.mqa", "mlp.biases", "weights.tied", "lengths", "odd"):
        p, rng, step = probe(name), np.random.default_rng(0), 2.0**-24
        model, x = spec_model(p), p.weights["model.embed_tokens.weight"][IDS[:2]]
        exact = forward(model, inputs_embeds=x)["logits"]
        moved = [x * (1 + step * rng.choice([-1, 1], x.shape)) for _ in range(8)]
        spread = np.sqrt(np.mean([(forward(model, inputs_embeds=m)["logits"] - exact) ** 2 for m in moved], axis=0))
        passed_on.append(spread.max() / step / np.abs(exact).max())
    assert PASSED_ON / 1.5 < np.median(passed_on) < PASSED_ON


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "dtypes"),
    # jax compiles a program for every check, so here in one dtype; its certificate in docs/ covers all three.
    [
        ("reference", None),
        ("torch", None),
        ("mlx:cpu", None),
        pytest.param("jax:cpu", ["float32"], marks=pytest.mark.optimized_jax),
    ],
)
def test_right_backends_pass_and_bounds_are_tight(name: str, dtypes: list[str] | None) -> None:
    """And no bound comes near the result itself, else nothing could fail it."""
    pytest.importorskip({"mlx:cpu": "mlx.core", "jax:cpu": "jax"}.get(name, "numpy"))
    certificate = certify(name, dtypes=dtypes)
    assert [str(r) for r in certificate.failed] == []
    assert certificate.passed and certificate.device == "cpu"
    assert {r.dtype for r in certificate.results} == set(certificate.dtypes)
    assert {r.check for r in certificate.results} == {check.name for check in select_checks(())}
    for result in certificate.results:
        if result.check.startswith("gradients."):
            # Forward and back again; in float64 what finite differences can tell.
            assert result.bound <= max(1000 * UNIT_ROUNDOFF[result.dtype], 1e-8), result
            assert (result.status == "passed") == (name != "reference" and result.dtype in ("float32", "float64"))
            continue
        # How wide bounds are, whatever was found: the bound that a result reports is that of the element with the worst
        # error, and which that is depends on the library's kernels.
        ceiling = WIDE_CEILING if result.check.startswith("quantized.wide") else CEILING
        assert result.widest <= ceiling * Precision.of(result.dtype).share * UNIT_ROUNDOFF[result.dtype], result
        assert result.typical < 0.25, result


# ---- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_weight_and_input_is_exact_in_every_dtype(dtype: str) -> None:
    from polyllama.core.dtypes import numpy_dtype

    values = on_grid(np.random.default_rng(0).standard_normal(1000) * np.logspace(-6, 6, 1000))
    for array in (values, *probe("plain").weights.values()):
        assert (array.astype(numpy_dtype(dtype)).astype(np.float64) == array).all()
    assert np.count_nonzero(values) > 500


def test_bounds_scale_with_the_unit_roundoff() -> None:
    """Nothing but the dtype is in them: twice the unit roundoff, twice the bound."""
    bounds = {d: oracle(d).logits(probe("plain"), IDS[0]).bound.max() for d in UNIT_ROUNDOFF}
    half = bounds["bfloat16"] / bounds["float16"]
    assert half == pytest.approx(UNIT_ROUNDOFF["bfloat16"] / UNIT_ROUNDOFF["float16"], rel=0.3)
    share = 2.0**0.5  # in float64 the reference rounds too
    double = bounds["float64"] / bounds["float32"] / share
    assert double == pytest.approx(UNIT_ROUNDOFF["float64"] / UNIT_ROUNDOFF["float32"], rel=0.3)


def test_bounds_do_cover_correctly_rounded_arithmetic_closely() -> None:
    """The spec on torch in bfloat16 uses a good part of the bound: a bound ten times wider would be no bound."""
    result = outcome(SpecBackend(("bfloat16",)), "attention.mha", "bfloat16")
    assert result.status == "passed" and result.error > result.bound / 10


def test_a_dtype_without_known_bounds_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no error bounds are known for dtype 'int8'"):
        Precision.of("int8")


def test_a_check_that_measured_nothing_has_failed() -> None:
    assert not worst([]).passed
    assert worst([Measurement(1e-9, 1e-6), Measurement(0.0, 0.0)]).bound == 1e-6
