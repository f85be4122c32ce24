"""Every installed task head, whoever's it is: each output field, and its loss.

A loss is tried on the task's own examples, or where it gives none, on each usual form of labels that it takes. Where it
takes none of these, whoever's task it is has to say what it takes: the check is skipped, and says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..core.errors import InputError, PolyllamaError
from ..core.forward.arguments import ForwardArguments
from ..core.plugin_system.hookspecs import describe_exception
from ..core.tasks.task import Task
from .candidate import Candidate
from .checks import Check, Skipped
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
        outputs = list(_fields(candidate, p))
        yield from outputs
        single = probe_of(name, load, 1)
        # A head with one output per label: with one alone, scores are the labels.
        tried = [
            (probe, given) for probe in ([p] if single.graph == p.graph else [p, single]) for given in passes(probe)
        ]
        if has_loss(p) and not tried and all(measurement.passed for measurement in outputs):
            raise Skipped(f"its outputs are right; {untried(p)}")
        for probe, given in tried:
            yield _loss(candidate, probe, given)

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


def has_loss(p: Probe) -> bool:
    """Whether the task says how its labels make a loss."""
    return bool(p.task.labels) and type(p.task).loss is not Task.loss


def untried(p: Probe) -> str:
    """Why a loss is not tried, and what would change that."""
    names = " and ".join(p.task.labels)
    return f"its loss is not tried: {names} of no usual form are taken, and the task gives no examples"


def passes(p: Probe, ids: Any = IDS) -> Iterator[dict[str, Any]]:
    """Arguments of forward, labels included, that the task makes a loss of: its own examples, or usual ones.

    Args:
        ids: what the usual ones are made of. One form is tried on padded rows too, where they are all of :data:`IDS`.

    Raises:
        InputError: an example of the task's own that it makes no loss of.
    """
    if not has_loss(p):
        return
    examples = [{name: np.asarray(value) for name, value in given.items()} for given in p.task.examples(p.config)]
    for number, given in enumerate(examples):
        found = _try(p, given)
        if found is not None:
            raise InputError(f"example {number} of task {p.task.name!r}: {found}")
        yield given
    if examples:
        return
    for labels in forms(p, ids):
        given = {"input_ids": ids, **labels}
        if _try(p, given) is None:
            yield given
    if ids is not IDS:
        return
    for padded, mask in (left_padded(ROWS, LENGTH), right_padded(ROWS, LENGTH)):  # a span may begin on the left
        for labels in forms(p, padded):
            # What stands at a padding has no label.
            kept = {n: np.where(mask == 1, v, -100) if v.shape == mask.shape else v for n, v in labels.items()}
            given = {"input_ids": padded, "attention_mask": mask, **kept}
            if _try(p, given) is None:
                yield given
                return


def _try(p: Probe, given: dict[str, Any]) -> str | None:
    """What is wrong with a pass; ``None`` where a loss comes out. A stranger's task may raise whatever it likes."""
    try:
        found = spec_model(p).forward(ForwardArguments.of(p.task, **given)).loss
    except Exception as error:
        return describe_exception(error)
    if np.shape(found) != () or not np.isfinite(found):
        return f"its loss is {found}, wanted a number"
    return None


def right_padded(rows: Any, length: int) -> tuple[Any, Any]:
    """Rows of ids ``[B, length]`` with padding after them, and their mask."""
    ids, mask = (np.zeros((len(rows), length), np.int64) for _ in range(2))
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    return ids, mask


def _loss(candidate: Candidate, p: Probe, given: dict[str, Any]) -> Measurement:
    labels = {name: value for name, value in given.items() if name in p.task.labels}
    form = " and ".join(f"{name} {list(np.shape(value))}" for name, value in labels.items())
    form += ", padded" if "attention_mask" in given else ""
    wanted = candidate.oracle(p, **given)["loss"]
    found = candidate.run(p, **given).get("loss")
    if found is None:
        return failure(f"no loss came out for {form}")
    size = sum(np.asarray(value).size for value in labels.values())
    return compare_loss(found, wanted, candidate, size * p.config.vocab_size, f"loss for {form}")
