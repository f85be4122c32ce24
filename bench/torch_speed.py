"""Prefill and decode of a 100M-parameter random model: the torch backend beside transformers, in one run.

    python bench/torch_speed.py [--rounds 7] [--threads 2]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import torch
import transformers
from measure import alternate, ratio, report
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


def main() -> None:
    """Measure both dtypes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    rows, result = [], {}
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).to(getattr(torch, dtype)).eval()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            llm = Llama.load(folder, backend="torch:cpu", dtype=dtype)
            ids = torch.randint(3, 32000, (1, PROMPT))
            last: dict[str, tuple[float, float]] = {}

            def prefill(name: str, run: Any, last: Any = last) -> float:
                last[name] = run()
                return float(last[name][0])

            import warnings

            warnings.filterwarnings("ignore", message="generated texts stay empty")
            speeds: dict[str, dict[str, list[float]]] = {"prefill": {}, "decode": {}, "generate": {}}
            pairs = alternate(
                {
                    "transformers": lambda: prefill("transformers", lambda: theirs(model, ids)),
                    "transformers decode": lambda: last["transformers"][1],
                    "polyllama": lambda: prefill("polyllama", lambda: ours(llm, ids)),
                    "polyllama decode": lambda: last["polyllama"][1],
                    "transformers generate": lambda: generate_theirs(model, ids[:, :32]),
                    "polyllama generate": lambda: generate_ours(llm, ids[:, :32]),
                },
                arguments.rounds,
            )
            for peer in ("transformers", "polyllama"):
                speeds["prefill"][peer] = pairs[peer]
                speeds["decode"][peer] = pairs[f"{peer} decode"]
                speeds["generate"][peer] = pairs[f"{peer} generate"]
        for what, figures in speeds.items():
            ratios = ratio(figures, "polyllama", "transformers")
            result[f"{dtype} {what}"] = {"tokens per second": figures, "ratio": ratios}
            medians = [f"{sorted(f)[len(f) // 2]:.1f}" for f in (figures["polyllama"], figures["transformers"])]
            rows.append((dtype, what, *medians, *(f"{ratios[k]:.2f}" for k in ("min", "median", "max"))))
    header = ("dtype", "what", "polyllama tok/s", "transformers tok/s", "ratio min", "median", "max")
    report("torch_speed", {"config": CONFIG, "threads": arguments.threads, "results": result}, rows, header)


if __name__ == "__main__":
    main()
