"""Listing backends and plugins: whole processes, which should take under 0.3 s and import no framework.

python benchmarks/listing.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

from measure import alternate, in_fresh_process, report, seconds

LIMIT = 0.3
LISTINGS = (["plugins", "--json"], ["backends", "--json"], ["models", "--json"], ["--help"])
FRAMEWORKS = ("torch", "mlx", "jax", "jaxlib", "transformers", "tensorflow", "numpy")
IMPORTED = """
import contextlib, io, json, sys
from polyllama.cli.main import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main(arguments) == 0
print(json.dumps({name: 1.0 for name in frameworks if name in sys.modules}))
"""


def main() -> int:
    """Time each listing as a whole process, alternately; 1 if one is too slow or imports a framework."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()

    def run(*command: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL))

    contenders = {"python alone": ["-c", "pass"]}
    contenders |= {f"polyllama {' '.join(listing)}": ["-m", "polyllama", *listing] for listing in LISTINGS}
    figures = alternate({name: (lambda c=c: run(*c)) for name, c in contenders.items()}, arguments.rounds)  # type: ignore[misc]
    imported = {
        f"polyllama {' '.join(listing)}": sorted(in_fresh_process(IMPORTED, arguments=listing, frameworks=FRAMEWORKS))
        for listing in LISTINGS
    }
    rows, failed = [], False
    for name, times in figures.items():
        slow, brought = statistics.median(times) >= LIMIT, imported.get(name, [])
        failed = failed or slow or bool(brought)
        shown = [f"{1000 * figure:.0f} ms" for figure in (min(times), statistics.median(times), max(times))]
        rows.append((name, *shown, ", ".join(brought) or "none"))
    result = {"seconds": figures, "frameworks": imported, "limit": LIMIT}
    report("listing", result, rows, ("process", "min", "median", "max", "frameworks imported"))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
