"""The command line: ``polyllama`` and ``python -m polyllama``.

Every command is a plugin's, built-in or not, and its module is imported when it is invoked. Exit codes: 0 success, 1 an
error that polyllama explains, 2 wrong usage, 70 a bug, 130 interrupted, 141 whoever read the output stopped reading.
"""

from __future__ import annotations

# What signal itself is made of; that imports enum first, which takes as long as all below.
import _signal as signal  # type: ignore[import-not-found]
import os
import sys

INTERRUPTED = 130


def process() -> int:
    """``main`` for a process of its own, which starts and ends sooner: it seldom looks for garbage, not at its end.

    A command makes little garbage; most of what it has when the collector would run are modules, which stay. Ctrl-C
    while modules are imported, and when all is done, ends the process without a traceback.
    """
    catches = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # nohup and others have it ignored
    if catches:
        signal.signal(signal.SIGINT, _leave)
    import gc

    gc.set_threshold(20_000, 20, 20)
    from .cli.main import main

    try:
        if catches:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return main()
    except KeyboardInterrupt:  # before main could say so itself, or after
        return _leave()
    finally:
        if catches:
            signal.signal(signal.SIGINT, _leave)
        gc.freeze()


def _leave(*_: object) -> int:
    """End at once: nothing has been written yet, or everything is."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(process())
