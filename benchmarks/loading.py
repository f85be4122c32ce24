"""Loading a bf16 checkpoint to torch on the CPU: time and peak memory beside transformers, each in fresh processes.

python benchmarks/loading.py [--megabytes 1000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from measure import alternate, in_fresh_process, ratio, report

LOAD = """
import json, sys, time
sys.path.insert(0, BENCH)
from measure import PeakMemory
import torch
torch.set_num_threads(2)
if WHO == "polyllama":
    from polyllama import Llama
    import polyllama.backends.torch.model
    def load():
        llm = Llama.load(FOLDER, backend="torch:cpu")
        return lambda: llm.forward([[1, 2, 3]])
else:
    import transformers
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    from transformers import LlamaForCausalLM
    def load():
        model = LlamaForCausalLM.from_pretrained(FOLDER, dtype=torch.bfloat16)
        return lambda: model(torch.tensor([[1, 2, 3]]))
with PeakMemory() as memory:
    start = time.perf_counter()
    forward = load()
    loaded = time.perf_counter() - start
    added = memory.peak - memory.start
    with torch.no_grad():
        forward()
    first = time.perf_counter() - start
print(json.dumps({"load": loaded, "first": first, "peak": memory.added, "peak_load": added}))
"""


def main() -> None:
    """Make a checkpoint, load it alternately with both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    from polyllama import Llama, LlamaConfig

    with tempfile.TemporaryDirectory() as folder:
        layers = max(1, round((arguments.megabytes - 131) / 101))
        config = LlamaConfig(
            hidden_size=2048,
            intermediate_size=5632,
            num_attention_heads=32,
            num_hidden_layers=layers,
            dtype="bfloat16",
            tie_word_embeddings=True,
        )
        Llama.load(config, load_format="dummy", backend="torch:cpu").save(folder)
        size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
        bench = str(Path(__file__).resolve().parent)
        runs: dict[str, list[dict[str, float]]] = {"polyllama": [], "transformers": []}

        def once(who: str) -> float:
            runs[who].append(in_fresh_process(LOAD, WHO=who, FOLDER=folder, BENCH=bench))
            return runs[who][-1]["first"]

        figures = alternate({who: (lambda who=who: once(who)) for who in runs}, arguments.rounds)  # type: ignore[misc]
    rows = []
    for who, measured in runs.items():
        best = {key: min(run[key] for run in measured[1:]) for key in measured[0]}
        peak = max(run["peak"] for run in measured[1:])
        rows.append((who, f"{best['load']:.2f} s", f"{best['first']:.2f} s", f"{peak / size:.3f} x"))
    header = ("", "load", "load and first forward", "peak memory added / checkpoint size")
    result = {
        "checkpoint bytes": size,
        "runs": runs,
        "ratio of first forward": ratio(figures, "polyllama", "transformers"),
    }
    report("loading", result, rows, header)


if __name__ == "__main__":
    main()
