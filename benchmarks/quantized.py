"""Quantized weights beside plain ones: decoding speed and memory of a 110M-parameter random model on each backend.

python benchmarks/quantized.py [--backend torch:cpu] [--dtype bfloat16] [--rounds 5] [--threads 2]

And what quantizing costs the bundled model `tiny`, in loss on stories it was not trained on: --losses.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import RESULTS, alternate, in_fresh_process, ratio, report

NEW = 24
CONFIG: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
WAYS = ("plain", "int8", "int4")
MEMORY = """
import json, warnings
from measure import PeakMemory
from polyllama import Llama
warnings.simplefilter("ignore")
Llama.load("tiny", backend=backend, dtype=dtype).generate("Once", max_new_tokens=2)  # the framework's own memory
with PeakMemory() as memory:
    llm = Llama.load(folder, backend=backend, dtype=dtype)
    llm.generate(input_ids=[[1, 2, 3, 4]], max_new_tokens=4, eos_token_id=[])
print(json.dumps({"added": memory.added}))
"""


def checkpoints(place: Path) -> dict[str, Path]:
    """The model, plain and quantized."""
    from polyllama import Llama, LlamaConfig
    from polyllama.core.export.quantize_checkpoint import quantize_checkpoint

    plain = Llama.load(LlamaConfig(**CONFIG), load_format="dummy", backend="torch:cpu").save(place / "plain")
    folders = {"plain": plain}
    for bits in (8, 4):
        folders[f"int{bits}"] = quantize_checkpoint(plain, place / f"int{bits}", bits=bits).folder
    return folders


def decode_speed(llm: Any) -> float:
    """Tokens per second of ``generate`` from 4 tokens."""
    start = time.perf_counter()
    llm.generate(input_ids=[[1, 2, 3, 4]], max_new_tokens=NEW, eos_token_id=[])
    return NEW / (time.perf_counter() - start)


def measure(backend: str, dtype: str, folders: dict[str, Path], rounds: int) -> dict[str, Any]:
    """Speeds by round, ratios to plain weights, and memory."""
    from polyllama import Llama

    models = {way: Llama.load(folder, backend=backend, dtype=dtype) for way, folder in folders.items()}
    contenders = {way: (lambda llm=llm: decode_speed(llm)) for way, llm in models.items()}
    figures = alternate(contenders, rounds)
    del models, contenders
    memory = {
        way: in_fresh_process(MEMORY, backend=backend, dtype=dtype, folder=str(folder))["added"]
        for way, folder in folders.items()
    }
    return {
        "tokens per second": figures,
        "ratio": {way: ratio(figures, way, "plain") for way in WAYS[1:]},
        "memory": memory,
    }


def speeds(arguments: argparse.Namespace) -> None:
    """One backend and dtype after the other; figures of others that are kept already stay."""
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)
    kept = RESULTS / "quantized.json"
    results = json.loads(kept.read_text())["results"] if kept.is_file() else {}
    with tempfile.TemporaryDirectory() as name:
        folders = checkpoints(Path(name))
        for backend in arguments.backend or ("torch:cpu", "mlx:cpu", "jax:cpu"):
            for dtype in arguments.dtype or ("float32", "bfloat16"):
                results[f"{backend} {dtype}"] = measure(backend, dtype, folders, arguments.rounds)
    rows = []
    for name, result in sorted(results.items()):
        for way in WAYS:
            ratios = result["ratio"].get(way, {"min": 1, "median": 1, "max": 1})
            speed = statistics.median(result["tokens per second"][way])
            spread = (f"{ratios[key]:.2f}" for key in ("min", "median", "max"))
            rows.append((name, way, f"{speed:.1f}", *spread, f"{result['memory'][way] / 1e6:.0f}"))
    header = ("backend, dtype", "weights", "tok/s", "ratio min", "median", "max", "peak MB added")
    report("quantized", {"config": CONFIG, "threads": arguments.threads, "results": results}, rows, header)


def stories_of(tokenizer: Any, split: str, count: int) -> list[list[int]]:
    """Token ids of stories."""
    from stories import stories

    return sorted(([*tokenizer.encode(s.text), tokenizer.eos_token_id] for s in stories(split, count)), key=len)


def loss_of(source: Any, rows: Sequence[Sequence[int]]) -> float:
    """Mean loss in nats per token, computed in float32."""
    import torch
    from polyllama import Llama

    llm = Llama.load(source, backend="torch:cpu", dtype="float32")
    total = count = 0.0
    for start in range(0, len(rows), 25):
        part = rows[start : start + 25]
        width, tokens = max(map(len, part)), sum(len(row) - 1 for row in part)
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in part])
        labels = torch.tensor([[*row, *[-100] * (width - len(row))] for row in part])
        with torch.inference_mode():
            total += float(llm.forward(ids, labels=labels).loss) * tokens
        count += tokens
    return total / count


SETTINGS: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8},
    "int4": {},
    "int4-g32": {"group_size": 32},
    "int4, embedding int8": {"embeddings": "int8"},
    "int3-g32, embedding int8": {"bits": 3, "group_size": 32, "embeddings": "int8"},
}


def losses(count: int = 100) -> None:
    """Each setting, rounded and calibrated by 100 stories of the training split."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "bundled_models"))
    from polyllama import Llama
    from polyllama.core.export.quantize_checkpoint import quantize_checkpoint
    from stories import stories

    held_out = stories_of(Llama.load("tiny", backend="reference").tokenizer, "heldout", count)
    full = loss_of("tiny", held_out)
    rows = [("bfloat16", "", "16.00", "2.30 MB", f"{full:.4f}", "")]
    results: dict[str, Any] = {"bfloat16": {"loss": full, "bytes": 2304768}}
    with tempfile.TemporaryDirectory() as name:
        text = Path(name) / "text.jsonl"
        text.write_text("".join(json.dumps({"text": story.text}) + "\n" for story in stories("train", 100)))
        for setting, options in SETTINGS.items():
            for method, calibration in (("round", None), ("calibrated", text)):
                target = Path(name) / f"{setting} {method}"
                made = quantize_checkpoint("tiny", target, method=method, calibration=calibration, **options)
                loss = loss_of(target, held_out)
                results[f"{setting} {method}"] = {"loss": loss, "bytes": made.bytes_after}
                size = f"{made.bytes_after / 1e6:.2f} MB"
                rows.append(
                    (setting, method, f"{made.bits_per_weight:.2f}", size, f"{loss:.4f}", f"{loss - full:+.4f}")
                )
    header = ("weights", "method", "bits per weight", "size", "loss", "more than bfloat16")
    report("quantized_loss", {"stories": count, "results": results}, rows, header)


def main() -> None:
    """Speeds, or losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", action="append")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--losses", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="generated texts stay empty|.*inputs that groups of")
    if arguments.losses:
        losses()
        return
    import torch

    torch.set_num_threads(arguments.threads)
    speeds(arguments)


if __name__ == "__main__":
    main()
