"""Every installed task head, whoever's it is: each output field, and its loss where labels of a usual form do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..core.errors import PolyllamaError
from ..core.hookspecs import describe_exception
from .candidate import Candidate
from .checks import Check
from .checks_models import left_padded
from .checks_passes import widened
from .measure import Measurement, compare, failure
from .oracle import spec_model
from .probes import IDS, LENGTH, Probe, make

ROWS = [IDS[0], IDS[1][:13]]
LABELS = 3


@functools.cache
def _probe(name: str, loader: Callable[[], Any]) -> Probe:
    from ..core.loading import instantiate

    return make(f"task.{name}", instantiate(loader()), num_labels=LABELS)


def task_checks() -> dict[str, Check]:
    """A check for each installed task head."""
    from ..core.plugins import plugin_manager

    found = {}
    for name, descriptor in plugin_manager().tasks().items():
        summary = f"task {name!r}: every output field and its loss"
        found[f"task.{name}"] = Check(f"task.{name}", summary, _runner(name, descriptor.load))
    return found


def _runner(name: str, load: Callable[[], Any]) -> Callable[[Candidate], Iterator[Measurement]]:
    def run(candidate: Candidate) -> Iterator[Measurement]:
        try:
            p = _probe(name, load)
        except PolyllamaError as error:  # the task's fault, not the backend's, but nothing has been checked
            yield failure(f"the task cannot be made: {describe_exception(error)}")
            return
        yield from _fields(candidate, p)
        yield from _loss(candidate, p)

    return run


def _fields(candidate: Candidate, p: Probe) -> Iterator[Measurement]:
    ids, mask = left_padded(ROWS, LENGTH)
    for inputs in ({"input_ids": IDS}, {"input_ids": ids, "attention_mask": mask}):
        found, wanted = candidate.run(p, **inputs), candidate.oracle(p, **inputs)
        if set(found) != set(wanted):
            yield failure(f"fields {', '.join(sorted(found))}, wanted {', '.join(sorted(wanted))}")
            continue
        real = inputs.get("attention_mask", np.ones(ids.shape)) == 1
        for name, value in wanted.items():
            here = found[name]
            if here.shape[:2] == real.shape:  # what stands at a padding is nobody's business
                yield compare(here[real], value[real], name)
            else:
                yield compare(here, value, name)


def _loss(candidate: Candidate, p: Probe) -> Iterator[Measurement]:
    """The loss for the first form of labels that the task takes; a task may have none."""
    rng = np.random.default_rng(4)
    forms = (rng.integers(0, LABELS, IDS.shape), rng.integers(0, LABELS, len(IDS)))
    for labels in forms:
        try:
            spec_model(p).forward(IDS, labels=labels)
        except Exception:  # not the form of labels this task wants
            continue
        wanted = candidate.oracle(p, IDS, labels=labels)["loss"]
        found = candidate.run(p, IDS, labels=labels).get("loss")
        if found is None:
            yield failure("no loss came out")
        else:
            yield compare(found, widened(wanted, candidate, labels.size * p.config.vocab_size), "loss")
        return
