"""A child that is forked while its parent generates: it has the model and the memory, and none of the threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import pytest
from support_processes import run_process

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

BEGIN = """
import os, signal, sys, threading, time
from polyllama import Llama
from polyllama.core.errors import GenerationError
llm = Llama.load("tiny", backend={backend!r})
wanted = llm.generate("The dog", max_new_tokens=6).text
def forked(check):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    signal.alarm(30)  # a child that waits for what never comes is ended by it, and counts as wrong
    try:
        os._exit(0 if check() else 1)
    finally:
        os._exit(2)
"""


def statuses(backend: str, code: str) -> Sequence[str]:
    command = [sys.executable, "-c", BEGIN.format(backend=backend) + code]
    done = run_process(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return str(done.stdout).split()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_child_generates_while_its_parent_is_in_the_middle_of_it(backend: str) -> None:
    found = statuses(
        backend,
        """
stop = []
def work():
    while not stop: llm.generate(["Once upon a time", "A bird"], max_new_tokens=40)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
status = []
for place in range(5):
    time.sleep(0.05)
    status.append(forked(lambda: llm.generate("The dog", max_new_tokens=6).text == wanted))
stop.append(1)
for thread in threads: thread.join()
print(*status, llm.generate("The dog", max_new_tokens=6).text == wanted)
""",
    )
    assert found == ["0"] * 5 + ["True"]


def test_jobs_of_the_parent_end_in_the_child_and_go_on_in_the_parent() -> None:
    found = statuses(
        "reference",
        """
scheduler, ids = llm.scheduler, llm.tokenizer.encode("The dog")
waiting, begun = (scheduler.submit(ids, max_new_tokens=6) for _ in range(2))
events = iter(begun)
next(events)
def ended():
    said = []
    for job in (waiting, begun):
        try: job.result()
        except GenerationError as error: said.append(str(error))
    assert all("was submitted before this process was forked; submit it in the child" in text for text in said), said
    assert len(said) == 2 and scheduler.running == scheduler.waiting == 0
    return scheduler.submit(ids, max_new_tokens=6).result().text == wanted
print(forked(ended), waiting.result().text == wanted, begun.result().text == wanted)
""",
    )
    assert found == ["0", "True", "True"]


def test_locks_that_threads_of_the_parent_hold_are_open_in_the_child() -> None:
    """The scheduler's own, the turn to run steps, and the one under which a scheduler is made."""
    found = statuses(
        "reference",
        """
from polyllama.core.api import scheduling
other, held, done = Llama.load("tiny", backend="reference"), threading.Event(), threading.Event()
def hold():
    with scheduling._MAKING[0], llm.scheduler._lock:
        llm.scheduler._turns.taken(lambda: False)
        held.set()
        done.wait()
        llm.scheduler._turns.pass_on()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
print(*(forked(lambda: each.generate("The dog", max_new_tokens=6).text == wanted) for each in (llm, other)))
done.set()
thread.join()
""",
    )
    assert found == ["0", "0"]


def test_locks_of_constraints_are_open_in_the_child() -> None:
    """One that a thread of the parent holds, and a vocabulary that it is in the middle of."""
    found = statuses(
        "reference",
        """
from polyllama.core.constraints import compiling
tokenizer, made, done = llm.tokenizer, threading.Event(), threading.Event()
whole = tokenizer.token_bytes
def slow(token_id):
    if threading.current_thread() is thread:
        made.set()
        done.wait()
    return whole(token_id)
tokenizer.token_bytes = slow
def yes(model): return model.generate("The dog", choices=["yes"], max_new_tokens=9).parsed == "yes"
thread = threading.Thread(target=yes, args=(llm,))
thread.start()
made.wait()
other = Llama.load("tiny", backend="reference")
middle = [forked(lambda: yes(llm)), forked(lambda: yes(other))]
def beside(): found.append(yes(other))
found = []
second = threading.Thread(target=beside, daemon=True)
second.start()
second.join(20)
print(*middle, found)
done.set()
thread.join()
held, over = threading.Event(), threading.Event()
entry = compiling._prepared_for(tokenizer, llm.config.vocab_size)
def hold():
    with compiling._preparing[0], entry.lock:
        held.set()
        over.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
print(forked(lambda: yes(llm)))
over.set()
thread.join()
""",
    )
    assert found == ["0", "0", "[True]", "0"]


def test_a_childs_asyncio_has_threads_of_its_own() -> None:
    """The parent's pool believes that its idle threads exist, which in the child they do not."""
    found = statuses(
        "reference",
        """
import asyncio
def again(): return asyncio.run(llm.agenerate("The dog", max_new_tokens=6)).text == wanted
print(again(), again(), forked(again))
""",
    )
    assert found == ["True", "True", "0"]
