"""Prefill and decode of the 100M-parameter model of torch_speed.py: the jax backend beside the torch one, in one run.

python benchmarks/jax_speed.py [--rounds 7] [--threads 2] [--dtype float32]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from importlib.metadata import version
from typing import Any

NEW = 48


def run(llm: Any, ids: Any) -> tuple[float, float]:
    """Prefill and greedy decode speed by forward and cache, in tokens per second; logits are waited for."""
    import numpy as np

    cache = llm.model.new_cache(1, ids.shape[1] + NEW)
    start = time.perf_counter()
    y = llm.forward(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    token = y.numpy()["logits"][:, -1].argmax(-1)
    middle = time.perf_counter()
    for _ in range(NEW):
        y = llm.forward(np.asarray(token)[:, None], past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = y.numpy()["logits"][:, -1].argmax(-1)
    end = time.perf_counter()
    return ids.shape[1] / (middle - start), NEW / (end - middle)


def generate(llm: Any, ids: Any) -> float:
    """End-to-end speed of ``generate``, prefill included."""
    start = time.perf_counter()
    llm.generate(input_ids=ids, max_new_tokens=NEW, eos_token_id=[])
    return NEW / (time.perf_counter() - start)


def measure(dtype: str, rounds: int, threads: int, prompt: int) -> dict[str, dict[str, list[float]]]:
    """Tokens per second of both, per kind of work, one figure a round."""
    import numpy as np
    import torch
    from measure import alternate
    from polyllama import Llama, LlamaConfig
    from torch_speed import CONFIG

    torch.set_num_threads(threads)
    peers = {
        name: Llama.load(LlamaConfig(**CONFIG), load_format="dummy", backend=f"{name}:cpu", dtype=dtype)
        for name in ("jax", "torch")
    }
    ids = np.random.default_rng(0).integers(3, 32000, (1, prompt))
    last: dict[str, tuple[float, float]] = {}

    def prefill(name: str) -> float:
        last[name] = run(peers[name], ids)
        return last[name][0]

    contenders = {}
    for name, llm in peers.items():
        contenders[f"{name} prefill"] = lambda name=name: prefill(name)
        contenders[f"{name} decode"] = lambda name=name: last[name][1]
        contenders[f"{name} generate"] = lambda llm=llm: generate(llm, ids[:, :32])
    figures = alternate(contenders, rounds)
    return {
        what: {peer: figures[f"{peer} {what}"] for peer in ("jax", "torch")}
        for what in ("prefill", "decode", "generate")
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), action="append")
    arguments = parser.parse_args()
    # One framework's waiting threads must not take the cores from the other's working ones. Read on import.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from measure import ratio, report
    from torch_speed import CONFIG

    warnings.filterwarnings("ignore", message="generated texts stay empty|a model made from a config")
    rows, result = [], {}
    for dtype in arguments.dtype or ("float32",):
        for what, figures in measure(dtype, arguments.rounds, arguments.threads, arguments.prompt).items():
            ratios = ratio(figures, "jax", "torch")
            result[f"{dtype} {what}"] = {"tokens per second": figures, "ratio": ratios}
            medians = [f"{statistics.median(figures[peer]):.1f}" for peer in ("jax", "torch")]
            rows.append((dtype, what, *medians, *(f"{ratios[k]:.2f}" for k in ("min", "median", "max"))))
    header = ("dtype", "what", "jax tok/s", "torch tok/s", "ratio min", "median", "max")
    about = {"config": CONFIG, "threads": arguments.threads, "prompt": arguments.prompt, "jax": version("jax")}
    report("jax_speed", {**about, "results": result}, rows, header)


if __name__ == "__main__":
    main()
