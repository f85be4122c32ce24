"""Startup: importing polyllama, and the whole process of loading ``tiny`` and generating a first token.

python benchmarks/startup.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

from measure import alternate, report, seconds

PROGRAMS = {
    "python alone": "pass",
    "import polyllama": "import polyllama",
    "first token of tiny": (
        "from polyllama import Llama\n"
        "llm = Llama.load('tiny', backend='reference', dtype='float32')\n"
        "assert llm.generate('Once upon a time', max_new_tokens=1).token_ids"
    ),
    "first token of tiny, backend cpu": (
        "from polyllama import Llama\n"
        "llm = Llama.load('tiny', backend='cpu')\n"
        "assert llm.generate('Once upon a time', max_new_tokens=1).token_ids"
    ),
    "polyllama run tiny, backend cpu": (
        "import sys\n"
        "sys.argv = ['polyllama', 'run', 'tiny', 'Once upon a time', '--backend', 'cpu', '--max-new-tokens', '1']\n"
        "from polyllama.__main__ import process\n"
        "sys.exit(process())"
    ),
}


def main() -> None:
    """Time each program as a whole process, alternately."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()

    # As on a user's machine: the first round, which is not counted, compiles modules, the others find them compiled.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def run(program: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, "-c", program], check=True, env=environment, **silent))

    figures = alternate({name: (lambda p=p: run(p)) for name, p in PROGRAMS.items()}, arguments.rounds)  # type: ignore[misc]
    rows = [
        (name, *(f"{1000 * figure:.0f} ms" for figure in (min(times), statistics.median(times), max(times))))
        for name, times in figures.items()
    ]
    report("startup", {"seconds": figures}, rows, ("process", "min", "median", "max"))


if __name__ == "__main__":
    main()
