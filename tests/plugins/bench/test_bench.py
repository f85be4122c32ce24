"""``polyllama bench``: a whole run on a small model, and what is said before anything is measured."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from polyllama import LlamaConfig
from polyllama.backends.cpu.backend import CpuBackend
from polyllama.core.backend.protocol import Availability
from polyllama.core.errors import BackendUnavailableError, InputError, PolyllamaError, UnsupportedError
from polyllama.plugins.bench import run as benchmark
from polyllama.plugins.bench.openvino_model import check_openvino
from support_processes import run_process, start_process

ROOT = Path(__file__).parents[3]
KERNELS = importlib.util.find_spec("polyllama.backends.cpu._kernels") is not None


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "polyllama", "bench", "tiny", *arguments]
    return run_process(command, capture_output=True, text=True)


@pytest.mark.skipif(not KERNELS, reason="the native kernels were not built")
def test_a_whole_run(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    done = bench("--weights", "int8-g32", "--rounds", "1", "--threads", "1", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "int8-g32" in done.stdout and "of reading" in done.stdout
    found = json.loads(file.read_text())
    assert found["threads"] == 1 and found["config"]["hidden_size"] == 128
    measured = found["kinds"]["int8-g32"]
    assert set(measured["rates"]) == {"prefill", "decode", "batch decode"}
    for rates in measured["rates"].values():
        assert len(rates["polyllama:cpu"]) == 1 and rates["polyllama:cpu"][0] > 1
    assert measured["ready"]["polyllama:cpu"]["weight_bytes"] > 500_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights", "int9"), "there are no weights 'int9' to measure"),
        (("--vs", "vllm"), "there is no contender called 'vllm'; there are: llama-cpp, transformers, openvino, mlx-lm"),
        (("--weights", "int4", "--vs", "transformers"), "transformers has no such packed weights to run"),
        (("--weights", "int5", "--vs", "llama-cpp"), "GGUF has no type for int5"),
        (("--weights", "int5", "--vs", "openvino"), "OpenVINO has no weights of 5 bits to run"),
        (("--rounds", "0"), "'--rounds': 0 is not in the range"),
        (("--threads", "-2"), "'--threads': -2 is not in the range"),
        (("--threads", "99999"), "'--threads': 99999 is not in the range"),
        (
            ("--weights", "float64"),
            "no weights 'float64' to measure; use float32, bfloat16, float16, int4",
        ),
        (("--weights", ""), "there are no weights '' to measure"),
        (("--json", "no/such/folder/speed.json"), "no/such/folder/speed.json: there is no such folder"),
        (("--plot", "no/such/folder/speed.png"), "no/such/folder/speed.png: there is no such folder"),
        (("--json", "."), "'--json': File '.' is a directory"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(arguments: tuple[str, ...], message: str) -> None:
    done = bench(*arguments)
    assert done.returncode != 0 and message in done.stderr, done.stderr
    assert "writing" not in done.stderr and "Traceback" not in done.stderr


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(benchmark.MODULES, "llama-cpp", ("json", "no_such_module", "nor_this"))
    with pytest.raises(UnsupportedError, match="llama-cpp needs no_such_module and nor_this, not installed here; pip"):
        benchmark.check_installed("llama-cpp")
    with pytest.raises(InputError, match="no contender called 'x'"):
        benchmark.run(None, ["int4"], ["x"], threads=1)  # type: ignore[arg-type]


def test_what_is_not_written_for_openvino_is_named() -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 4}
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    for fields, message in (
        ({"rope_parameters": rope}, "rope_type='dynamic' is not written for OpenVINO"),
        ({"hidden_act": "mish"}, "hidden_act='mish' is not written for OpenVINO"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            check_openvino(LlamaConfig(**sizes | fields))


def test_without_kernels_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuBackend, "availability", lambda self: Availability(False, "its kernels were not built"))
    said: list[str] = []
    config: Any = None
    with pytest.raises(BackendUnavailableError, match="backend 'cpu' cannot run here: its kernels were not built"):
        benchmark.run(config, ["int4"], [], threads=1, report=said.append)
    assert said == []


@pytest.mark.skipif(not KERNELS, reason="the native kernels were not built")
@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is another thing there")
def test_ctrl_c_ends_every_process_without_a_word(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "polyllama", "bench", "tiny", "--vs", "", "--rounds", "100000", "--threads", "1"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = start_process(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    while "round 0 of" not in (line := process.stderr.readline()):
        assert line, "it ended by itself"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the whole group
    rest = process.stderr.read()  # until the last who has it has ended
    assert process.wait(timeout=60) == 130 and "Traceback" not in rest and rest.endswith("interrupted\n"), rest
    assert not list(tmp_path.iterdir())


def test_contenders_are_ended_where_a_later_one_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    class Noted(benchmark.Worker):
        def __init__(self, name: str, model: Path, threads: int) -> None:
            super().__init__(name, model, threads)
            begun.append(self)

    monkeypatch.setattr(benchmark, "Worker", Noted)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=2)
    monkeypatch.setattr(benchmark, "PEERS", ("nobody",))
    monkeypatch.setitem(benchmark.MODULES, "nobody", ())
    monkeypatch.setitem(benchmark.PACKAGES, "nobody", "nobody")
    with pytest.raises(PolyllamaError, match="nobody ended with exit code 1"):
        benchmark.run(config, ["float32"], ["nobody"], threads=1, report=lambda text: None)
    assert len(begun) == 1 and begun[0].process.returncode is not None


def test_there_is_no_such_benchmark() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "typo"]
    done = run_process(command, capture_output=True, text=True)
    assert done.returncode == 2 and "no benchmark called 'typo'; there are: startup" in done.stderr


def test_what_goes_wrong_in_a_contender_is_said_in_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "polyllama.plugins.bench.worker", "polyllama:cpu", str(tmp_path), "1"]
    done = run_process(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"polyllama:cpu: {tmp_path}")
    assert "Traceback" not in done.stderr and done.stdout == ""
