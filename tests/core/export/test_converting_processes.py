"""Converting and saving while interrupted, killed, or done by several processes at once: whole models, or none."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from checkpoint_models import logits_of, our_logits
from polyllama import Llama, convert
from polyllama.core.checkpoint import locking
from polyllama.core.errors import CheckpointError
from support_processes import run_process, start_process
from tiny_models import TinyModels, relative_error

SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
WAYS = ("hf", "mlx", "gguf", "meta")
pytestmark = pytest.mark.filterwarnings(
    "ignore:converted without a tokenizer", "ignore:the format cannot say, or says otherwise. max_position_embeddings"
)

SLOW = """
import sys, time
from polyllama import convert
def progress(name, done, total):
    print(name, flush=True)
    time.sleep(float(sys.argv[4]))
convert(sys.argv[1], sys.argv[2], to=sys.argv[3], progress=progress)
"""


@pytest.fixture
def slow() -> Any:
    """Starts a process that converts slowly, tensor by tensor."""

    def start(source: Path, target: Path, to: str, pause: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SLOW, str(source), str(target), to, str(pause)]
        pipe, quiet = subprocess.PIPE, os.environ | {"PYTHONWARNINGS": "ignore"}
        return start_process(command, stdout=pipe, stderr=pipe, text=True, env=quiet)

    return start


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupt_leaves_nothing(tiny_models: TinyModels, tmp_path: Path, slow: Any, way: str) -> None:
    _, source = tiny_models(**SIZES)
    target = tmp_path / ("x.gguf" if way == "gguf" else "out")
    process = slow(source, target, way, 0.2)
    for _ in range(4):  # in the middle of the weights
        assert process.stdout.readline()
    assert any(path.suffix == ".converting" for path in tmp_path.iterdir())
    assert not target.exists()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_killed_leaves_nothing_after_the_next(
    tiny_models: TinyModels, tmp_path: Path, slow: Any
) -> None:
    model, source = tiny_models(**SIZES)
    process = slow(source, tmp_path / "out", "hf", 0.2)
    for _ in range(4):
        assert process.stdout.readline()
    process.kill()
    process.wait(timeout=60)
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.iterdir())  # what it could not remove is hidden
    assert all(path.name.startswith(".out.") for path in tmp_path.iterdir())
    convert(source, tmp_path / "out", to="hf")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert relative_error(our_logits(tmp_path / "out"), logits_of(model)) < 2e-5


def test_an_empty_folder_is_filled_not_replaced(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: Any
) -> None:
    """It may be the one that a shell is in, or a mounted disk."""
    model, source = tiny_models(**SIZES)
    (tmp_path / "out").mkdir()
    before = (tmp_path / "out").stat().st_ino
    process = slow(source, tmp_path / "out", "hf", 0.2)
    assert process.stdout.readline()
    with pytest.raises(CheckpointError, match="out: another process is writing there"):
        convert(source, tmp_path / "out", to="hf")
    process.kill()
    process.wait(timeout=60)
    monkeypatch.chdir(tmp_path / "out")
    convert(source, ".", to="hf")
    assert (tmp_path / "out").stat().st_ino == before
    assert sorted(os.listdir(".")) == ["config.json", "generation_config.json", "model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert relative_error(our_logits(tmp_path / "out"), logits_of(model)) < 2e-5


@pytest.mark.parametrize("way", ["hf", "gguf"])
def test_two_processes_at_once(tiny_models: TinyModels, tmp_path: Path, slow: Any, way: str) -> None:
    model, source = tiny_models(**SIZES)
    target = tmp_path / "out"
    first = slow(source, target, way, 0.05)
    assert first.stdout.readline()  # it is at work
    with pytest.raises(CheckpointError, match="out: another process is writing there"):
        convert(source, target, to=way)
    assert first.communicate(timeout=60)[1] == ""
    assert first.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert relative_error(our_logits(target), logits_of(model)) < 2e-5


def test_many_processes_at_once_end_with_one_whole_model(tiny_models: TinyModels, tmp_path: Path, slow: Any) -> None:
    """Started together, with no pause: whoever comes second is told so, in one line, whatever the moment."""
    model, source = tiny_models(**SIZES)
    processes = [slow(source, tmp_path / "out", "hf", 0) for _ in range(4)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes.count(0) == 1
    losers = [error.strip().splitlines()[-1] for error, code in zip(errors, codes, strict=True) if code]
    assert all(re.search("another process is writing there|is there already", line) for line in losers), losers
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert relative_error(our_logits(tmp_path / "out"), logits_of(model)) < 2e-5


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened, then removed by the one who held it, then locked: nobody else would see that lock."""
    lock, times = locking._lock, []

    def late(descriptor: int) -> bool:
        if not times:
            (tmp_path / ".out.lock").unlink()
        times.append(1)
        return lock(descriptor)

    monkeypatch.setattr(locking, "_lock", late)
    with locking.locked(tmp_path / "out"):
        assert len(times) == 2
        with pytest.raises(CheckpointError, match="another process"), locking.locked(tmp_path / "out"):
            pass
    assert list(tmp_path.iterdir()) == []


LOAD = """
import sys
from polyllama import Llama
for _ in range(8):
    llm = Llama.load(sys.argv[1], backend="reference")
    print(llm.forward([[1, 5, 9]]).numpy()["logits"].sum())
"""


def test_loading_while_it_is_replaced(tiny_models: TinyModels, tmp_path: Path) -> None:
    """Two processes load a file again and again while it is overwritten: each time one whole model or the other."""
    sums = set()
    sources = [tiny_models(**SIZES)[1], tiny_models(**SIZES, rms_norm_eps=1e-5)[1]]
    for source in sources:
        sums.add(str(Llama.load(source, backend="reference").forward([[1, 5, 9]]).numpy()["logits"].sum()))
    path = tmp_path / "x.gguf"
    convert(sources[0], path, to="gguf")
    command = [sys.executable, "-c", LOAD, str(path)]
    processes = [start_process(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    end = time.monotonic() + 120
    number = 0
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        number += 1
        convert(sources[number % 2], path, to="gguf", overwrite=True)
    for process in processes:
        found = process.communicate(timeout=60)[0].split()
        assert process.returncode == 0
        assert len(found) == 8
        assert set(found) <= sums
    assert number > 2


SAVE = """
import sys
from polyllama import Llama
llm = Llama.load(sys.argv[1], backend="reference")
print("ready", flush=True)
sys.stdin.readline()
llm.save(sys.argv[2], max_shard_size="20KB")
"""


def test_two_processes_that_save_into_one_folder(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, source = tiny_models(**SIZES)
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", SAVE, str(source), str(tmp_path / "out")]
    processes = [start_process(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert any(process.returncode == 0 for process in processes)
    for error, process in zip(errors, processes, strict=True):
        assert process.returncode == 0 or "another process is writing there" in error
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    assert relative_error(our_logits(tmp_path / "out"), logits_of(model)) < 2e-5


FULL = """
import resource, signal, sys
from pathlib import Path
from polyllama import Llama, PolyllamaError, convert
from polyllama.core.export.quantize_checkpoint import quantize_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
source, folder = Path(sys.argv[1]), Path(sys.argv[2])
llm = Llama.load(source, backend="reference", dtype="float32")
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
for what in ("hf", "mlx", "meta", "gguf", "quantized", "saved"):
    target = folder / (f"x.{what}" if what == "gguf" else what)
    try:
        if what == "saved":
            llm.save(target)
        elif what == "quantized":
            quantize_checkpoint(source, target, bits=8, group_size=32)
        else:
            convert(source, target, to=what)
        print(what, "was written")
    except PolyllamaError as error:
        print(f"{what}: {error}")
"""


def test_a_disk_that_fills_up_in_the_middle_leaves_nothing(tiny_models: TinyModels, tmp_path: Path) -> None:
    """The place is named as it was asked for, and nothing stays there."""
    _, source = tiny_models(**SIZES)
    command = [sys.executable, "-c", FULL, str(source), str(tmp_path)]
    quiet = os.environ | {"PYTHONWARNINGS": "ignore"}
    done = run_process(command, capture_output=True, text=True, env=quiet, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 6, done.stderr
    for line in lines:
        what, _, message = line.partition(": ")
        assert message.startswith(str(tmp_path)) and what in message and "File too large" in message, line
        assert ".converting" not in message
    assert list(tmp_path.iterdir()) == []
