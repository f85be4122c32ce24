"""Contenders in turns: what each does, how they compare round by round, and what is written down."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...backends.cpu.backend import CpuBackend, instruction_set
from ...backends.cpu.topology import physical_cores
from ...core.config.schema import LlamaConfig
from ...core.errors import BackendUnavailableError, InputError, PolyllamaError, UnsupportedError
from ...core.messages import did_you_mean
from ...core.quantization.scheme import parse_quantize
from .openvino_model import WIDTHS, check_openvino, write_openvino
from .random_models import GGUF_TYPES, write_checkpoint, write_gguf

PEERS = ("llama-cpp", "transformers", "openvino", "mlx-lm")
PACKAGES = {"llama-cpp": "llama-cpp-python", "transformers": "transformers", "openvino": "openvino", "mlx-lm": "mlx-lm"}
MODULES = {
    "llama-cpp": ("llama_cpp", "gguf"),
    "transformers": ("transformers", "torch"),
    "openvino": ("openvino",),
    "mlx-lm": ("mlx_lm", "mlx"),
    "plot": ("matplotlib",),
}
"""What each contender, and a plot, needs beside polyllama."""

FLOATS = ("float32", "bfloat16", "float16")
"""Weights that are not packed."""

INSTALL = "pip install 'polyllama[bench]' (transformers also takes 'polyllama[torch]')"


@dataclass(frozen=True)
class Measure:
    """One figure: its name, what a worker is told, and how a rate comes of its seconds."""

    name: str
    task: Mapping[str, Any]
    tokens: int


MEASURES = (
    Measure("prefill", {"do": "prefill", "tokens": 512}, 512),
    Measure("decode", {"do": "decode", "context": 16, "tokens": 24}, 1),
    Measure("batch decode", {"do": "decode", "context": 16, "tokens": 8, "batch": 8}, 1),
    Measure("long decode", {"do": "decode", "context": 2048, "tokens": 12}, 1),
)
"""Prompt of 512; decoding after 16 tokens; 8 rows at once; decoding after 2048 tokens."""


class Worker:
    """A contender's process."""

    def __init__(self, name: str, model: Path, threads: int) -> None:
        command = [sys.executable, "-m", "polyllama.plugins.bench.worker", name, str(model), str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads or physical_cores())}
        self.name = name
        # In a session of its own: Ctrl-C reaches this process alone, which then ends the others.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        try:
            self.ready = self._answer()
        except BaseException:
            self.close()
            raise

    def do(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Hand over one task and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(dict(task)) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise PolyllamaError(
                f"{self.name} ended with exit code {self.process.wait()}", hint="its own message is above"
            )
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # a task that was on its way is nobody's now
                pipe.close()


def run(
    config: LlamaConfig,
    kinds: Iterable[str],
    peers: Iterable[str],
    *,
    threads: int | None = None,
    rounds: int = 3,
    measures: Iterable[str] = ("prefill", "decode", "batch decode"),
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure backend cpu and its peers on random models of one shape.

    Args:
        kinds: weights: ``"int4"``, ``"int8"``, ``"bfloat16"`` ...
        peers: ``"llama-cpp"``, ``"transformers"`` (which runs bfloat16, float16 and float32 alone), ``"openvino"``,
            ``"mlx-lm"``.
        threads: for every contender; by default the physical cores, of which backend cpu takes fewer for a model that
            is too small for them.
        measures: names of :data:`MEASURES`.

    Returns:
        Raw rounds, medians, ratios and the machine, as plain data for JSON.

    Raises:
        InputError: weights or a contender that there is no such thing as.
        UnsupportedError: a contender whose packages are not installed, or that has no such weights.
        BackendUnavailableError: backend cpu cannot run here.
        SettingsError: ``POLYLLAMA_CPU_ISA`` names kernels that this machine cannot run.
    """
    chosen = [measure for measure in MEASURES if measure.name in set(measures)]
    kinds, peers = tuple(kinds), tuple(peers)
    check_kinds(kinds, peers)
    for peer in peers:
        if peer not in PEERS:
            # 'vllm' is not meant for 'mlx-lm': names of four letters come close to others by chance.
            hint = did_you_mean(peer, PEERS, f"there are: {', '.join(PEERS)}", cutoff=0.75)
            raise InputError(f"there is no contender called {peer!r}", hint=hint)
        check_installed(peer)
        if peer == "openvino":
            check_openvino(config)
    check_kernels()
    cores = threads or physical_cores()
    result: dict[str, Any] = {"machine": machine(peers), "threads": cores, "config": _shape(config), "kinds": {}}
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="polyllama-bench-") as folder:
            workers: list[Worker] = []
            try:
                for worker in _workers(Path(folder), config, kind, peers, threads, report):
                    workers.append(worker)  # one at a time: those before one that does not start are ended
                result["kinds"][kind] = _measure(workers, chosen, rounds, report)
            finally:
                for worker in workers:
                    worker.close()
    return result


def check_installed(what: str) -> None:
    """Refuse a contender (or ``"plot"``) whose packages are not here, before anything is measured.

    Raises:
        UnsupportedError: names what is missing.
    """
    missing = [module for module in MODULES[what] if importlib.util.find_spec(module) is None]
    if missing:
        raise UnsupportedError(f"{what} needs {' and '.join(missing)}, not installed here", hint=INSTALL)


def check_kernels() -> None:
    """Refuse to start where backend cpu cannot run, before anything is written.

    Raises:
        BackendUnavailableError: its kernels were not built, or do not load.
        SettingsError: ``POLYLLAMA_CPU_ISA`` names kernels that this machine cannot run.
    """
    found = CpuBackend().availability()
    if not found.usable:
        raise BackendUnavailableError(f"backend 'cpu' cannot run here: {found.reason}")
    instruction_set()


def check_destination(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is measured.

    Raises:
        InputError: no such folder, or one that nothing can be written into.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no such folder", hint="make it first, or choose another place")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written", hint="choose another place")


def check_kinds(kinds: Iterable[str], peers: Iterable[str]) -> None:
    """Refuse weights that nobody has, and those that one of the contenders has not.

    Raises:
        InputError: no such weights.
        UnsupportedError: a contender has no such weights.
    """
    for kind in kinds:
        width, _, _ = kind.partition("-")
        if kind not in FLOATS:
            try:
                parse_quantize(kind, "weights")
            except PolyllamaError:
                packed = "int4, int8 (also int2, int3, int5, int6), each with -g32, -g64 or -g128 for the group size"
                raise InputError(
                    f"there are no weights {kind!r} to measure", hint=f"use {', '.join(FLOATS)}, {packed}"
                ) from None
        if "llama-cpp" in peers and width not in GGUF_TYPES:
            hint = f"use one of {', '.join(GGUF_TYPES)}, or leave it out"
            raise UnsupportedError(f"GGUF has no type for {kind}, so llama-cpp cannot run it", hint=hint)
        if "openvino" in peers and kind not in FLOATS and parse_quantize(kind).bits not in WIDTHS:
            hint = "use int4 or int8, or leave it out"
            raise UnsupportedError(f"OpenVINO has no weights of {parse_quantize(kind).bits} bits to run", hint=hint)
    if "transformers" in peers and all(kind.startswith("int") for kind in kinds):
        hint = "add bfloat16, float16 or float32 to the weights, or leave it out"
        raise UnsupportedError("transformers has no such packed weights to run", hint=hint)


def _workers(
    folder: Path,
    config: LlamaConfig,
    kind: str,
    peers: Iterable[str],
    threads: int | None,
    report: Callable[[str], None],
) -> Iterator[Worker]:
    report(f"{kind}: writing random models")
    checkpoint = folder / "model"
    write_checkpoint(checkpoint, config, kind, pack=True)
    yield Worker("polyllama:cpu", checkpoint, threads or 0)
    threads = threads or physical_cores()
    for peer in peers:
        if peer == "llama-cpp":
            write_gguf(folder / "model.gguf", config, kind.partition("-")[0])
            yield Worker(peer, folder / "model.gguf", threads)
        elif peer == "openvino":
            write_openvino(checkpoint, folder / "openvino.xml")
            yield Worker(peer, folder / "openvino.xml", threads)
        elif peer == "mlx-lm" or not kind.startswith("int"):
            yield Worker(peer, checkpoint, threads)
        else:
            report(f"{kind}: {peer} has no such weights and is left out here")


def _measure(
    workers: list[Worker], measures: list[Measure], rounds: int, report: Callable[[str], None]
) -> dict[str, Any]:
    names = [worker.name for worker in workers]
    ours = workers[0]
    found: dict[str, Any] = {
        "ready": {worker.name: worker.ready for worker in workers},
        "rates": {measure.name: {name: [] for name in names} for measure in measures},
        "read": [],
        "of_read": [],
        "peak": {},
    }
    for number in range(rounds + 1):  # the first warms up
        for measure in measures:
            for worker in workers:
                answer = worker.do(measure.task)
                rate = measure.tokens / answer["seconds"]
                if number:
                    found["rates"][measure.name][worker.name].append(rate)
                    found["peak"][worker.name] = answer["peak"]
                if worker is ours and measure.name == "decode":
                    # The same buffers, just after: memory's speed changes from one minute to the next.
                    read = statistics.median(ours.do({"do": "read"})["rate"] for _ in range(3))
                    if number:
                        found["read"].append(read)
                        found["of_read"].append(rate * ours.ready["weight_bytes"] / read)
        report(f"  round {number} of {rounds}")
    found["ratios"] = {
        measure.name: {
            name: spread([a / b for a, b in zip(rates[ours.name], rates[name], strict=True)]) for name in names[1:]
        }
        for measure in measures
        for rates in [found["rates"][measure.name]]
    }
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Least, median and most."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table: a row for each kind and measure, a column for each contender's median, and our ratios."""
    found: list[tuple[str, ...]] = []
    for kind, measured in result["kinds"].items():
        for measure, rates in measured["rates"].items():
            names = list(rates)
            cells = [f"{name} {statistics.median(rates[name]):.1f}" for name in names]
            ratios = [
                f"{r['median']:.2f}x {name} ({r['min']:.2f} to {r['max']:.2f})"
                for name, r in measured["ratios"][measure].items()
            ]
            found.append((kind, measure, ", ".join(cells), ", ".join(ratios)))
        if measured["read"]:
            share, read = spread(measured["of_read"]), statistics.median(measured["read"])
            text = f"{share['median']:.0%} ({share['min']:.0%} to {share['max']:.0%})"
            found.append((kind, "decode, of reading", f"{text} of {read / 1e9:.1f} GB/s", ""))
        for name, ready in measured["ready"].items():
            peak = measured["peak"].get(name, 0) / 1e9
            found.append(
                (
                    kind,
                    "loading",
                    f"{name} {ready['load']:.2f} s, first token {ready['first_token']:.2f} s, peak {peak:.2f} GB",
                    "",
                )
            )
    return found


def machine(peers: Iterable[str]) -> dict[str, Any]:
    """What figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    packages = {}
    for name in ("polyllama", "numpy", *(PACKAGES[peer] for peer in peers)):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {"cpu": model, "processors": os.cpu_count(), "python": platform.python_version(), **packages}


def _shape(config: LlamaConfig) -> dict[str, Any]:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {name: getattr(config, name) for name in (*names, "num_key_value_heads", "head_dim")}


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Grouped bars of medians, a group for each kind and measure."""
    matplotlib, pyplot = (importlib.import_module(name) for name in ("matplotlib", "matplotlib.pyplot"))
    matplotlib.use("Agg")

    groups = [(kind, measure) for kind, found in result["kinds"].items() for measure in found["rates"]]
    names = sorted({name for found in result["kinds"].values() for rates in found["rates"].values() for name in rates})
    figure, axes = pyplot.subplots(figsize=(1.3 * len(groups) + 2, 4))
    width = 0.8 / len(names)
    for number, name in enumerate(sorted(names, key=lambda name: not name.startswith("polyllama"))):
        places, heights = [], []
        for place, (kind, measure) in enumerate(groups):
            rates = result["kinds"][kind]["rates"][measure].get(name)
            if rates:
                places.append(place + number * width)
                heights.append(statistics.median(rates))
        axes.bar_label(axes.bar(places, heights, width, label=name), fmt="%.0f", fontsize=7)
    axes.set_xticks(
        [i + 0.3 for i in range(len(groups))], [f"{kind}\n{measure}" for kind, measure in groups], fontsize=8
    )
    axes.set_ylabel("tokens per second")
    axes.set_yscale("log")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
