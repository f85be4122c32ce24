"""What the cpu backend's roundings cost the bundled model ``tiny``, in loss on stories it was not trained on.

python benchmarks/cpu_accuracy.py [--stories 100]

Inputs rounded to int8 beside the same packed weights with inputs in float32, plain weights in bfloat16 and float16
beside float32, and keys and values of fewer bits beside float32.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "bundled_models"))

from measure import report
from quantized import stories_of

BATCH = 20
WAYS = (
    ("weights", None, "float32", ("bfloat16", "float16")),
    ("int8", "int8-g32", "float32", ("bfloat16",)),
    ("int4", "int4-g32", "float32", ("bfloat16",)),
)
CACHES = ("bfloat16", "float16", "int8")


def loss_of(rows: Sequence[Sequence[int]], *, step: int | None = None, **options: Any) -> float:
    """Mean loss in nats per token. With `step`, the model is fed so many tokens at a time through its cache."""
    import numpy as np
    from polyllama import Llama

    llm = Llama.load("tiny", backend="cpu", **options)
    total, count = 0.0, 0
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        length = max(map(len, batch))
        ids = np.array([[*row, *[0] * (length - len(row))] for row in batch])
        real = np.array([[1] * len(row) + [0] * (length - len(row)) for row in batch])
        logits, cache = [], None
        for first in range(0, length, step or length):
            last = min(first + (step or length), length)
            y = llm.forward(ids[:, first:last], attention_mask=real[:, :last], past_key_values=cache, use_cache=True)
            cache = y.past_key_values
            logits.append(y.logits)
        scores = np.concatenate(logits, axis=1)[:, :-1].astype(np.float64)
        top = scores.max(axis=-1, keepdims=True)
        logs = scores - top - np.log(np.exp(scores - top).sum(axis=-1, keepdims=True))
        chosen = np.take_along_axis(logs, ids[:, 1:, None], axis=-1)[..., 0]
        total -= float((chosen * real[:, 1:]).sum())
        count += int(real[:, 1:].sum())
    return total / count


def main() -> None:
    """Measure and keep."""
    import os

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", type=int, default=100)
    count = parser.parse_args().stories
    from polyllama import Llama

    rows = stories_of(Llama.load("tiny", backend="cpu").tokenizer, "heldout", count)
    found: list[tuple[str, str, float, float]] = []
    for name, quantize, exact, others in WAYS:
        base = loss_of(rows, dtype=exact, quantize=quantize)
        for dtype in others:
            found.append((name, f"{dtype} beside {exact}", base, loss_of(rows, dtype=dtype, quantize=quantize)))
    base = loss_of(rows, dtype="float32", step=16)
    for element in CACHES:
        os.environ["POLYLLAMA_KV_CACHE"] = element
        found.append(("keys and values", f"{element} beside float32", base, loss_of(rows, dtype="float32", step=16)))
        del os.environ["POLYLLAMA_KV_CACHE"]
    table = [(name, what, f"{a:.5f}", f"{b:.5f}", f"{b / a - 1:+.3%}") for name, what, a, b in found]
    result = [{"what": f"{name}: {what}", "loss": a, "rounded": b, "ratio": b / a - 1} for name, what, a, b in found]
    report("cpu_accuracy", {"stories": count, "figures": result}, table, ("part", "in", "exact", "rounded", "cost"))


if __name__ == "__main__":
    main()
