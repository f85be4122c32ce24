"""The truth: the spec running itself in float64, with the bound that a dtype's rounding puts around every element."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.forward.arguments import ForwardArguments
from ..core.forward.forward import Engine
from ..core.forward.spec_model import SpecModel
from .rounding import Expected, Precision, RoundingContext, expected

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..core.tasks.outputs import ModelOutput
    from .probes import Probe

    Floats = NDArray[np.float64]

RUNS = 8
"""Disturbed runs beside the exact one; they go through the spec as one batch."""

_BATCHED = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")


def as_is(array: Any) -> Any:
    """NumPy in, NumPy out."""
    return array


def spec_model(probe: Probe, context: Any = None) -> SpecModel:
    """The spec of a probe in NumPy float64."""
    import numpy as xp

    engine = Engine(xp, probe.weights, as_frequencies=lambda f: f.astype(np.float64), to_host=as_is)
    if context is not None:
        engine.context = context
    return SpecModel(
        probe.graph,
        probe.config,
        probe.task,
        engine,
        dtype="float64",
        stored_dtype="float64",
        device="cpu",
        as_array=as_is,
        to_numpy=as_is,
    )


class Oracle:
    """Expected results for one precision; those of a probe's inputs are computed once per process.

    Args:
        element: what keys and values are rounded to when they are stored; ``None`` for the dtype itself.
    """

    def __init__(self, precision: Precision, element: str | None = None) -> None:
        self.precision, self.element = precision, element
        self._known: dict[Any, Mapping[str, Any]] = {}

    def __call__(self, probe: Probe, input_ids: Any = None, **inputs: Any) -> Mapping[str, Any]:
        """Every output field as :class:`Expected`; tuples of them for hidden states and attentions."""
        if input_ids is not None:
            inputs["input_ids"] = input_ids
        # The probe itself is part of the key, not its id: a task's probe may be made anew at the same address.
        key = (probe, *((name, hashable(value)) for name, value in sorted(inputs.items())))
        if key not in self._known:
            self._known[key] = self._compute(probe, inputs)
        return self._known[key]

    def logits(self, probe: Probe, row: Any) -> Expected:
        """Logits ``[S, V]`` of one row of ids, alone and in one pass."""
        found: Expected = self(probe, np.asarray(row)[None])["logits"]
        return found[0]

    def layer(self, probe: Probe, index: int, x: Floats) -> Expected:
        """One decoder layer on `x` ``[B, S, E]``, which is exact."""
        import numpy as xp

        batch, length, _ = x.shape
        ctx = RoundingContext(
            xp,
            probe.weights,
            np.arange(length)[None],
            lambda rope: rope.row_frequencies().astype(np.float64),
            precision=self.precision,
            exact=batch,
        )
        y = ctx.run(probe.graph.decoder.layers[index], np.concatenate([x] * (1 + RUNS)))
        return self._split(y, batch)

    def _compute(self, probe: Probe, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        batch = len(inputs.get("input_ids", inputs.get("inputs_embeds", ())))
        if any(name in inputs for name in probe.task.labels):
            # A loss is one number for the whole batch: one run after the other.
            runs = [self._run(probe, inputs, exact=batch if seed < 0 else 0, seed=seed) for seed in range(-1, RUNS)]
            fields = [_fields(run) for run in runs]
            return {
                name: expected(value, np.stack([f[name] for f in fields[1:]]), self.precision)
                for name, value in fields[0].items()
                if not isinstance(value, tuple)
            }
        tiled = {
            name: np.concatenate([np.asarray(value)] * (1 + RUNS))
            if name in _BATCHED and len(value) == batch
            else value
            for name, value in inputs.items()
        }
        output = _fields(self._run(probe, tiled, exact=batch, seed=0))
        return {
            name: tuple(self._split(item, batch) for item in value)
            if isinstance(value, tuple)
            else self._split(value, batch)
            for name, value in output.items()
        }

    def _run(self, probe: Probe, inputs: Mapping[str, Any], *, exact: int, seed: int) -> ModelOutput:
        context = functools.partial(
            RoundingContext, precision=self.precision, exact=exact, seed=seed + 1, element=self.element
        )
        return spec_model(probe, context).forward(ForwardArguments.of(probe.task, **inputs))

    def _split(self, y: Any, batch: int) -> Expected:
        runs = np.reshape(y, (1 + RUNS, batch, *y.shape[1:]))
        return expected(runs[0], runs[1:], self.precision)


def _fields(output: ModelOutput) -> dict[str, Any]:
    return {name: value for name, value in output.items() if name != "past_key_values"}


def hashable(value: Any) -> Any:
    """A value of an input as part of a key: an array by its shape, dtype and bytes."""
    if isinstance(value, bool | int | float | str):
        return value
    array = np.asarray(value)
    return array.shape, str(array.dtype), array.tobytes()


@functools.cache
def oracle(dtype: str, element: str | None = None) -> Oracle:
    """The oracle for a dtype, and for keys and values that are stored as `element`."""
    return Oracle(Precision.of(dtype), element)
