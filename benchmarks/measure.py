"""Helpers of the benchmarks: alternate timing, memory of a fresh process, machine facts, tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(os.environ.get("BENCH_RESULTS") or Path(__file__).resolve().parent / "results")


def alternate(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run each contender once per round, one after the other, so that a slow minute hits all of them.

    A contender returns its figure (a speed or a time); the first round warms up and is not counted.
    """
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            figure = run()
            if number:
                figures[name].append(figure)
    return figures


def ratio(figures: Mapping[str, list[float]], ours: str, theirs: str) -> dict[str, float]:
    """Min, median and max over rounds of ours / theirs, paired by round."""
    ratios = [a / b for a, b in zip(figures[ours], figures[theirs], strict=True)]
    return {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)}


def seconds(run: Callable[[], Any]) -> float:
    """How long `run` takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_fresh_process(code: str, **names: Any) -> dict[str, float]:
    """Run `code`, which prints one JSON object, in a new interpreter and give that object."""
    program = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


class PeakMemory:
    """Peak of this process's resident memory over a ``with`` block, in bytes above where it started."""

    def __enter__(self) -> PeakMemory:
        import psutil

        self._process = psutil.Process()
        self.start = self.peak = self._process.memory_info().rss
        self._running = True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while self._running:
            self.peak = max(self.peak, self._process.memory_info().rss)
            time.sleep(0.001)

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()
        self.peak = max(self.peak, self._process.memory_info().rss)

    @property
    def added(self) -> int:
        """Bytes above the start."""
        return self.peak - self.start


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    packages = {}
    for name in ("numpy", "torch", "transformers"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), **packages}


def plot(name: str, labels: list[str], bars: Mapping[str, list[float]], unit: str) -> None:
    """Grouped bars of medians as ``benchmarks/results/NAME.png``; one group a label, one colour a contender."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(1.6 * len(labels) + 2, 4))
    width = 0.8 / len(bars)
    for number, (who, heights) in enumerate(bars.items()):
        drawn = axes.bar([i + number * width for i in range(len(labels))], heights, width, label=who)
        axes.bar_label(drawn, fmt="%.3g", fontsize=8)
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(labels))], labels)
    axes.set_ylabel(unit)
    axes.set_yscale("log")
    axes.legend()
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=120)
    print(f"drawn: {RESULTS / name}.png")


def report(name: str, result: dict[str, Any], rows: list[tuple[str, ...]], header: tuple[str, ...]) -> None:
    """Print a table and keep the figures as JSON under ``benchmarks/results``."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, title=name)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **result}, indent=2) + "\n")
    print(f"written: {path}")
