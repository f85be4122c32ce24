"""More sabotaged backends: what only long texts, picked rows, masks after a cache or a second pass bring to light."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from polyllama.cli.main import main
from polyllama.core.errors import InputError
from polyllama.core.forward.arguments import ForwardArguments
from polyllama.core.forward.spec_model import SpecModel
from polyllama.core.graph.cache import ConcatenatingCache
from polyllama.core.graph.node import Context
from polyllama.testing import certify
from polyllama.testing.candidate import Candidate
from polyllama.testing.catalogue import all_checks
from polyllama.testing.certificate import select_checks
from polyllama.testing.checks import run_check
from polyllama.testing.probes import IDS, probe
from sabotage import SpecBackend, model_with, outcome

ROOT = Path(__file__).resolve().parents[2]


class DropsAlways(Context):
    """Dropout outside training."""

    def dropout(self, x: Any, p: float) -> Any:
        return x * (np.random.default_rng(0).random(x.shape) > p) if p else x


class ClampedTable(Context):
    """A table of rotations as long as max_position_embeddings, read at its end for everything beyond."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.positions = np.minimum(self.positions, 63)


class TablesOfAll(Context):
    """Rotations remembered by shape and position, whichever model they are of."""

    tables: ClassVar[dict[Any, Any]] = {}

    def rotary(self, rope: Any) -> Any:
        key = rope.rotary_dim, np.asarray(self.positions).tobytes()
        return self.tables.setdefault(key, super().rotary(rope))


class GrowsEmpty(ConcatenatingCache):
    """A new buffer at 256 slots, to which nothing is copied."""

    def update(self, name: str, keys: Any, values: Any) -> Any:
        keys, values = super().update(name, keys, values)
        if self.length and (keys.shape[2] - 1) // 256 != (self.length - 1) // 256:
            keys = np.concatenate([np.zeros_like(keys[:, :, : self.length]), keys[:, :, self.length :]], axis=2)
            self.entries[name] = keys, values
        return keys, values


class KeepsTheMask(ConcatenatingCache):
    """select_rows takes rows of everything but the mask."""

    def select_rows(self, rows: Any) -> Any:
        chosen = super().select_rows(rows)
        chosen.mask = None if self.mask is None else self.mask[np.arange(len(rows)) % self.batch]
        return chosen


class KeepsTheInputs(ConcatenatingCache):
    """select_rows takes rows of everything but the inputs that a length-dependent RoPE starts over from."""

    def select_rows(self, rows: Any) -> Any:
        chosen = super().select_rows(rows)
        if chosen.history is not None and self.history is not None:
            same = np.arange(len(rows)) % self.batch
            chosen.history = dataclasses.replace(chosen.history, embeds=self.history.embeds[same])
        return chosen


class Changed(SpecModel):
    """Changes the inputs of each pass, then its output."""

    def forward(self, arguments: ForwardArguments) -> Any:
        given = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(arguments)}
        given = {name: value for name, value in given.items() if value is not None}
        return self.after(super().forward(ForwardArguments(**self.before(dict(given)))), given)

    def before(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs

    def after(self, output: Any, inputs: Mapping[str, Any]) -> Any:
        return output


class NeverPacked(Changed):
    """Positions that start anew begin no other text."""

    def before(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs.get("position_ids") is not None and not {"attention_mask", "past_key_values"} & set(inputs):
            length = np.shape(inputs["position_ids"])[-1]
            inputs["attention_mask"] = np.tril(np.ones((1, 1, length, length), int))
        return inputs


class IgnoresTheAdditive(Changed):
    """A mask of floats is no mask."""

    def before(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if np.asarray(inputs.get("attention_mask")).dtype.kind == "f":
            del inputs["attention_mask"]
        return inputs


class ForgetsTheMaskAfterACache(Changed):
    """Who looks at whom is told in the first pass or never."""

    def before(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs.get("past_key_values") is not None and np.ndim(inputs.get("attention_mask")) == 4:
            del inputs["attention_mask"]
        return inputs


class EmbedsWithoutTheCache(Changed):
    """Embeddings are always a whole text."""

    def before(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs.get("inputs_embeds") is not None:
            inputs.pop("past_key_values", None)
        return inputs


class KeepsTheFirstOfThePadded(Changed):
    """logits_to_keep counts from the wrong end where there is a mask or a cache."""

    def before(self, inputs: dict[str, Any]) -> dict[str, Any]:
        keep = inputs.get("logits_to_keep", 0)
        if isinstance(keep, int) and keep and {"attention_mask", "past_key_values"} & set(inputs):
            inputs["logits_to_keep"] = np.arange(min(keep, np.shape(inputs["input_ids"])[1]))
        return inputs


class AllSlots(Changed):
    """Probabilities over all slots of a static cache, also those that hold nothing."""

    def after(self, output: Any, inputs: Mapping[str, Any]) -> Any:
        if inputs.get("past_key_values") is not None and output.attentions:
            output.attentions = tuple(np.pad(part, [(0, 0)] * 3 + [(0, 4)]) for part in output.attentions)
        return output


class OneBuffer(Changed):
    """Every pass of a shape writes its logits into the same memory."""

    def after(self, output: Any, inputs: Mapping[str, Any]) -> Any:
        if "logits" in output:
            buffers = self.__dict__.setdefault("buffers", {})
            buffer = buffers.setdefault(output.logits.shape, np.empty_like(output.logits))
            buffer[...] = output.logits
            output.logits = buffer
        return output


class Clobbers(Changed):
    """Works in the memory of its inputs."""

    def after(self, output: Any, inputs: Mapping[str, Any]) -> Any:
        for value in inputs.values():
            if isinstance(value, np.ndarray):
                value[...] = 0
        return output


class LosesATokenOnError(SpecModel):
    def forward(self, arguments: ForwardArguments) -> Any:
        try:
            return super().forward(arguments)
        except InputError:
            if arguments.past_key_values is not None:
                arguments.past_key_values.length -= 1
            raise


class TakesAnything(Changed):
    """A number of items of 0 is dropped."""

    def before(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in inputs.items() if name != "loss_options"}


SABOTAGE: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...], str]] = {
    # what is broken -> how, the checks that must fail, and one that must still pass
    "dropout always": ({"context": DropsAlways}, ("attention.dropout",), "attention.mha"),
    "positions clamped": ({"context": ClampedTable}, ("positions.large", "cache.long"), "positions.explicit"),
    "tables of all models": ({"context": TablesOfAll}, ("weights.independent",), "attention.mha"),
    "cache grows empty": ({"model": model_with(GrowsEmpty)}, ("cache.long",), "cache.capacity"),
    "mask not picked": ({"model": model_with(KeepsTheMask)}, ("cache.select_rows.padded",), "cache.select_rows"),
    "inputs not picked": (
        {"model": model_with(KeepsTheInputs)},
        ("rope.dynamic.rows", "rope.longrope.rows"),
        "cache.select_rows",
    ),
    "positions never pack": ({"model": NeverPacked}, ("positions.packed",), "mask.packed"),
    "additive mask ignored": ({"model": IgnoresTheAdditive}, ("mask.additive",), "mask.packed"),
    "mask after a cache ignored": ({"model": ForgetsTheMaskAfterACache}, ("mask.cached",), "mask.packed"),
    "embeddings without a cache": ({"model": EmbedsWithoutTheCache}, ("inputs.embeds.cached",), "inputs.embeds"),
    "keeps the first": (
        {"model": KeepsTheFirstOfThePadded},
        ("output.logits_to_keep.cached",),
        "mask.packed",
    ),
    "probabilities of all slots": ({"model": AllSlots}, ("output.cached",), "node.attention.probabilities"),
    "one output buffer": ({"model": OneBuffer}, ("output.kept",), "attention.mha"),
    "inputs overwritten": ({"model": Clobbers}, ("inputs.untouched",), "attention.mha"),
    "cache changed by an error": ({"model": LosesATokenOnError}, ("cache.refused",), "cache.step"),
    "takes anything": ({"model": TakesAnything}, ("errors.num_items",), "errors.no_input"),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_sabotage_is_caught_by_the_check_that_names_it(what: str) -> None:
    broken, caught_by, still_right = SABOTAGE[what]
    TablesOfAll.tables.clear()
    for check in caught_by:
        result = outcome(SpecBackend(**broken), check)
        assert result.status == "failed", result
        assert np.isinf(result.error) or result.error > 2 * result.bound
    assert outcome(SpecBackend(**broken), still_right).status == "passed"


def test_every_sabotaged_path_is_right_without_the_sabotage() -> None:
    candidate = Candidate(SpecBackend(), "float32")
    checks = sorted({check for _, caught_by, _ in SABOTAGE.values() for check in caught_by})
    results = [run_check(all_checks()[check], candidate) for check in checks]
    assert [str(r) for r in results if r.status != "passed"] == []


def test_a_backend_that_overwrites_its_inputs_does_not_spoil_the_kit() -> None:
    """What later checks and later backends start from stays what it was."""
    before = IDS.copy()
    candidate = Candidate(SpecBackend(model=Clobbers), "float32")
    candidate.forward(probe("plain"), IDS, attention_mask=np.ones_like(IDS))
    assert (before == IDS).all()
    with pytest.raises(ValueError, match="read-only"):
        IDS[0, 0] = 1


# ---- what a certificate says of itself -------------------------------------------------------------------------------


def test_a_certificate_of_a_part_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    backend = SpecBackend(("float32", "float64"))
    part = certify(backend, dtypes=["float32", "float32"], only=["errors.empty", "node.linear"])
    assert part.dtypes == ("float32",) and len(part.results) == 2 and not part.complete
    data = part.to_dict()
    assert (data["passed"], data["complete"], data["declared_dtypes"]) == (True, False, ["float32", "float64"])
    assert dataclasses.replace(part, selection=(), dtypes=part.declared).complete
    assert not dataclasses.replace(part, selection=()).complete
    assert main(["certify", "reference", "--only", "node.linear"]) == 0
    assert "passes: 2 checks, a part of what it declares" in capsys.readouterr().out


def test_skipped_checks_are_not_counted_as_passed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dtype", "float64", "--only", "gradients.base", "--only", "node.linear"]
    assert main(["certify", "reference", *arguments]) == 0
    text = capsys.readouterr().out
    assert "passes: 1 check, a part" in text
    assert "gradients.base [float64] skipped: the backend does not declare that it trains\n" in text


def test_certificates_of_a_part_are_not_put_into_the_table(tmp_path: Path) -> None:
    import runpy

    file = tmp_path / "part.json"
    certify(SpecBackend(), only=["errors.empty"]).write(file)
    table = runpy.run_path(str(ROOT / "tools" / "backend_table.py"))
    with pytest.raises(SystemExit, match="covers only a part"):
        table["main"]([str(file), "--check"])


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "certificates").glob("*.json")), ids=lambda file: file.stem)
def test_the_published_certificates_are_of_this_kit(file: Path) -> None:
    """Every check of a whole run now, in the first dtype; else the page shows what an older kit found."""
    data = json.loads(file.read_text(encoding="utf-8"))
    tried = {entry["check"] for entry in data["checks"] if entry["dtype"] == data["dtypes"][0]}
    checks = select_checks((), thorough=data.get("thorough", False))
    own = {check.name for check in checks if check.group != "task"}
    assert data["passed"] and data["complete"]
    assert own <= tried, sorted(own - tried)


def test_the_folder_is_looked_for_before_anything_is_tried(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "x.json"
    assert main(["certify", "reference", "--json", str(file)]) == 1
    said = capsys.readouterr()
    assert said.err == f"error: --json {file}: there is no folder {file.parent}; make it first\n" and not said.out
