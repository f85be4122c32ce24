"""Whose turn it is to run steps: one at a time, and who waits sleeps until there is something for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass

from ..errors import GenerationError

_STEPS: ContextVar[tuple[object, ...]] = ContextVar("steps that code runs in", default=())


class Inside:
    """Which code runs inside a loop's step: as a context it is entered for each step, by one thread at a time.

    Threads and tasks that the code starts with its context, as asyncio does, are inside too.

    >>> inside = Inside()
    >>> with inside:
    ...     inside.refuse()
    Traceback (most recent call last):
    polyllama.extend.GenerationError: code that runs inside a step of a model cannot have the same model generate; \
call the model itself, or generate before
    >>> inside.refuse()
    """

    def __init__(self) -> None:
        self._step: object | None = None
        self._before: Token[tuple[object, ...]] | None = None

    def __enter__(self) -> None:
        self._step = object()
        self._before = _STEPS.set((*_STEPS.get(), self._step))

    def __exit__(self, *exception: object) -> None:
        self._step = None
        if self._before is not None:
            _STEPS.reset(self._before)

    def refuse(self) -> None:
        """Refuse to wait for a job, or to run a step, in a caller's own code: nobody would run the next.

        Raises:
            GenerationError: a step runs this code.
        """
        if self._step is not None and self._step in _STEPS.get():
            text = "code that runs inside a step of a model cannot have the same model generate"
            raise GenerationError(text, hint="call the model itself, or generate before")


@dataclass(eq=False)
class _Waiter:
    until: Callable[[], bool]
    woken: threading.Condition


class Turns:
    """A turn that one thread has at a time. The others are woken when what they wait for is there, or to take it over.

    Args:
        lock: guards what the conditions look at.

    >>> turns = Turns(threading.RLock())
    >>> turns.taken(lambda: False), turns.held
    (True, True)
    >>> turns.pass_on(); turns.taken(lambda: True), turns.held
    (False, False)
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._waiters: list[_Waiter] = []
        self._owner: int | None = None

    @property
    def held(self) -> bool:
        """Whether somebody has the turn."""
        return self._owner is not None

    def _free(self) -> bool:
        """Whether the turn can be taken: an interrupt may have left it with this thread, or with one that is gone."""
        owner = self._owner
        return owner in (None, threading.get_ident()) or all(owner != each.ident for each in threading.enumerate())

    def taken(self, until: Callable[[], bool], patience: float = 1.0) -> bool:
        """Take the turn as soon as nobody has it; false where `until` comes true before.

        Args:
            patience: seconds after which `until` is asked again by itself.
        """
        with self._lock:
            while not until():
                if self._free():
                    self._owner = threading.get_ident()
                    return True
                waiter = _Waiter(until, threading.Condition(self._lock))
                self._waiters.append(waiter)
                try:
                    waiter.woken.wait(patience)
                finally:
                    self._waiters.remove(waiter)
                    if not self.held:  # it was woken to take over, and may have no use for that any more
                        self._call_next()
            return False

    def wake(self) -> None:
        """Wake whoever has what it waits for."""
        with self._lock:
            for waiter in self._waiters:
                if waiter.until():
                    waiter.woken.notify()

    def pass_on(self) -> None:
        """Give the turn back; somebody who waits takes it."""
        self._owner = None
        with self._lock:
            self._call_next()

    def _call_next(self) -> None:
        if self._waiters:
            self._waiters[0].woken.notify()
