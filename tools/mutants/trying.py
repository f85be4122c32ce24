"""Mutants tried one by one on the tests that reach them, the quickest first, until one fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from .calls import Record, Test
from .choosing import module_of
from .operators import Mutation, mutated
from .processes import IMPORTED, ROOT, TIMED_OUT, Done, Job, run_jobs

CAUGHT, SURVIVED, UNREACHED = "caught", "survived", "unreached"


@dataclass
class Trial:
    """What became of a mutant, and on how many tests it was tried."""

    mutation: Any
    verdict: str
    by: str = ""
    tests: int = 0
    seconds: float = 0.0


class Chosen:
    """A pytest plugin that keeps the given tests, in the given order, and notes which failed."""

    def __init__(self, nodes: list[str], folder: Path) -> None:
        self.place = {node: i for i, node in enumerate(nodes)}
        self.failed = folder / "failed.txt"

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        kept = [item for item in items if item.nodeid in self.place]
        kept.sort(key=lambda item: self.place[item.nodeid])
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in self.place])
        items[:] = kept

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.write_text(report.nodeid)


def related(record: Record, module: str, function: str) -> list[Test]:
    """Tests that call a function; an inner function is recorded under its outer one."""
    names = function.split(".")
    for end in range(len(names), 0, -1):
        name = f"{module}:{'.'.join(names[:end])}"
        if any(name in test.calls for test in record.tests):
            return record.calling(module, ".".join(names[:end]))
    return record.calling(module, "")


def _reaches(test: Test, module: str, function: str) -> bool:
    """Whether a test calls a function, or one that it is in, or one of a class."""
    names = [name.removeprefix(f"{module}:") for name in test.calls if name.startswith(f"{module}:")]
    return any(f"{function}.".startswith(f"{name}.") or name.startswith(f"{function}.") for name in names)


def rounds(record: Record, tests: list[Test], budget: float) -> list[list[Test]]:
    """Tests by file within `budget` seconds, those files first that are quick and mostly about this."""
    whole: dict[str, int] = {}
    for test in record.tests:
        whole[test.file] = whole.get(test.file, 0) + 1
    by_file = [list(group) for _, group in groupby(sorted(tests, key=lambda t: (t.file, t.seconds)), lambda t: t.file)]
    chosen: list[list[Test]] = []

    def cost(some: list[Test]) -> float:
        """Seconds, the more the fewer of the file's tests are related."""
        seconds = record.starts.get(some[0].file, 0.0) + sum(test.seconds for test in some)
        return seconds * whole[some[0].file] / len(some)

    by_file.sort(key=cost)
    for some in by_file:
        kept = []
        for test in some:
            if budget >= test.seconds:
                kept.append(test)
                budget -= test.seconds
        if kept:
            chosen.append(kept)
    return chosen


@dataclass
class Attempt:
    """A mutant on its way through its rounds of tests, which are run in `root`."""

    trial: Trial
    environment: dict[str, str]
    folder: Path
    left: list[list[Test]]
    root: Path = ROOT
    patience: float = 300  # seconds, beside what its tests take: a machine may be busier than when they were recorded

    def job(self) -> Job:
        tests = self.left.pop(0)
        nodes = [test.node for test in tests]
        self.trial.tests += len(nodes)
        (self.folder / "failed.txt").unlink(missing_ok=True)
        timeout = self.patience + 8 * sum(test.seconds for test in tests)
        plugin = partial(Chosen, nodes, self.folder)
        arguments = ["-x", tests[0].file]
        return Job(tests[0].file, arguments, self.environment, self.folder, plugin, timeout, self, root=self.root)

    def judge(self, done: Done) -> bool:
        """Whether there is more to try."""
        self.trial.seconds += done.seconds
        if done.code in (0, 5) and self.left:
            return True
        failed = self.folder / "failed.txt"
        if done.code == TIMED_OUT:
            self.trial.verdict, self.trial.by = CAUGHT, f"{done.job.name} (timeout)"
        elif done.code not in (0, 5):
            self.trial.verdict = CAUGHT
            self.trial.by = failed.read_text() if failed.is_file() else f"{done.job.name} (exit code {done.code})"
        return False


def try_all(attempts: list[Attempt], at_once: int, shared: tuple[str, ...] = IMPORTED) -> Iterator[Trial]:
    """Take every mutant through its rounds; each comes back once it is judged."""
    todo = attempts
    while todo:
        again = []
        for done in run_jobs([attempt.job() for attempt in todo], at_once, shared):
            attempt: Attempt = done.job.payload  # type: ignore[assignment]
            if attempt.judge(done):
                again.append(attempt)
            else:
                yield attempt.trial
        todo = again


def python_attempts(chosen: list[Mutation], record: Record, folder: Path, budget: float) -> list[Attempt]:
    """Attempts at Python mutants, each with its source in a file of its own."""
    attempts = []
    for number, mutation in enumerate(chosen):
        place = folder / f"python-{number}"
        place.mkdir(parents=True, exist_ok=True)
        source = place / "mutant.py"
        source.write_text(mutated((ROOT / mutation.file).read_text(), mutation))
        module = module_of(mutation.file)
        found = related(record, module, mutation.function)
        reached = mutation.function == "<module>" or any(_reaches(test, module, mutation.function) for test in found)
        tests = rounds(record, found, budget)
        environment = {"MUTANT_MODULE": module, "MUTANT_SOURCE": str(source)}
        trial = Trial(mutation, SURVIVED if tests and reached else UNREACHED)
        attempts.append(Attempt(trial, environment, place, tests))
    return attempts


def native_attempts(
    chosen: list[Any], library: Path, module: str, tests: list[list[Test]], folder: Path
) -> list[Attempt]:
    """Attempts at faults that one built library holds, each switched on by its number."""
    attempts = []
    for mutation in chosen:
        number = mutation.number if mutation else 0
        place = folder / f"native-{number}"
        place.mkdir(parents=True, exist_ok=True)
        environment = {"MUTANT_MODULE": module, "MUTANT_SOURCE": str(library), "MUTANT_FAULT": str(number)}
        attempts.append(Attempt(Trial(mutation, SURVIVED), environment, place, list(tests)))
    return attempts


def certify_trials(
    chosen: list[Any], library: Path, module: str, folder: Path, at_once: int, only: list[str]
) -> list[Trial]:
    """The same faults, as `polyllama certify cpu` sees them, which has to pass with none of them on."""
    jobs = []
    arguments = ["certify", "cpu", *(part for check in only for part in ("--only", check))]
    for mutation in [None, *chosen]:
        number = mutation.number if mutation else 0
        environment = {"MUTANT_MODULE": module, "MUTANT_SOURCE": str(library), "MUTANT_FAULT": str(number)}
        place = folder / f"certify-{number}"
        jobs.append(Job("certify cpu", arguments, environment, place, None, 1800, mutation, certify))
    trials = []
    for done in run_jobs(jobs, at_once):
        caught = done.code != 0
        if done.job.payload is None:
            if caught:
                raise SystemExit(
                    f"certify cpu fails with no fault on: {(done.job.folder / 'log.txt').read_text()[-2000:]}"
                )
            continue
        trials.append(
            Trial(done.job.payload, CAUGHT if caught else SURVIVED, "certify cpu" if caught else "", 1, done.seconds)
        )
    return trials


def certify(arguments: list[str]) -> int:
    """The command line in this process."""
    from polyllama.cli.main import main

    return int(main(arguments))


def jobs_by_default() -> int:
    return os.cpu_count() or 1
