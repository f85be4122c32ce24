"""A call on a stack of its own: llguidance goes down rules by recursion, and the end of a stack ends the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from ...core.errors import GenerationError

T = TypeVar("T")

STACK = 512 << 20
"""Bytes of addresses: some 4 kB for each rule behind another, of which a source of the longest has up to 70,000."""

_starting = threading.Lock()


def on_deep_stack(call: Callable[[], T]) -> T:
    """What a call returns or raises, which runs in a thread of its own.

    Raises:
        GenerationError: there are no addresses for its stack.

    >>> on_deep_stack(lambda: 1 + 1)
    2
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    with _starting:
        usual = threading.stack_size(STACK)
        try:
            threading.Thread(target=run, name="polyllama-constraint", daemon=True).start()
        except RuntimeError:
            raise GenerationError(
                f"there are no {STACK >> 20} MiB of addresses to compile a long constraint in",
                hint="raise the process's limit of virtual memory (ulimit -v), or shorten the constraint",
            ) from None
        finally:
            threading.stack_size(usual)
    return future.result()
