"""Every installed task head, whoever's it is: each output field, and its loss for each usual form of labels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..core.errors import PolyllamaError
from ..core.forward.arguments import ForwardArguments
from ..core.plugin_system.hookspecs import describe_exception
from .candidate import Candidate
from .checks import Check
from .checks_models import left_padded
from .checks_passes import compare_loss
from .measure import Measurement, compare, failure
from .oracle import spec_model
from .probes import IDS, LENGTH, SIZES, Probe, make

ROWS = [IDS[0], IDS[1][:13]]
LABELS = 3


@functools.cache
def probe_of(name: str, loader: Callable[[], Any], labels: int = LABELS) -> Probe:
    from ..core.loading.tasks import instantiate

    return make(f"task.{name}", instantiate(loader()), num_labels=labels)


def task_checks() -> dict[str, Check]:
    """A check for each installed task head."""
    from ..core.plugin_system.manager import plugin_manager

    found = {}
    for name, descriptor in plugin_manager().tasks().items():
        summary = f"task {name!r}: every output field, and its loss for each form of labels it takes"
        found[f"task.{name}"] = Check(f"task.{name}", summary, _runner(name, descriptor.load))
    return found


def _runner(name: str, load: Callable[[], Any]) -> Callable[[Candidate], Iterator[Measurement]]:
    def run(candidate: Candidate) -> Iterator[Measurement]:
        try:
            p = probe_of(name, load)
        except PolyllamaError as error:  # the task's fault, not the backend's, but nothing has been checked
            yield failure(f"the task cannot be made: {describe_exception(error)}")
            return
        yield from _fields(candidate, p)
        yield from _losses(candidate, p)
        single = probe_of(name, load, 1)
        if single.graph != p.graph:  # a head with one output per label: with one alone, scores are the labels
            yield from _losses(candidate, single)

    return run


def _inputs() -> Iterator[dict[str, Any]]:
    """Rows of one length; padded left with a mask; padded right and told by the id; ending in a real padding id."""
    yield {"input_ids": IDS}
    ids, mask = left_padded(ROWS, LENGTH)
    yield {"input_ids": ids, "attention_mask": mask}
    padded = IDS.copy()
    padded[1, 13:] = SIZES["pad_token_id"]
    yield {"input_ids": padded}
    yield {"input_ids": padded, "attention_mask": np.ones_like(padded)}


def _fields(candidate: Candidate, p: Probe) -> Iterator[Measurement]:
    for inputs in _inputs():
        found, wanted = candidate.run(p, **inputs), candidate.oracle(p, **inputs)
        if set(found) != set(wanted):
            yield failure(f"fields {', '.join(sorted(found))}, wanted {', '.join(sorted(wanted))}")
            continue
        real = inputs.get("attention_mask", np.ones(inputs["input_ids"].shape)) == 1
        for name, value in wanted.items():
            here = found[name]
            if here.shape[:2] == real.shape:  # what stands at a padding is nobody's business
                yield compare(here[real], value[real], name)
            else:
                yield compare(here, value, name)


def forms(p: Probe, ids: Any = IDS) -> Iterator[dict[str, Any]]:
    """Labels of every usual form, by the names the task takes: per token or row, numbers of labels or values.

    Several labels (where a span starts and ends) rise, and one of each is ignored.
    """
    rng, names, count = np.random.default_rng(4), p.task.labels, p.config.num_labels
    per_token = np.sort(rng.integers(0, count, (len(names), *ids.shape)), axis=0)
    per_row = np.sort(rng.integers(0, LABELS, (len(names), len(ids))), axis=0)
    per_token[:, 0, 3:7], ignoring = -100, per_row.copy()
    ignoring[:, 1] = -100
    values = rng.uniform(0, 1, (len(names), len(ids), count))
    for form in (per_token, np.minimum(per_row, count - 1), per_row, ignoring, values, values[..., 0]):
        yield dict(zip(names, form, strict=True))


def _losses(candidate: Candidate, p: Probe) -> Iterator[Measurement]:
    """The loss for each form of labels that the task takes; a task may have none."""
    for labels in forms(p) if p.task.labels else ():
        try:
            spec_model(p).forward(ForwardArguments.of(p.task, IDS, **labels))
        except PolyllamaError:  # not a form of labels this task wants
            continue
        wanted = candidate.oracle(p, IDS, **labels)["loss"]
        found = candidate.run(p, IDS, **labels).get("loss")
        size = sum(np.asarray(value).size for value in labels.values())
        form = " and ".join(f"{name} {list(np.shape(value))}" for name, value in labels.items())
        if found is None:
            yield failure(f"no loss came out for {form}")
        else:
            yield compare_loss(found, wanted, candidate, size * p.config.vocab_size, f"loss for {form}")
