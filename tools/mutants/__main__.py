"""Plant faults one by one and see whether the tests catch them: python -m tools.mutants [--count 100] [--seed 0] ...

The working tree stays as it is: a mutated module is loaded in the place of its original in the tests' processes, and
the kernels' faults are in a build of their own. Which tests run for a mutant is recorded once (.cache/mutants), and
again for files of tests that changed.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import calls, choosing, native_build, report, trying
from .known import as_toml, read_known, stale
from .native_operators import numbered

KERNELS = "polyllama.backends.cpu._kernels"


@dataclass
class Options:
    """The command line."""

    seed: int
    count: int
    native: int
    module: list[str]
    jobs: int
    budget: float
    tests: list[str]
    certify: list[str] | None
    only_list: bool
    record: list[str] | None
    json: Path | None
    toml: Path | None
    keep: Path | None


def options(arguments: list[str] | None = None) -> Options:
    assert __doc__ is not None
    parser = argparse.ArgumentParser("python -m tools.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="which mutants are chosen (default: %(default)s)")
    parser.add_argument("--count", type=int, default=100, help="how many in Python modules (default: %(default)s)")
    parser.add_argument("--native", type=int, default=0, help="how many in the kernels (default: %(default)s)")
    parser.add_argument(
        "--module", action="append", default=[], help="only files whose path has this in it; repeatable"
    )
    parser.add_argument("--jobs", type=int, default=trying.jobs_by_default(), help="tests' processes side by side")
    parser.add_argument("--budget", type=float, default=60, help="seconds of tests for a mutant (default: %(default)s)")
    parser.add_argument(
        "--tests", action="append", default=[], metavar="PATTERN", help="only test files like this; repeatable"
    )
    parser.add_argument(
        "--certify",
        nargs="*",
        metavar="CHECK",
        help="try faults in the kernels on `certify cpu` as well (default: all checks)",
    )
    parser.add_argument(
        "--list", dest="only_list", action="store_true", help="say which mutants were chosen, and run nothing"
    )
    parser.add_argument(
        "--record", nargs="*", metavar="FILE", help="only record which tests call what (default: new files)"
    )
    parser.add_argument("--json", type=Path, help="write every trial into this file")
    parser.add_argument("--toml", type=Path, help="write the survivors into this file, as entries for known.toml")
    parser.add_argument("--keep", type=Path, help="keep mutants and logs in this folder")
    return Options(**vars(parser.parse_args(arguments)))


def _test_files(o: Options, native: bool) -> list[str]:
    """Files of tests that a run needs: for the kernels alone, those that faults in them are tried on."""
    files = calls.like(calls.test_files(), o.tests)
    return calls.like(files, choosing.lists()["native_tests"]) if native else files


def native_report(candidates: list[Any], record: calls.Record, folder: Path, o: Options) -> list[report.Report]:
    """Faults of the kernels: what their tests catch, and what the conformance kit catches of the same."""
    # A line holds one, and some do not compile: so a third more are built than are tried.
    wanted = numbered(candidates)[: o.native + o.native // 3]
    library, faults, dropped = native_build.build(wanted, folder / "kernels")
    print(f"built {len(faults)} faults into one library; {len(dropped)} do not compile", file=sys.stderr)
    faults = faults[: o.native]
    patterns = choosing.lists()["native_tests"]
    own = record.of_files(patterns).tests
    rounds = trying.rounds(record, own, o.budget)
    baseline = trying.native_attempts([None], library, KERNELS, rounds, folder)
    _expect_passing(list(trying.try_all(baseline, o.jobs)))
    attempts = trying.native_attempts(faults, library, KERNELS, rounds, folder)
    known = read_known()
    reports = [report.Report("native, by tests", _progress(attempts, o.jobs), known)]
    if o.certify is not None:
        kit = trying.certify_trials(faults, library, KERNELS, folder, o.jobs, o.certify)
        reports.append(report.Report("native, by certify cpu", kit, known))
    return reports


def _expect_passing(trials: list[trying.Trial]) -> None:
    """With no fault on, the library is the original: tests that fail on it would catch anything."""
    for trial in trials:
        if trial.verdict == trying.CAUGHT:
            raise SystemExit(f"with no fault on, a test fails already: {trial.by}")


def _progress(attempts: list[Any], jobs: int) -> list[trying.Trial]:
    trials = []
    for trial in trying.try_all(attempts, jobs):
        trials.append(trial)
        m = trial.mutation
        print(
            f"[{len(trials)}/{len(attempts)}] {trial.verdict} {m.file}:{m.line} {trial.by}", file=sys.stderr, flush=True
        )
    return trials


def main(arguments: list[str] | None = None) -> int:
    o = options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended on the way out
    chosen = choosing.choose(choosing.python_mutations(o.module), o.seed, o.count) if o.count else []
    native = choosing.all_native_mutations(o.module) if o.native else []
    faults = choosing.choose(native, o.seed, len(native))
    if o.only_list:
        both: list[Any] = [*chosen, *numbered(faults)[: o.native]]
        for m in both:
            print(f"{m.file}:{m.line} {m.function}: {m.operator}\n  - {m.original}\n  + {m.mutated}")
        return 0
    folder = o.keep or Path(tempfile.mkdtemp(prefix="mutants-"))
    try:
        files = o.record or calls.missing(calls.Record.read(), _test_files(o, native=bool(faults) and not chosen))
        record = calls.record(files, folder / "record", o.jobs) if files else calls.Record.read()
        if o.record is not None:
            return 0
        record = record.of_files(o.tests)
        known = read_known()
        reports = []
        if chosen:
            trials = _progress(trying.python_attempts(chosen, record, folder, o.budget), o.jobs)
            reports.append(report.Report("python", trials, known))
        if faults:
            reports += native_report(faults, record, folder, o)
    finally:
        if o.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    everything = [*choosing.python_mutations(), *choosing.all_native_mutations()]
    return _tell(reports, [entry.key for entry in stale(known, everything)], o)


def _tell(reports: list[report.Report], gone: list[Any], o: Options) -> int:
    for each in reports:
        print("\n".join(each.lines()))
    for file, function, original, *_ in gone:
        print(f"known.toml: nothing in the sources is this any more: {file} {function}: {original}")
    if o.json:
        report.write(reports, o.json, o.seed)
    if o.toml:
        o.toml.write_text("\n".join(as_toml(trial.mutation) for each in reports for trial in each.survivors))
    return 0


if __name__ == "__main__":
    sys.exit(main())
