"""Backend cpu beside llama.cpp, transformers and OpenVINO on a random model in the shape of TinyLlama-1.1B.

python benchmarks/cpu_speed.py [--weights int4,int8,bfloat16] [--rounds 3]

The same as ``polyllama bench --weights int4,int8,bfloat16 --vs llama-cpp,transformers,openvino --long``; keeps its
figures in benchmarks/results/cpu_speed.json, where kinds of weights that were not measured now stay as they were, and
draws them.
"""

from __future__ import annotations

import argparse
import json

from measure import RESULTS
from polyllama import LlamaConfig
from polyllama.plugins.bench.random_models import TINYLLAMA
from polyllama.plugins.bench.run import MEASURES, check_installed, draw, rows, run


def main() -> None:
    """Measure, print, keep, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="int4,int8,bfloat16")
    parser.add_argument("--peers", default="llama-cpp,transformers,openvino")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="by default the physical cores")
    parser.add_argument("--layers", type=int, default=TINYLLAMA["num_hidden_layers"], help="fewer are quicker to try")
    parser.add_argument("--measures", default=",".join(measure.name for measure in MEASURES))
    options = parser.parse_args()
    kinds, peers = options.weights.split(","), [peer for peer in options.peers.split(",") if peer]
    config, measures = LlamaConfig(**TINYLLAMA | {"num_hidden_layers": options.layers}), options.measures.split(",")
    check_installed("plot")
    result = run(config, kinds, peers, threads=options.threads, rounds=options.rounds, measures=measures)
    for row in rows(result):
        print("  ".join(row))
    path = RESULTS / "cpu_speed.json"
    if path.is_file():
        result["kinds"] = json.loads(path.read_text())["kinds"] | result["kinds"]
    path.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, RESULTS / "cpu_speed.png")


if __name__ == "__main__":
    main()
