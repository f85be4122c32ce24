"""What is in front of the names that a bare model has, and that a strange file cannot make looking for it slow."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest
from polyllama.core.checkpoint import tensor_names
from polyllama.core.checkpoint.protocol import ParameterLike
from polyllama.core.checkpoint.tensor_names import Renaming, find_renaming, plain_names
from polyllama.core.graph.node import Parameter

PARAMETERS = [Parameter(f"model.layers.{n}.mlp.up_proj.weight", (8, 8), "linear") for n in range(3)]


def test_names_of_many_parts_are_looked_at_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    times = []

    def counting(parameters: Sequence[ParameterLike], stored: Collection[str]) -> Renaming:
        times.append(len(stored))
        return find_renaming(parameters, stored)

    monkeypatch.setattr(tensor_names, "find_renaming", counting)
    name = "a." * 2000 + "x"
    assert plain_names(PARAMETERS, [name]) == {name: name} and len(times) < 12


@pytest.mark.parametrize("lead", ["llm.", "a.b.c.d.e.f.g.h."])
def test_what_a_trainer_puts_before_all_names_is_found(lead: str) -> None:
    assert plain_names(PARAMETERS, [lead + p.name for p in PARAMETERS]) == {p.name: lead + p.name for p in PARAMETERS}
