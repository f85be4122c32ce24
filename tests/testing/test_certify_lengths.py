"""What shows only in long prompts, large sizes, far positions and caches of other element types is caught by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from polyllama.cli.main import main
from polyllama.core.dtypes import numpy_dtype
from polyllama.core.graph.cache import ConcatenatingCache
from polyllama.core.graph.node import Context
from polyllama.core.graph.nodes import GatedMLP, Linear
from polyllama.core.graph.quantized import QuantizedLinear
from polyllama.core.graph.rope import Rope
from polyllama.testing import ConformanceSuite, certify
from polyllama.testing.candidate import Candidate
from polyllama.testing.catalogue import all_checks
from polyllama.testing.certificate import select_checks
from polyllama.testing.checks import run_check
from polyllama.testing.rounding import STORED
from sabotage import SpecBackend, model_with, outcome


def off_by_a_row(block: int) -> Callable[[Any, Any, Context], Any]:
    """Rows beyond the first block are read one row too early."""

    def run(node: Any, x: Any, ctx: Context) -> Any:
        rows = x.reshape(-1, x.shape[-1])
        rows = np.concatenate([rows[:block], rows[block - 1 : -1]]) if len(rows) > block else rows
        return node.apply(ctx.xp, ctx.weights, rows.reshape(x.shape), ctx)

    return run


def forgets_inputs(most: int) -> Callable[[Any, Any, Context], Any]:
    """A product of the first inputs alone."""

    def run(node: Any, x: Any, ctx: Context) -> Any:
        return node.apply(ctx.xp, ctx.weights, np.where(np.arange(x.shape[-1]) < most, x, 0 * x), ctx)

    return run


def few_rows_at_a_time(node: Linear, x: Any, ctx: Context) -> Any:
    """One token of more than 32 rows: the later ones get what the first gets."""
    if x.shape[1] == 1:
        x = np.concatenate([x[:32], np.repeat(x[:1], max(0, len(x) - 32), axis=0)])
    return node.apply(ctx.xp, ctx.weights, x, ctx)


def short_tables(node: Rope, x: Any, ctx: Context) -> Any:
    """Tables of 64 components at most."""
    y, half = node.apply(ctx.xp, ctx.weights, x, ctx), node.rotary_dim // 2
    if half > 32:
        y[..., 32:half], y[..., half + 32 :] = x[..., 32:half], x[..., half + 32 :]
    return y


class SixteenHeads(Context):
    """At one new token, the heads that share a key beyond the first sixteen give nothing."""

    def run(self, node: Any, x: Any) -> Any:
        if getattr(node, "name", "").endswith("o_proj") and x.shape[1] == 1:
            x = np.where(np.arange(x.shape[-1]) < 16 * 8, x, 0 * x)
        return super().run(node, x)


class WideAngles(Context):
    """Angles in float64, of the frequencies that are in float32."""

    def rotary(self, rope: Any) -> Any:
        frequencies = np.asarray(self.frequencies(rope)).astype(np.float64)
        return self.turned(rope, frequencies)

    def turned(self, rope: Any, frequencies: Any) -> Any:
        angles = np.asarray(self.positions)[:, None, :, None] * frequencies[:, None, None, :]
        parts = np.cos(angles) * rope.attention_factor, np.sin(angles) * rope.attention_factor
        return tuple(self.xp.asarray(part.astype(np.float32)) for part in parts)


class WideFrequencies(WideAngles):
    """Frequencies and angles in float64."""

    def rotary(self, rope: Any) -> Any:
        return self.turned(rope, np.asarray(rope.inv_freq, np.float64)[None])


class AttendsToEmptyTiles(Context):
    """A tile of 64 keys, all of them masked, counts as if none were, but for the first."""

    def masked(self, scores: Any) -> Any:
        if self.mask is not None and self.mask.shape[-1] > 128:
            mask, tile = np.array(self.mask), slice(64, 128)
            mask[..., tile] |= ~mask[..., tile].any(axis=-1, keepdims=True) & mask[..., 128:].any(
                axis=-1, keepdims=True
            )
            return self.xp.where(mask, scores, self.xp.asarray(-float("inf"), dtype=scores.dtype))
        return super().masked(scores)


class StoredCache(ConcatenatingCache):
    """Keys and values held as `element`; in int8 every vector has a scale of its own."""

    element = "int8"

    def update(self, name: str, keys: Any, values: Any) -> Any:
        keys, values = super().update(name, keys, values)
        return self.read(keys, "keys"), self.read(values, "values")

    def read(self, x: Any, part: str) -> Any:
        if self.element != "int8":
            return x.astype(numpy_dtype(self.element)).astype(np.float32)
        scales = np.max(np.abs(x), axis=-1, keepdims=True) / np.float32(127)
        return np.rint(x / scales) * self.placed(scales, part)

    def placed(self, scales: Any, part: str) -> Any:
        return scales


class WrongValueScales(StoredCache):
    """From the second tile of 64 slots on, values have the scales of the first."""

    wrong = "values"

    def placed(self, scales: Any, part: str) -> Any:
        return scales[:, :, np.arange(scales.shape[2]) % 64] if part == self.wrong else scales


class WrongKeyScales(WrongValueScales):
    wrong = "keys"


class Coarse(StoredCache):
    """Rounds to bfloat16, whatever was asked for."""

    def read(self, x: Any, part: str) -> Any:
        return x.astype(numpy_dtype("bfloat16")).astype(np.float32)


class Storing(SpecBackend):
    """The spec, with a choice of caches."""

    kv_caches: tuple[str, ...] = STORED

    def realize(self, graph: Any, weights: Any, options: Any, *, config: Any, task: Any) -> Any:
        kind, element = self.broken.get("cache", StoredCache), options.kv_cache
        kind = type("Own", (kind,), {"element": element}) if element != "auto" else ConcatenatingCache
        own = SpecBackend(self.dtypes, **{**self.broken, "model": model_with(kind)})
        return own.realize(graph, weights, options, config=config, task=task)


FAR = ("rope.default.far", "rope.llama3.far", "rope.yarn.far")
QUANTIZED = ("quantized.lengths.int4", "quantized.lengths.int8")

SABOTAGE: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...], str]] = {
    # what is broken -> how, the checks that must fail, and one that must still pass
    "rows beyond 128 of the MLP": (
        {"overrides": {GatedMLP: off_by_a_row(128)}},
        ("lengths.300", "lengths.600", "lengths.chunked", "lengths.edges", "lengths.batch", *QUANTIZED),
        "batch.solo",
    ),
    "rows beyond 256 of a product": (
        {"overrides": {Linear: off_by_a_row(256)}},
        ("lengths.300", "lengths.600", "lengths.chunked", "lengths.edges", "lengths.batch"),
        "batch.solo",
    ),
    "rows beyond 256 of a packed product": (
        {"overrides": {QuantizedLinear: off_by_a_row(256)}},
        QUANTIZED,
        "lengths.600",
    ),
    "rows beyond 512": ({"overrides": {Linear: off_by_a_row(512)}}, ("lengths.600",), "lengths.300"),
    "tiles of padding": ({"context": AttendsToEmptyTiles}, ("lengths.edges",), "padding.left"),
    "rows beyond 32 at one token": ({"overrides": {Linear: few_rows_at_a_time}}, ("lengths.batch",), "batch.solo"),
    "inputs beyond 256": ({"overrides": {Linear: forgets_inputs(256)}}, ("sizes.odd",), "attention.mha"),
    "packed inputs beyond 1024": (
        {"overrides": {QuantizedLinear: forgets_inputs(1024)}},
        ("quantized.wide.int4", "quantized.wide.int8"),
        "quantized.int4",
    ),
    "heads beyond 16 at one token": ({"context": SixteenHeads}, ("attention.heads.32", "sizes.odd"), "attention.gqa"),
    "heads beyond 64 components": (
        {"overrides": {Rope: short_tables}},
        ("attention.head_dim.128",),
        "rope.default.far",
    ),
    "angles in float64": ({"context": WideAngles}, FAR, "rope.default"),
    "frequencies in float64": ({"context": WideFrequencies}, FAR, "rope.default"),
}

CACHES: Mapping[str, tuple[type[StoredCache], tuple[str, ...], str]] = {
    "value scales of another tile": (
        WrongValueScales,
        ("cache.element.int8", "cache.element.int8.rows"),
        "cache.element.float16",
    ),
    "key scales of another tile": (WrongKeyScales, ("cache.element.int8",), "cache.element.float16"),
    "always bfloat16": (Coarse, ("cache.element.float16", "cache.element.float32"), "cache.element.bfloat16"),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_sabotage_is_caught_by_the_check_that_names_it(what: str) -> None:
    broken, caught_by, still_right = SABOTAGE[what]
    for check in caught_by:
        result = outcome(SpecBackend(**broken), check)
        assert result.status == "failed", result
        assert np.isinf(result.error) or result.error > 2 * result.bound
    assert outcome(SpecBackend(**broken), still_right).status == "passed"


@pytest.mark.parametrize("what", CACHES)
def test_a_wrong_cache_is_caught_by_the_check_of_its_element(what: str) -> None:
    kind, caught_by, still_right = CACHES[what]
    for check in caught_by:
        result = outcome(Storing(cache=kind), check)
        assert result.status == "failed" and result.error > 2 * result.bound, result
    assert outcome(Storing(cache=kind), still_right).status == "passed"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("context", [WideAngles, WideFrequencies])
def test_wide_angles_are_caught_in_half_precision(dtype: str, context: type[Context]) -> None:
    assert outcome(SpecBackend((dtype,)), "rope.default.far", dtype).status == "passed"
    assert outcome(SpecBackend((dtype,), context=context), "rope.default.far", dtype).status == "failed"


def test_every_sabotaged_path_is_right_without_the_sabotage() -> None:
    """Caches of every element type among them, with the thorough checks of them."""
    candidate = Candidate(Storing(), "float32")
    names = {c for _, caught_by, _ in SABOTAGE.values() for c in caught_by}
    names |= {name for name in all_checks() if name.startswith("cache.element.")}
    results = [run_check(all_checks()[name], candidate) for name in sorted(names)]
    assert [str(r) for r in results if r.status != "passed"] == []


def test_a_cache_that_is_not_offered_is_skipped_and_an_unknown_one_is_no_pass() -> None:
    class Unknown(Storing):
        kv_caches = ("int8", "float8")

    result = outcome(SpecBackend(), "cache.element.int8")
    assert (result.status, result.detail) == ("skipped", "the backend offers no kv_cache of int8")
    result = outcome(Unknown(), "cache.element.int8")
    assert result.status == "failed" and "offers kv_cache='float8', which no setting can ask for" in result.detail


# ---- thorough --------------------------------------------------------------------------------------------------------


def test_a_right_backend_passes_the_thorough_checks() -> None:
    candidate = Candidate(SpecBackend(), "float32")
    checks = [c for c in all_checks().values() if c.thorough and not c.name.startswith("cache.element.")]
    results = [run_check(check, candidate) for check in checks]
    assert len(results) > 15 and [str(r) for r in results if r.status != "passed"] == []


def test_thorough_checks_are_tried_where_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    usual, all_of_them = ({c.name for c in select_checks((), thorough)} for thorough in (False, True))
    assert all_of_them == set(all_checks()) and all_of_them > usual
    assert {c.name for c in all_checks().values() if c.thorough} == all_of_them - usual
    one = certify(SpecBackend(), only=["attention.heads.17"])
    assert [r.check for r in one.results] == ["attention.heads.17"] and one.passed and not one.thorough
    some = certify(SpecBackend(), only=["attention.heads"], thorough=True)
    assert len(some.results) == 4 and some.passed and some.to_dict()["thorough"]
    assert main(["certify", "reference", "--only", "attention.heads", "--dtype", "float32", "--thorough"]) == 0
    assert "passes: 4 checks, a part of what it declares, further sizes among them," in capsys.readouterr().out
    assert main(["certify", "reference", "--only", "attention.heads", "--list", "--thorough"]) == 0
    assert "attention.heads.17" in capsys.readouterr().out


class TestThorough(ConformanceSuite):
    backend = SpecBackend()
    only = ("attention.heads", "attention.head_dim")
    thorough = True


def test_the_suite_takes_the_thorough_checks_too() -> None:
    taken: list[Any] = []

    class Function:
        fixturenames = ("check", "dtype")

        def parametrize(self, names: Any, cases: Any, ids: Any) -> None:
            taken.extend(ids)

    TestThorough().pytest_generate_tests(Function())
    assert "float32-attention.heads.17" in taken
