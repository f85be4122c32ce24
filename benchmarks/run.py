"""Benchmarks, one after the other; run them on a machine that does nothing else.

make bench                         # all of them; figures and plots go to benchmarks/results
make bench ONLY="cpu_speed loading"
make bench QUICK=1                 # one round on smaller models: whether they run, not how fast; kept apart
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

QUICK: dict[str, tuple[str, ...]] = {
    "startup": ("--rounds", "1"),
    "listing": ("--rounds", "1"),
    "loading": ("--rounds", "1", "--megabytes", "100"),
    "packed_loading": ("--rounds", "1", "--layers", "2"),
    "cpu_speed": ("--rounds", "1", "--layers", "2", "--weights", "int4,bfloat16"),
    "cpu_accuracy": ("--stories", "5"),
    "torch_speed": ("--rounds", "1", "--dtype", "float32"),
    "jax_speed": ("--rounds", "1", "--dtype", "float32"),
    "mlx_speed": ("--rounds", "1", "--size", "tiny", "--dtype", "float32"),
    "scheduling": ("--rounds", "1", "--layers", "2", "--tokens", "16"),
    "constraints": ("--rounds", "1", "--tokens", "16", "--samples", "2"),
    "soak": ("--minutes", "0.2"),
    "quantized": ("--rounds", "1", "--backend", "torch:cpu", "--dtype", "bfloat16"),
}
"""The benchmarks in their order, and what makes each quick."""


def main() -> int:
    """Run them; the first that fails ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"of {', '.join(QUICK)}; all by default")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    unknown = [name for name in options.only if name not in QUICK]
    if unknown:
        parser.error(f"there is no benchmark called {unknown[0]!r}; there are: {', '.join(QUICK)}")
    folder, environment = Path(__file__).resolve().parent, dict(os.environ)
    if options.quick:
        environment["BENCH_RESULTS"] = tempfile.mkdtemp(prefix="polyllama-bench-")
        print(f"figures of the quick runs: {environment['BENCH_RESULTS']}")
    for name in options.only or QUICK:
        print(f"\n{name}", flush=True)
        command = [sys.executable, str(folder / f"{name}.py"), *(QUICK[name] if options.quick else ())]
        done = subprocess.run(command, check=False, env=environment)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
