"""Prefill and decode of a 100M-parameter random model: the torch backend beside transformers, in one run.

python benchmarks/torch_speed.py [--rounds 7] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import transformers
from measure import alternate, plot, ratio, report
from polyllama import Llama

PROMPT, NEW = 512, 48
CONFIG: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "tie_word_embeddings": True,
}


def theirs(model: Any, ids: torch.Tensor) -> tuple[float, float]:
    """Prefill and decode speed of transformers by its own forward and cache, in tokens per second."""
    with torch.no_grad():
        start = time.perf_counter()
        y = model(ids, use_cache=True, logits_to_keep=1)
        middle = time.perf_counter()
        for _ in range(NEW):
            token = y.logits[:, -1].argmax(-1, keepdim=True)
            y = model(token, past_key_values=y.past_key_values, use_cache=True, logits_to_keep=1)
        end = time.perf_counter()
    return ids.shape[1] / (middle - start), NEW / (end - middle)


def generate_theirs(model: Any, ids: torch.Tensor) -> float:
    """End-to-end speed of ``generate`` in transformers, prefill included."""
    start = time.perf_counter()
    model.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0)
    return NEW / (time.perf_counter() - start)


def ours(llm: Llama, ids: torch.Tensor) -> tuple[float, float]:
    """The same with polyllama."""
    start = time.perf_counter()
    y = llm.forward(ids, use_cache=True, logits_to_keep=1)
    middle = time.perf_counter()
    for _ in range(NEW):
        token = y.logits[:, -1].argmax(-1, keepdim=True)
        y = llm.forward(token, past_key_values=y.past_key_values, use_cache=True, logits_to_keep=1)
    end = time.perf_counter()
    return ids.shape[1] / (middle - start), NEW / (end - middle)


def generate_ours(llm: Llama, ids: torch.Tensor) -> float:
    """End-to-end speed of ``generate`` in polyllama, prefill included."""
    start = time.perf_counter()
    llm.generate(input_ids=ids, max_new_tokens=NEW, eos_token_id=[])
    return NEW / (time.perf_counter() - start)


def measure(dtype: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Tokens per second of both, per kind of work, one figure a round."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).to(getattr(torch, dtype)).eval()
    ids = torch.randint(3, 32000, (1, PROMPT))
    last: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        llm = Llama.load(folder, backend="torch:cpu", dtype=dtype)

        def both(name: str, run: Callable[[], tuple[float, float]]) -> float:
            last[name] = run()
            return last[name][0]

        figures = alternate(
            {
                "transformers prefill": lambda: both("transformers", lambda: theirs(model, ids)),
                "transformers decode": lambda: last["transformers"][1],
                "polyllama prefill": lambda: both("polyllama", lambda: ours(llm, ids)),
                "polyllama decode": lambda: last["polyllama"][1],
                "transformers generate": lambda: generate_theirs(model, ids[:, :32]),
                "polyllama generate": lambda: generate_ours(llm, ids[:, :32]),
            },
            rounds,
        )
    return {
        what: {peer: figures[f"{peer} {what}"] for peer in ("polyllama", "transformers")}
        for what in ("prefill", "decode", "generate")
    }


def main() -> None:
    """Measure both dtypes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), action="append")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message="generated texts stay empty")
    rows, result = [], {}
    for dtype in arguments.dtype or ("float32", "bfloat16"):
        for what, figures in measure(dtype, arguments.rounds).items():
            ratios = ratio(figures, "polyllama", "transformers")
            result[f"{dtype} {what}"] = {"tokens per second": figures, "ratio": ratios}
            medians = [f"{statistics.median(figures[peer]):.1f}" for peer in ("polyllama", "transformers")]
            rows.append((dtype, what, *medians, *(f"{ratios[k]:.2f}" for k in ("min", "median", "max"))))
    header = ("dtype", "what", "polyllama tok/s", "transformers tok/s", "ratio min", "median", "max")
    medians_of = {
        peer: [statistics.median(figures["tokens per second"][peer]) for figures in result.values()]
        for peer in ("polyllama", "transformers")
    }
    plot("torch_speed", list(result), medians_of, "tokens per second")
    report("torch_speed", {"config": CONFIG, "threads": arguments.threads, "results": result}, rows, header)


if __name__ == "__main__":
    main()
