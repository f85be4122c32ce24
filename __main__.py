"""The command line: ``polyllama`` and ``python -m polyllama``.

Every command is a plugin's, built-in or not, and its module is imported when it is invoked. Exit codes: 0 success, 1 an
error that polyllama explains, 2 wrong usage, 70 a bug, 130 interrupted, 141 whoever read the output stopped reading.
"""

from __future__ import annotations

import gc
import sys

from .cli.main import main


def process() -> int:
    """``main`` for a process of its own, which starts and ends sooner: it seldom looks for garbage, not at its end.

    A command makes little garbage; most of what it has when the collector would run are modules, which stay.
    """
    gc.set_threshold(20_000, 20, 20)
    try:
        return main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(process())
