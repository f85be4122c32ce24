"""Gradients of every task head, held to the slopes of the float64 spec; for backends that declare ``trains = True``.

A slope is a central difference along a random direction, one for each kind of parameter (all ``q_proj`` weights
together). Its bound comes from the spec, as the others do: the difference is taken once more on runs with a rounding
error at every place where a backend rounds, the same on both sides, and the spread of those slopes is what rounding
does to a gradient on the way forward. The way back has about twice as many products, so the variance counts three
times. The differences themselves are off by what two steps of different length disagree on, and by the rounding of the
spec's own float64, divided by the step.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.backend.training import Trains
from ..core.forward.arguments import ForwardArguments
from .candidate import Candidate
from .checks import Check, Skipped
from .checks_models import left_padded
from .checks_tasks import has_loss, passes, probe_of, untried
from .measure import Measurement, failure
from .oracle import RUNS, spec_model
from .probes import IDS, Probe, make
from .rounding import LAMBDA, UNIT_ROUNDOFF, Precision, RoundingContext

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..core.tasks.outputs import ModelOutput

    Floats = NDArray[np.float64]

LENGTH = 10
STEP = 2e-4
"""Of a direction that is as large as the parameters it moves."""


def measure(xp: Any, output: ModelOutput) -> Any:
    """The loss; without one, a number that every output has a part in."""
    if output.loss is not None:
        return output.loss
    fields = [value for name, value in output.items() if name not in ("past_key_values", "hidden_states", "attentions")]
    return functools.reduce(lambda total, field: total + field, [xp.mean(field * field * field) for field in fields])


def gradient_checks() -> dict[str, Check]:
    """A check for each installed task head, and one for a model with every part that a config may ask for."""
    from ..core.plugin_system.manager import plugin_manager

    found = {}
    whole = "gradients of a model with grouped heads, biases and tied weights"
    found["gradients.model"] = Check("gradients.model", whole, _runner(_everything))
    for name, descriptor in plugin_manager().tasks().items():
        summary = f"gradients of task {name!r}, of its loss for each form of labels it takes"
        probes = functools.partial(_of_task, name, descriptor.load)
        found[f"gradients.{name}"] = Check(f"gradients.{name}", summary, _runner(probes))
    return found


def _of_task(name: str, load: Callable[[], Any]) -> list[Probe]:
    several, single = probe_of(name, load), probe_of(name, load, 1)
    return [several] if several.graph == single.graph else [several, single]


@functools.cache
def _everything() -> list[Probe]:
    fields: dict[str, Any] = {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
    return [make("gradients.model", num_key_value_heads=2, **fields)]


def _runner(probes: Callable[[], list[Probe]]) -> Callable[[Candidate], Iterator[Measurement]]:
    def run(candidate: Candidate) -> Iterator[Measurement]:
        if not getattr(candidate.backend, "trains", False):
            raise Skipped("the backend does not declare that it trains")
        if candidate.dtype not in ("float32", "float64"):
            raise Skipped("gradients are held to float32's and float64's bounds only")
        tried = [(probe, inputs) for probe in probes() for inputs in _inputs(probe)]
        if not tried:
            raise Skipped(untried(probes()[0]))
        for probe, inputs in tried:
            yield from _slopes_of(candidate, probe, inputs)

    return run


def _inputs(probe: Probe) -> list[dict[str, Any]]:
    """Ids with labels of each kind that the task takes, padded on the left where nothing at a padding counts."""
    ids, mask = left_padded([IDS[0][:LENGTH], IDS[1][: LENGTH - 3]], LENGTH)
    padded = {"input_ids": ids, "attention_mask": mask}
    if probe.name == "gradients.model":
        # A padding predicts the first token of its row's text, which is nobody's business.
        ignored = np.roll(mask, 1, axis=1) * mask == 0
        return [padded | {"labels": np.where(ignored, -100, ids)}]
    plain: dict[str, Any] = {"input_ids": IDS[:2, :LENGTH]}
    inputs = padded if probe.task.outputs_per == "row" else plain
    if not has_loss(probe):
        return [inputs]
    if list(probe.task.examples(probe.config)):
        return list(passes(probe))
    found: dict[Any, dict[str, Any]] = {}
    for given in passes(probe, plain["input_ids"]):
        labels = {name: value for name, value in given.items() if name in probe.task.labels}
        found.setdefault(tuple(value.dtype.kind for value in labels.values()), inputs | labels)
    if probe.config.num_labels == 1:  # the number of the only label says nothing: values alone
        return [given for kinds, given in found.items() if set(kinds) == {"f"}]
    return list(found.values())


def _slopes_of(candidate: Candidate, probe: Probe, inputs: Mapping[str, Any]) -> Iterator[Measurement]:
    model = candidate.model(probe)
    if not isinstance(model, Trains):
        yield failure("the backend declares that it trains, and its model has no value_and_gradients")
        return
    _, gradients = model.value_and_gradients(measure, ForwardArguments.of(probe.task, **inputs))
    for name, values in probe.weights.items():
        if name not in gradients:
            yield failure(f"no gradient of {name}")
            return
        if tuple(gradients[name].shape) != values.shape:
            yield failure(f"the gradient of {name} has shape {list(gradients[name].shape)}, not {list(values.shape)}")
            return
    found = {name: candidate.to_float64(model, gradients[name]) for name in probe.weights}
    key = tuple((name, value.tobytes(), str(value.dtype), value.shape) for name, value in sorted(inputs.items()))
    wanted = _wanted(probe, key)
    scale = max(abs(slope.value) for slope in wanted.values())
    for kind, slope in wanted.items():
        here = sum(float(np.sum(found[name] * step)) for name, step in slope.way.items())
        if not np.isfinite(here):
            yield failure(f"the gradient of {kind} is {here}")
            continue
        detail = f"slope along {kind}: {here:.9g}, wanted {slope.value:.9g}"
        yield Measurement(abs(here - slope.value) / scale, slope.bound(candidate.dtype) / scale, detail)


@dataclass(frozen=True)
class _Slope:
    """A direction, the slope along it, how far finite differences may be off, and float32's rounding."""

    way: Mapping[str, Floats]
    value: float
    finite: float
    rounding: float

    def bound(self, dtype: str) -> float:
        return self.finite + LAMBDA * self.rounding * UNIT_ROUNDOFF[dtype] / UNIT_ROUNDOFF["float32"]


@functools.cache
def _wanted(probe: Probe, key: Any) -> dict[str, _Slope]:
    """The slope along a direction for each kind of parameter; once per process for all backends and dtypes."""
    inputs = {name: np.frombuffer(data, kind).reshape(shape) for name, data, kind, shape in key}
    found = {}
    for number, (kind, way) in enumerate(_directions(probe).items()):
        value = functools.partial(_value, probe, inputs, way)
        values = {step: value(step * STEP) for step in (-4, -2, -1, 1, 2, 4)}
        near, middle, far = ((values[n] - values[-n]) / (2 * n * STEP) for n in (1, 2, 4))
        # Differences of fourth order; the error of the longer is some sixteen times that of the shorter.
        slope, longer = (4 * near - middle) / 3, (4 * middle - far) / 3
        slopes, heights = [], []
        for run in range(RUNS):
            after, before = (value(n * STEP, seed=1 + run + RUNS * number) for n in (1, -1))
            slopes.append((after - before) / (2 * STEP) - near)
            heights.append(after - values[1])
        own = LAMBDA * _rms(heights) / STEP * UNIT_ROUNDOFF["float64"] / UNIT_ROUNDOFF["float32"]
        found[kind] = _Slope(way, slope, abs(slope - longer) + own, 3**0.5 * _rms(slopes))
    return found


def _rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _directions(probe: Probe) -> dict[str, dict[str, Floats]]:
    """Plus or minus the size of the parameters themselves, for each kind of parameter in all layers at once."""
    rng = np.random.default_rng(9)
    found: dict[str, dict[str, Floats]] = {}
    for name, values in probe.weights.items():
        kind = re.sub(r"\.\d+\.", ".*.", name)
        size = np.sqrt(np.mean(values**2)) or 1.0
        found.setdefault(kind, {})[name] = size * rng.choice([-1.0, 1.0], values.shape)
    return found


def _value(
    probe: Probe, inputs: Mapping[str, Any], way: Mapping[str, Floats], step: float, *, seed: int | None = None
) -> float:
    """The spec's measure with parameters moved by `step` along `way`; with a `seed`, rounded as float32 would be."""
    moved = {name: values + step * way[name] if name in way else values for name, values in probe.weights.items()}
    context = None
    if seed is not None:
        context = functools.partial(RoundingContext, precision=Precision.of("float32"), exact=0, seed=seed)
    output = spec_model(replace(probe, weights=moved), context).forward(ForwardArguments.of(probe.task, **inputs))
    return float(measure(np, output))
