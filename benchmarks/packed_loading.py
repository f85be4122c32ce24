"""Loading a packed int4 model of 1.1 billion parameters: how long it takes, and what memory of its own it needs.

python benchmarks/packed_loading.py [--rounds 5]

Each in a fresh process, the file in the page cache: ``Llama.load``, then a first forward pass. Memory of one's own is
what Linux calls anonymous: pages of a mapped file are not, unless they were copied to be written to.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from measure import in_fresh_process, report

LOAD = """
import json, time
from pathlib import Path

def own():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return {line.split()[0][:-1]: 1024 * int(line.split()[1]) for line in lines[1:]}

from polyllama import Llama
import numpy
if not packed:
    import polyllama.backends.cpu.packed_file as file
    file.find = lambda *_: None
before = own()
start = time.perf_counter()
llm = Llama.load(folder, backend="cpu")
load = time.perf_counter() - start
loaded = own()
llm.forward([[1, 2, 3]])
first = time.perf_counter() - start
ran = own()
print(json.dumps({
    "load": load, "first": first, "added by loading": loaded["Anonymous"] - before["Anonymous"],
    "added by both": ran["Anonymous"] - before["Anonymous"], "mapped": ran["Rss"] - ran["Anonymous"],
}))
"""


def main() -> None:
    """Write the model, load it with and without the packed file, keep the figures."""
    from polyllama import LlamaConfig
    from polyllama.plugins.bench.random_models import TINYLLAMA, write_checkpoint

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=TINYLLAMA["num_hidden_layers"], help="fewer are quicker to try")
    options = parser.parse_args()
    rounds, config = options.rounds, LlamaConfig(**TINYLLAMA | {"num_hidden_layers": options.layers})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        start = time.perf_counter()
        write_checkpoint(folder, config, "int4", pack=True)
        print(f"written in {time.perf_counter() - start:.0f} s")
        size = (folder / "polyllama-cpu.packed").stat().st_size
        found = {
            way: [in_fresh_process(LOAD, folder=str(folder), packed=way == "packed") for _ in range(count)]
            for way, count in (("packed", rounds + 1), ("not packed", 2))
        }
    rows = []
    for way, runs in found.items():
        middle = {key: statistics.median(run[key] for run in runs[1:]) for key in runs[0]}
        own = (f"{middle[key] / 1e6:.1f} MB" for key in ("added by loading", "added by both"))
        rows.append(
            (way, f"{middle['load']:.3f} s", f"{middle['first']:.3f} s", *own, f"{middle['mapped'] / 1e6:.0f} MB")
        )
    header = ("weights", "load", "load and first pass", "own memory, load", "and first pass", "mapped files")
    report("packed_loading", {"packed bytes": size, "runs": found}, rows, header)


if __name__ == "__main__":
    main()
