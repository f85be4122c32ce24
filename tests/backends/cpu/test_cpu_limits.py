"""The cpu backend at its edges: wrong arguments, threads, forks, signals, the end of the interpreter, memory."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama import Llama, LlamaConfig
from polyllama.backends.cpu.backend import CpuBackend
from polyllama.core.errors import SettingsError
from support_processes import run_process, start_process
from tiny_models import SIZES

if importlib.util.find_spec("polyllama.backends.cpu._kernels") is None:
    pytest.skip("the native kernels were not built", allow_module_level=True)

from polyllama.backends.cpu import _kernels
from polyllama.backends.cpu.weights import Packed, pack_floats

sys.path.insert(0, str(Path(__file__).parents[3] / "tools" / "fuzz"))
import fuzz_kernels

ROOT = Path(__file__).parents[3]
ISA = _kernels.instruction_sets()[0]
MODEL = (
    "import numpy as np, os, sys, threading, time, warnings\nwarnings.simplefilter('ignore')\n"
    "from polyllama import Llama, LlamaConfig\n"
    "def load(**fields):\n"
    "    sizes = dict(vocab_size=97, hidden_size=256, intermediate_size=960, num_attention_heads=4)\n"
    "    sizes |= dict(num_hidden_layers=4) | fields\n"
    "    return Llama.load(LlamaConfig(**sizes), load_format='dummy', backend='cpu', dtype='float32')\n"
)


def run(code: str, *, threads: int = 2, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"POLYLLAMA_THREADS": str(threads)}
    return run_process(
        [sys.executable, "-c", MODEL + code], capture_output=True, text=True, timeout=timeout, env=environment
    )


# wrong arguments -----------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(st.data())
def test_whatever_is_handed_over_is_refused_or_done(data: st.DataObject) -> None:
    def choose(options: Any) -> Any:
        options = list(options)
        return options[data.draw(st.integers(0, len(options) - 1))]

    fuzz_kernels.attempt(_kernels, choose, data.draw(st.integers(0, fuzz_kernels.STEPS - 1)))


def test_the_attempts_get_to_the_end_where_nothing_is_spoilt() -> None:
    for packed in (False, True):
        trial = fuzz_kernels.Attempt(lambda options: next(iter(options)), -1)
        with pytest.raises(ValueError, match="a program that has run is not added to"):
            fuzz_kernels._everything(_kernels, trial, "portable", "float32", packed)
        assert trial.calls > 25


def test_sizes_that_leave_64_bits_are_refused() -> None:
    """Each of these is a small number again once it has wrapped around."""
    most = 2**31
    with pytest.raises(ValueError, match="or of too many"):
        _kernels.packed_bytes("float32", most, most, 0, "float32")
    program = _kernels.Program(ISA, 1, False)
    with pytest.raises(ValueError, match="a buffer of no width"):
        program.buffer(0)
    for width in (8, 16, 8, 8, 8):
        program.buffer(width)
    rope = program.rope(1, 1.0)
    with pytest.raises(ValueError, match="too many heads, or too wide ones"):
        program.attention(0, 2, 3, 4, 0, 2**61 + 1, 2**61 + 1, 8, rope)
    model: Any = Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend="cpu", dtype="float32").model
    cache = model.new_cache(1, 64)
    cache.batch = 1
    with pytest.raises(ValueError, match="more tokens than any cache holds"):
        model.lowered.program.run(
            *model.lowered.whole,
            np.array([[1, 2, 3]]),
            np.zeros((1, 3), np.int64),
            model._frequencies,
            cache.reserve(64),
            2**64 - 2,
        )


def test_panels_begin_on_a_cache_line() -> None:
    source, raw = np.ones((16, 4), np.uint32), np.zeros(16 * 4 * 4 + 128, np.uint8)
    start = -raw.ctypes.data % 64
    _kernels.pack_floats("float32", source, raw[start : start + 256])
    for astray in (1, 4, 32):
        with pytest.raises(ValueError, match="does not begin on a cache line"):
            _kernels.pack_floats("float32", source, raw[start + astray : start + astray + 256])


def test_a_program_that_has_run_is_not_added_to() -> None:
    """Its memory is planned by what was there then, and another thread may be in the middle of a pass."""
    program = _kernels.Program(ISA, 1, False)
    x = program.buffer(32)
    table = np.ones((5, 32), np.float32)
    program.table(("float32", table))
    program.run(0, 0, np.array([[1]]), np.zeros((1, 1), np.int64), [], None, 0)
    for change in (
        lambda: program.buffer(8),
        lambda: program.rope(2, 1.0),
        lambda: program.capture(x),
        lambda: program.table(("float32", table)),
    ):
        with pytest.raises(ValueError, match="is not added to"):
            change()


def test_more_threads_than_there_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLLAMA_THREADS", "5000")
    with pytest.raises(
        SettingsError, match=r"threads: .* at most 4096, not 5000; it is fastest with one for each core"
    ):
        Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend="cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="what limits threads differs")
def test_threads_that_cannot_be_started_are_not_waited_for() -> None:
    code = (
        "import resource\nllm = load()\nwanted = llm.forward([[1, 2]]).logits\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (64 << 20), resource.RLIM_INFINITY))\n"
        "os.environ['POLYLLAMA_THREADS'] = '60'\n"
        "many = load(num_hidden_layers=1, hidden_size=32, intermediate_size=32)\n"
        "try:\n    many.forward([[1]])\n    print('all started')\n"
        "except RuntimeError as error:\n    print(error)\n"
        "print(bool((llm.forward([[1, 2]]).logits == wanted).all()))\n"
    )
    done = run(code)
    assert done.stdout.endswith("unavailable\nTrue\n"), done


# threads and processes -----------------------------------------------------------------------------------------------


def test_other_threads_run_during_a_product() -> None:
    """Python's own switching is off, so the other thread only runs while native code has let go of the interpreter."""
    layout, data = pack_floats(np.ones((1024, 1024), np.float32), "float32")
    packed, program = Packed.of(layout, data), _kernels.Program("portable", 1, False)
    x, y = np.ones((512, 1024), np.float32), np.empty((512, 1024), np.float32)
    ticks, going = [0], [True]

    def work() -> None:
        while going[0]:
            ticks[0] += 1
            time.sleep(0.001)

    before = sys.getswitchinterval()
    thread = threading.Thread(target=work, daemon=True)
    sys.setswitchinterval(1000)
    try:
        thread.start()
        time.sleep(0.05)
        start = ticks[0]
        program.product(packed.matrix, x, y)
        during = ticks[0] - start
    finally:
        sys.setswitchinterval(before)
        going[0] = False
        thread.join(60)
    assert during >= 5 and not thread.is_alive()


def test_one_model_in_four_threads() -> None:
    llm = Llama.load("tiny", backend="cpu")
    prompts = ["Once upon a time", "The dog", "A small bird was", "Lily said"]
    wanted = [llm.generate(prompt, max_new_tokens=8).text for prompt in prompts]
    found: dict[int, list[str]] = {}

    def work(place: int) -> None:
        found[place] = [llm.generate(prompts[place], max_new_tokens=8).text for _ in range(3)]

    threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == {place: 3 * [text] for place, text in enumerate(wanted)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_forked_in_the_middle_of_a_pass_can_run_the_model() -> None:
    code = (
        "llm = load()\nwanted = llm.forward([[1, 2, 3]]).logits\nstop = []\n"
        "def work():\n    while not stop: llm.forward([[5] * 400])\n"
        "thread = threading.Thread(target=work)\nthread.start()\ntime.sleep(0.2)\nstatus = []\n"
        "for _ in range(4):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        import signal\n        signal.alarm(10)\n"
        "        os._exit(0 if np.array_equal(llm.forward([[1, 2, 3]]).logits, wanted) else 1)\n"
        "    status.append(os.waitpid(child, 0)[1])\n"
        "    time.sleep(0.03)\n"
        "stop.append(1)\nthread.join()\nprint(status)\n"
    )
    assert run(code).stdout == "[0, 0, 0, 0]\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_pool_of_forked_processes() -> None:
    code = (
        "import multiprocessing\nllm = load()\nwanted = llm.forward([[1, 2, 3]]).logits\n"
        "def same(_): return bool(np.array_equal(llm.forward([[1, 2, 3]]).logits, wanted))\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: print(all(pool.map(same, range(6))))\n"
    )
    assert run(code).stdout == "True\n"


def test_the_interpreter_ends_while_a_daemon_thread_generates() -> None:
    code = (
        "llm = load()\n"
        "def work():\n    while True: llm.forward([[5] * 1500])\n"
        "threading.Thread(target=work, daemon=True).start()\ntime.sleep(0.3)\nprint('leaving', flush=True)\n"
    )
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "leaving\n", "")


# signals -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
@pytest.mark.parametrize("what", ["llm.forward([[5] * 1000])", "llm.generate([5], max_new_tokens=10**6)"])
def test_an_interrupt_ends_what_goes_on_at_once(what: str) -> None:
    """Logits of every position of a long prompt, whose head is nearly all of the work; and generating without end."""
    code = MODEL + (
        "llm = load(vocab_size=60000, hidden_size=512, intermediate_size=32, num_hidden_layers=1,\n"
        "           num_key_value_heads=1, max_position_embeddings=10**7, eos_token_id=None)\n"
        "print('ready', flush=True)\n"
        f"try:\n    {what}\nexcept KeyboardInterrupt:\n    print(time.process_time(), flush=True)\n"
    )
    environment = os.environ | {"POLYLLAMA_THREADS": "1", "POLYLLAMA_CPU_ISA": "portable"}
    process = start_process([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(2.5)
    so_far = sum(psutil.Process(process.pid).cpu_times()[:2])
    process.send_signal(signal.SIGINT)
    assert float(process.stdout.readline()) - so_far < 3  # of about ten more, on the processor's clock
    assert process.wait(30) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says which signals a thread takes")
def test_the_pools_threads_take_no_signals() -> None:
    code = (
        "llm = load()\nllm.forward([[1, 2]])\nimport pathlib\n"
        "for task in pathlib.Path('/proc/self/task').iterdir():\n"
        "    lines = (task / 'status').read_text().splitlines()\n"
        "    blocked = next(line.split()[1] for line in lines if line.startswith('SigBlk'))\n"
        "    if int(task.name) != os.getpid(): print(bool(int(blocked, 16) & 2))\n"
    )
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    assert set(environment.items()) <= set(os.environ.items())  # no other library's threads
    assert run(code, threads=3).stdout == "True\nTrue\n"


# memory --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process holds")
def test_generating_and_loading_keep_nothing() -> None:
    code = (
        "import gc\n"
        "def held():\n    gc.collect()\n    return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "llm = load(num_hidden_layers=1)\n"
        "def some(n):\n    for _ in range(n): llm.generate([5, 6], max_new_tokens=2)\n"
        "def loads(n):\n    for _ in range(n): load(num_hidden_layers=1).forward([[1, 2]])\n"
        "some(50)\nbefore = held()\nsome(300)\nprint(held() - before)\n"
        "loads(30)\nbefore = held()\nloads(100)\nprint(held() - before)\n"
    )
    grown = [int(line) for line in run(code, threads=1).stdout.split()]
    assert len(grown) == 2 and max(grown) < 20 << 20  # of 400 MB of models, and 40 MB of caches


# what is there -------------------------------------------------------------------------------------------------------


def test_kernels_that_do_not_load_are_said_and_passed_over(tmp_path: Path) -> None:
    """A file of the right name that is no extension, as after a change of machine or of libraries."""
    package = tmp_path / "polyllama"
    ignored = shutil.ignore_patterns(
        ".*", "tests", "benchmarks", "docs", "examples", "tools", "build", "*.so", "__pycache__", "models"
    )
    shutil.copytree(ROOT, package, ignore=ignored)
    shutil.copytree(ROOT / "models", package / "models")
    found = importlib.util.find_spec("polyllama.backends.cpu._kernels")
    assert found is not None and found.origin is not None
    (package / "backends" / "cpu" / Path(found.origin).name).write_bytes(b"\x7fELF, but no more")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = run_process(
        [sys.executable, "-m", "polyllama", "backends"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "kernels do not load" in text and "compiler" in text and "* cpu" not in text
    assert "kernels" not in (CpuBackend().availability().reason or "")
