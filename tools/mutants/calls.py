"""Which tests call which functions, recorded once by running the tests and kept in .cache/mutants.

The record is by file of tests and says what it was made from, so that a changed file of tests is recorded anew; it
names modules and functions, no places in files.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .processes import ROOT, Job, run_jobs

RECORD = ROOT / ".cache" / "mutants" / "calls.json"


@dataclass(frozen=True)
class Test:
    """A test that passes: its place, its duration and what it calls, as "module:Class.method"."""

    node: str
    seconds: float
    calls: frozenset[str]

    @property
    def file(self) -> str:
        return self.node.partition("::")[0]


@dataclass
class Record:
    """All that was recorded."""

    tests: list[Test] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    starts: dict[str, float] = field(default_factory=dict)  # seconds until a file's first test

    @classmethod
    def read(cls, path: Path = RECORD) -> Record:
        """The record in a file; an empty one where there is none."""
        if not path.is_file():
            return cls()
        data = json.loads(path.read_text())
        names = data["functions"]
        tests = [Test(node, seconds, frozenset(names[i] for i in calls)) for node, seconds, calls in data["tests"]]
        return cls(tests, data["digests"], data.get("starts", {}))

    def write(self, path: Path = RECORD) -> None:
        names = sorted({name for test in self.tests for name in test.calls})
        place = {name: i for i, name in enumerate(names)}
        tests = [[test.node, round(test.seconds, 3), sorted(place[name] for name in test.calls)] for test in self.tests]
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_text(
            json.dumps({"digests": self.digests, "starts": self.starts, "functions": names, "tests": tests})
        )
        scratch.replace(path)

    def of_files(self, patterns: Iterable[str]) -> Record:
        """The same of files like one of the patterns alone; all of it for no pattern."""
        kept = set(like({test.file for test in self.tests}, patterns))
        return replace(self, tests=[test for test in self.tests if test.file in kept])

    def calling(self, module: str, function: str) -> list[Test]:
        """Tests that call a function; of what no function holds, or none of these calls, all that call its module."""
        name = f"{module}:{function}"
        exact = [test for test in self.tests if name in test.calls]
        return exact or [test for test in self.tests if any(c.startswith(f"{module}:") for c in test.calls)]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_files() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))


def like(files: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Files like one of the patterns, which may leave folders before them out; all files for no pattern."""
    wanted = [each for pattern in patterns for each in (pattern, f"*/{pattern}")]
    return sorted(file for file in files if not wanted or any(fnmatch(file, each) for each in wanted))


def missing(record: Record, files: Iterable[str]) -> list[str]:
    """Files of tests that changed since they were recorded, or never were."""
    return [file for file in files if record.digests.get(file) != digest(ROOT / file)]


class Recorder:
    """A pytest plugin that writes a line for each test that passes: its place, its seconds and its calls."""

    def __init__(self, folder: Path, called: set[str]) -> None:
        self.folder, self.called = folder, called
        self.out = folder / "tests.jsonl"
        self.began = 0.0
        self.failed = False

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.called.clear()
        self.began, self.failed = time.monotonic(), False

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed |= report.outcome != "passed"

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        calls = set(self.called)
        for path in self.folder.glob("*.json"):  # of child processes
            calls.update(json.loads(path.read_text()))
            path.unlink()
        if not self.failed:
            with self.out.open("a") as out:
                out.write(json.dumps([nodeid, time.monotonic() - self.began, sorted(calls)]) + "\n")


def record(files: list[str], folder: Path, jobs: int) -> Record:
    """Run files of tests and add what they call to the record, file by file."""
    kept = Record.read()

    def job(file: str) -> Job:
        place = folder / file.replace("/", "-").removesuffix(".py")
        place.mkdir(parents=True, exist_ok=True)

        def plugin() -> Recorder:
            import replaced  # type: ignore[import-not-found]

            return Recorder(place, replaced.called)

        return Job(file, [file], {"MUTANTS_CALLS": str(place)}, place, plugin, timeout=7200)

    for done in run_jobs([job(file) for file in files], jobs):
        lines = (done.job.folder / "tests.jsonl") if done.job.folder else Path()
        found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
        kept.tests = [test for test in kept.tests if test.file != done.job.name]
        kept.tests += [Test(node, seconds, frozenset(calls)) for node, seconds, calls in found]
        kept.starts[done.job.name] = round(max(0.0, done.seconds - sum(seconds for _, seconds, _ in found)), 1)
        kept.digests[done.job.name] = digest(ROOT / done.job.name)
        kept.write()
        print(f"  {done.job.name}: {len(found)} tests, {done.seconds:.0f} s", file=sys.stderr, flush=True)
    return kept
