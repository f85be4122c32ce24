"""Test runs in processes of their own, forked from one that has imported what they all import.

Importing the frameworks takes longer than most tests. A fork has them at once; the package itself and the tests are
imported in the fork, where a mutant may take a module's place.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOOK = Path(__file__).with_name("hook")
IMPORTED = (
    *("numpy", "pytest", "hypothesis", "pydantic", "tokenizers", "sentencepiece", "huggingface_hub", "jinja2", "gguf"),
    *("torch", "jax", "mlx.core", "mlx.nn", "safetensors.torch", "transformers.models.llama.modeling_llama", "peft"),
)
TIMED_OUT = -1


@dataclass
class Job:
    """One run of pytest: what it runs, with which environment, and a folder that it may write in."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    folder: Path
    plugin: Callable[[], object] | None = None
    timeout: float = 600
    payload: object = None
    instead: Callable[[list[str]], int] | None = None  # what runs in the place of pytest
    root: Path = ROOT


@dataclass
class Done:
    """A run that ended: pytest's exit code, or TIMED_OUT."""

    job: Job
    code: int
    seconds: float


def import_shared(names: Iterable[str]) -> None:
    """Import what tests import, where it is installed."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads would not survive the fork
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if str(HOOK) not in sys.path:
        sys.path.insert(0, str(HOOK))


def run_jobs(jobs: list[Job], at_once: int, shared: Iterable[str] = IMPORTED) -> Iterator[Done]:
    """Run jobs, `at_once` of them side by side, and hand each back as it ends; nothing is left running."""
    import_shared(shared)
    waiting = list(reversed(jobs))
    running: dict[int, tuple[Job, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop()
                running[_start(job)] = (job, time.monotonic())
            for pid, (job, began) in list(running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                seconds = time.monotonic() - began
                if ended:
                    code = os.waitstatus_to_exitcode(status)
                elif seconds > job.timeout:
                    code = TIMED_OUT
                else:
                    continue
                _end(pid, reap=not ended)
                del running[pid]
                yield Done(job, code, seconds)
            time.sleep(0.05)
    finally:
        for pid in running:
            _end(pid, reap=True)


def _end(pid: int, reap: bool) -> None:
    """End a run with all that it started: it leads a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if reap:
        os.waitpid(pid, 0)


def _start(job: Job) -> int:
    """Fork a process that runs the job's tests and never returns."""
    job.folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    code = 99
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        code = _run(job)
    finally:
        os._exit(code)


def _run(job: Job) -> int:
    import pytest
    import replaced  # type: ignore[import-not-found]

    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(job.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in ((0, nothing), (1, log), (2, log)):
        os.dup2(file, number)
    os.chdir(job.root)
    path = [str(HOOK), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= job.environment | {"PYTHONPATH": os.pathsep.join(path)}
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(job.folder / "hypothesis")
    replaced.install()
    if job.instead:
        return job.instead(job.arguments)
    temporary = job.folder / "tmp"
    options = ["-q", "-p", "no:cacheprovider", "--tb=line", "--hypothesis-seed=0", f"--basetemp={temporary}"]
    plugins = [job.plugin()] if job.plugin else []
    try:
        return int(pytest.main([*options, *job.arguments], plugins=plugins))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        shutil.rmtree(temporary, ignore_errors=True)
