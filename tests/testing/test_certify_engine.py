"""Sabotaged caches and loops: what only rows that join, leave, guess and come back bring to light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from polyllama.core.backend.batch_invariance import batch_invariant
from polyllama.core.errors import BackendError
from polyllama.core.forward.arguments import ForwardArguments
from polyllama.core.forward.spec_model import SpecModel
from polyllama.core.generation import batch, prefixes
from polyllama.core.generation.kept_texts import KeptTexts
from polyllama.core.generation.request_plan import Prompt
from polyllama.core.generation.sequence import GeneratedSequence
from polyllama.core.graph.cache import Cache, CachedRows, ConcatenatingCache
from polyllama.core.graph.node import Context
from sabotage import SpecBackend, model_with, outcome


class StaleSlot(ConcatenatingCache):
    """The newest slot of a row that joins is the one before it."""

    def _laid(self, arrays: Any, axis: int, room: int = 0) -> Any:
        laid = np.array(super()._laid(arrays, axis, room))
        if axis == 2:
            laid[:, :, -1] = laid[:, :, -2]
        return laid


class NoHoles(ConcatenatingCache):
    """Slots are taken from the first on, whichever are asked for."""

    def _laid(self, arrays: Any, axis: int, room: int = 0) -> Any:
        whole = [(array, type(part)(part.cache, part.rows, np.arange(len(part.slots)))) for array, part in arrays]
        return super()._laid(whole, axis, room)


class MaskOffByOne(ConcatenatingCache):
    """The last of the slots before a shorter row counts as its first."""

    def _assemble(self, parts: Any) -> None:
        super()._assemble(parts)
        if self.mask is not None:
            self.mask = self.mask | np.roll(self.mask, -1, axis=1)


class CutsOneTooFew(ConcatenatingCache):
    """A guess that did not hold is left in, and counts as a position."""

    def crop(self, max_length: int) -> None:
        super().crop(max_length + 1)


class CutsTheWrongEnd(ConcatenatingCache):
    """The count is right, the keys and values are those of the end."""

    def crop(self, max_length: int) -> None:
        cut = self.length - max_length
        super().crop(max_length)
        if cut > 0:
            self.entries = {name: (k[:, :, cut:], v[:, :, cut:]) for name, (k, v) in self.entries.items()}


SABOTAGE: Mapping[type[Cache], tuple[str, ...]] = {
    StaleSlot: ("engine.join", "engine.schedule"),
    NoHoles: ("engine.holes",),
    MaskOffByOne: ("engine.join",),
    CutsOneTooFew: ("engine.truncate",),
    CutsTheWrongEnd: ("engine.truncate",),
}


@pytest.mark.parametrize("broken", SABOTAGE)
def test_broken_caches_are_caught(broken: type[Cache]) -> None:
    for check in SABOTAGE[broken]:
        result = outcome(SpecBackend(model=model_with(broken)), check)
        assert result.status == "failed", result
        assert np.isinf(result.error) or result.error > 2 * result.bound
    assert outcome(SpecBackend(model=model_with(broken)), "cache.step").status == "passed"


def test_a_row_that_comes_back_a_token_late_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(row: GeneratedSequence) -> Prompt:
        return Prompt([*row.prompt.ids, *row.token_ids[:-1]], row.prompt.embeds, row.prompt.counted)

    assert outcome(SpecBackend(), "engine.schedule").status == "passed"
    monkeypatch.setattr(GeneratedSequence, "to_run", property(late))
    assert outcome(SpecBackend(), "engine.schedule").status == "failed"


def test_another_texts_beginning_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """One token more than two texts have in common; and the keys of another text altogether."""
    right = prefixes.common
    monkeypatch.setattr(
        prefixes, "common", lambda first, second: min(right(first, second) + 1, len(second), len(first))
    )
    assert outcome(SpecBackend(), "engine.schedule").status == "failed"
    monkeypatch.setattr(prefixes, "common", lambda *texts: min(map(len, texts)))
    assert outcome(SpecBackend(), "engine.schedule").status == "failed"


def test_caches_whose_rows_stay_are_no_failure() -> None:
    class Stays(ConcatenatingCache):
        joins = False

    for check in ("engine.join", "engine.holes", "engine.truncate", "engine.schedule"):
        result = outcome(SpecBackend(model=model_with(Stays)), check)
        assert (result.status, result.detail) == ("skipped", "rows of its caches do not join others")


class NobodyHasOne(SpecModel):
    """Which adapter a row has never reaches the pass."""

    def forward(self, arguments: ForwardArguments) -> Any:
        return super().forward(replace(arguments, adapter_rows=None))


class AllHaveTheFirsts(SpecModel):
    """All rows have the first one's adapter."""

    def forward(self, arguments: ForwardArguments) -> Any:
        rows = arguments.adapter_rows
        return super().forward(replace(arguments, adapter_rows=None if rows is None else rows * 0 + rows[0]))


class Shifted(Context):
    """The columns of adapters begin one too late."""

    def of_own_adapters(self, x: Any, ranks: tuple[int, ...]) -> Any:
        return super().of_own_adapters(x, (ranks[0] + 1, ranks[1] - 1) if ranks[1] else ranks)


class Ungated(Context):
    """Every row has what all adapters add together."""

    def of_own_adapters(self, x: Any, ranks: tuple[int, ...]) -> Any:
        return x


@pytest.mark.parametrize(
    "broken", [{"model": NobodyHasOne}, {"model": AllHaveTheFirsts}, {"context": Shifted}, {"context": Ungated}]
)
def test_anothers_adapter_is_caught(broken: dict[str, Any]) -> None:
    assert outcome(SpecBackend(), "engine.adapters").status == "passed"
    result = outcome(SpecBackend(**broken), "engine.adapters")
    assert result.status == "failed" and result.error > 2 * result.bound


def test_what_was_run_with_another_adapter_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The beginning of a text that ran with another adapter; and one prompt of two adapters, run once for both."""
    check, right = "engine.adapters.schedule", KeptTexts.find
    assert outcome(SpecBackend(), check).status == "passed"
    with monkeypatch.context() as patch:
        patch.setattr(KeptTexts, "find", lambda texts, prompt: right(texts, replace(prompt, adapter="first")))
        result = outcome(SpecBackend(), check)
        assert result.status == "failed" and result.error > 2 * result.bound
    with monkeypatch.context() as patch:
        patch.setattr(batch, "_key", lambda prompt: tuple(prompt.ids))
        result = outcome(SpecBackend(), check)
        assert result.status == "failed" and result.error > 2 * result.bound


def test_a_row_that_comes_back_without_its_adapter_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Any = GeneratedSequence.to_run
    bare = property(lambda row: replace(right.fget(row), adapter=row.prompt.adapter if not row.token_ids else None))
    monkeypatch.setattr(GeneratedSequence, "to_run", bare)
    assert outcome(SpecBackend(), "engine.adapters.schedule").status == "failed"


def test_a_backend_whose_rows_have_one_adapter_is_no_failure() -> None:
    class OneForAll(SpecModel):
        adapts_rows = False

    for check in ("engine.adapters", "engine.adapters.schedule"):
        result = outcome(SpecBackend(model=OneForAll), check)
        assert (result.status, result.detail) == ("skipped", "all rows of its batches have the same adapter")


class Lies(SpecModel):
    """Claims bits that a batched product does not keep: with company, each row's sums are taken in another order."""

    batch_invariant = frozenset({"prefill", "decode"})

    def forward(self, arguments: Any) -> Any:
        output = super().forward(arguments)
        if len(output.logits) > 1:
            output.logits = np.nextafter(output.logits, np.float32(np.inf), dtype=output.logits.dtype)
        return output


class LiesOfTokens(Lies):
    """Prompts are as they are claimed, tokens are not."""

    def forward(self, arguments: Any) -> Any:
        return super().forward(arguments) if arguments.new_tokens == 1 else SpecModel.forward(self, arguments)


class LiesOfCaches(SpecModel):
    """The logits are right, and what is kept of other rows' company comes to light a token later."""

    batch_invariant = frozenset({"decode"})

    def forward(self, arguments: Any) -> Any:
        output = super().forward(arguments)
        if len(output.logits) > 1 and arguments.new_tokens > 1:
            held = output.past_key_values.entries
            name, (keys, values) = next(iter(held.items()))
            held[name] = keys, values * np.float32(1 + 2**-20)
        return output


class ByRows(SpecModel):
    """One row after the other: bit by bit the same, however a product of several takes its sums."""

    batch_invariant = frozenset({"prefill", "decode"})

    def forward(self, arguments: Any) -> Any:
        ids, cache = np.asarray(arguments.input_ids), arguments.past_key_values
        caches = [None if cache is None else cache.select_rows([row]) for row in range(len(ids))]
        outputs = [
            super(ByRows, self).forward(replace(arguments, input_ids=ids[[row]], past_key_values=caches[row]))
            for row in range(len(ids))
        ]
        first = outputs[0]
        first.logits = np.concatenate([output.logits for output in outputs])
        parts = [CachedRows(o.past_key_values, [0], np.arange(o.past_key_values.length)) for o in outputs]
        first.past_key_values = type(parts[0].cache).assembled(parts, len(parts[0].slots))
        return first


@pytest.mark.parametrize("lies", [Lies, LiesOfTokens, LiesOfCaches])
def test_claims_of_bits_that_do_not_hold_are_caught(lies: type[SpecModel]) -> None:
    result = outcome(SpecBackend(model=lies), "engine.bitwise")
    assert result.status == "failed", result
    # What rounding alone may do is no error otherwise.
    assert lies is LiesOfCaches or outcome(SpecBackend(model=lies), "engine.join").status == "passed"


def test_claims_of_bits_that_hold_pass_and_none_are_skipped() -> None:
    assert outcome(SpecBackend(model=ByRows), "engine.bitwise").status == "passed"
    result = outcome(SpecBackend(), "engine.bitwise")
    assert (result.status, result.detail) == ("skipped", "it claims nothing bit by bit")


def test_a_claim_of_passes_that_there_are_not_is_an_error() -> None:
    for claim in ({"prefill", "everything"}, "decode"):
        with pytest.raises(BackendError, match=r"batch_invariant claims .*there are: prefill, decode"):
            batch_invariant(type("Claims", (), {"batch_invariant": claim})())
