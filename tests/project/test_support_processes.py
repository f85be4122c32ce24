"""The tests' own child processes: interrupts, time limits, and what is left running."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support_processes import end_processes, run_process, start_process

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes have no groups and signals of this kind there")
TESTS = Path(__file__).parents[1]
WAIT = (
    "import time\n"
    "try:\n    print('ready', flush=True)\n    time.sleep(60)\n"
    "except KeyboardInterrupt:\n    print('ended')\n"
)
GRANDCHILD = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']{})\n"
    "print(child.pid, flush=True)\n"
)
QUIET = GRANDCHILD.format(", stdout=subprocess.DEVNULL")
TALKING = GRANDCHILD.format("")  # keeps its parent's output open


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def has_ended(pid: int) -> bool:
    """Whether a process ends within a few seconds: a signal takes effect after it was sent."""
    end = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not is_running(pid)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler], ids=["ignored", "usual"])
def test_an_interrupt_reaches_a_child_whoever_ignores_it_here(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        process = start_process([sys.executable, "-c", WAIT], stdout=subprocess.PIPE, text=True)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "ended\n"


def test_a_child_that_takes_too_long_is_ended_while_its_output_is_waited_for() -> None:
    process = start_process([sys.executable, "-c", WAIT], stdout=subprocess.PIPE, text=True, timeout=2)
    assert process.stdout is not None
    assert process.stdout.read() in ("ready\n", "")  # nothing at all where starting took longer
    assert process.wait(timeout=30) == -signal.SIGKILL
    with pytest.raises(subprocess.TimeoutExpired):
        run_process([sys.executable, "-c", WAIT], capture_output=True, timeout=1)


def test_what_a_child_leaves_running_is_ended() -> None:
    done = run_process([sys.executable, "-c", QUIET], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and has_ended(int(done.stdout))


@pytest.mark.parametrize("then", ["", "time.sleep(60)"], ids=["alone", "with its parent"])
def test_whatever_still_runs_at_the_end_of_a_test_is_ended(then: str) -> None:
    process = start_process([sys.executable, "-c", TALKING + then], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    if not then:
        assert process.wait(timeout=30) == 0
    assert is_running(grandchild)
    end_processes()
    assert has_ended(grandchild) and process.returncode == (-signal.SIGKILL if then else 0)


def test_what_a_child_says_and_how_it_ends_comes_back() -> None:
    code = "import sys; print(sys.stdin.read()); print('badly', file=sys.stderr); sys.exit(3)"
    command = [sys.executable, "-c", code]
    done = run_process(command, input="in", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "in\n", "badly\n")
    with pytest.raises(subprocess.CalledProcessError):
        run_process(command, input="in", capture_output=True, text=True, check=True)


def unbounded(source: str) -> list[str]:
    """Calls that start a process otherwise than this suite does, or wait for something without a limit."""
    starts = {"run", "Popen", "call", "check_call", "check_output"}
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, node.func.value
        started = isinstance(owner, ast.Name) and owner.id == "subprocess" and name in starts
        waits = name in {"wait", "join", "communicate"} and not node.args and not node.keywords
        forks = isinstance(owner, ast.Name) and (owner.id, name) in {("os", "fork"), ("os", "system"), ("os", "popen")}
        if started or waits or forks:
            found.append(f"line {node.lineno}: {ast.unparse(node.func)}")
    return found


def test_every_test_starts_and_waits_by_these_ways() -> None:
    assert len(unbounded("subprocess.run([])\nthread.join()\n', '.join(x)\nprocess.wait(3)\nprocess.wait()")) == 3
    files = [path for path in sorted(TESTS.rglob("*.py")) if path.name != "support_processes.py"]
    assert len(files) > 80
    found = {str(path.relative_to(TESTS)): unbounded(path.read_text(encoding="utf-8")) for path in files}
    wrong = {name: places for name, places in found.items() if places}
    assert not wrong, "start processes by run_process or start_process of support_processes, wait with a timeout"
