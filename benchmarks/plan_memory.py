"""``Llama.plan`` beside what processes really take: each case in a fresh process, planned and measured peaks.

Memory is the kernel's own count of a process's resident peak, reset before each phase, above what the process had when
everything was imported (and warmed up on a model of a few kilobytes). Linux only.

glibc keeps freed memory of up to 32 MB a piece for itself, which is no need of the model's: so it is told to give
pieces of 256 KB and more back at once (M_MMAP_THRESHOLD). And it is told to write to every piece that it hands out
(M_PERTURB): a library that hands out memory ahead of its threads, as MLX does, would else show more or less of it,
the busier the machine, the less. The last column is without both, by glibc's defaults.

python benchmarks/plan_memory.py [--backend torch]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

from measure import RESULTS, in_fresh_process, report

NAME = "plan_memory"

MODEL = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
}
# layers, backend, dtype, quantize, batch, context, prompt in passes of so many tokens, and what is on the disk: None,
# "plain" weights, "int4" ones, or either "packed" ahead for the cpu backend
CASES = (
    (8, "reference", "float32", None, 2, 512, 512, None),
    (8, "reference", "float64", None, 1, 1024, 256, None),
    (8, "reference", "float32", "int4", 1, 512, 512, None),
    (8, "reference", "float64", None, 1, 512, 512, "plain"),
    (8, "torch:cpu", "float32", None, 4, 1024, 1024, None),
    (8, "torch:cpu", "bfloat16", None, 4, 1024, 1024, None),
    (8, "torch:cpu", "bfloat16", None, 1, 2048, 256, "plain"),
    (8, "torch:cpu", "float32", None, 4, 1024, 1024, "plain"),
    (8, "torch:cpu", "bfloat16", "int4", 2, 1024, 1024, None),
    (8, "torch:cpu", "float32", "int8", 2, 1024, 1024, None),
    (8, "torch:cpu", "bfloat16", None, 1, 1024, 1024, "int4"),
    (2, "mlx:cpu", "float32", None, 1, 768, 768, None),
    (2, "mlx:cpu", "bfloat16", None, 2, 384, 384, None),
    (4, "mlx:cpu", "bfloat16", "int4", 1, 256, 256, None),
    (8, "mlx:cpu", "float32", None, 1, 256, 256, "plain"),
    (4, "jax:cpu", "float32", None, 2, 1024, 1024, None),
    (4, "jax:cpu", "float32", None, 4, 1024, 1024, None),
    (4, "jax:cpu", "bfloat16", None, 2, 1024, 1024, None),
    (4, "jax:cpu", "bfloat16", "int4", 2, 512, 512, None),
    (8, "jax:cpu", "bfloat16", None, 1, 512, 512, "plain"),
    (8, "cpu", "float32", None, 2, 1024, 1024, None),
    (8, "cpu", "bfloat16", None, 4, 1024, 1024, "plain"),
    (8, "cpu", "bfloat16", None, 1, 2048, 256, "plain"),
    (8, "cpu", "bfloat16", "int4", 2, 1024, 1024, None),
    (8, "cpu", "float16", "int8", 1, 512, 512, "plain"),
    (8, "cpu", "bfloat16", None, 2, 512, 512, "plain packed"),
    (8, "cpu", "bfloat16", None, 1, 1024, 1024, "int4"),
    (8, "cpu", "bfloat16", None, 2, 512, 512, "int4 packed"),
)
MEASURE = """
import ctypes, gc, json
if not PLAIN:
    ctypes.CDLL(None).mallopt(-3, 1 << 18)  # M_MMAP_THRESHOLD
    ctypes.CDLL(None).mallopt(-6, 0x55)  # M_PERTURB
import numpy as np
from polyllama import Llama, LlamaConfig
layers, backend, dtype, quantize, batch, context, chunk, stored = CASE
MODEL["num_hidden_layers"] = layers

def status(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024

def settle():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)

def reset():
    open("/proc/self/clear_refs", "w").write("5")

def run(llm, batch, context, chunk):
    cache = llm.model.new_cache(batch, context)
    for count in (*[chunk] * (context // chunk - 1), chunk - 1, 1):
        ids = np.ones((batch, count), np.int64)
        out = llm.forward(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        llm.model.to_numpy(out.logits)

small = {"vocab_size": 64, "hidden_size": 192, "intermediate_size": 128, "num_hidden_layers": 1,
         "num_attention_heads": 3, "num_key_value_heads": 1, "max_position_embeddings": 4096}
options = {"backend": backend, "dtype": dtype, "quantize": quantize}
warm = Llama.load(LlamaConfig(**small, dtype=dtype), load_format="dummy", **options)
run(warm, batch, 256, 128)
Llama.load("tiny", backend=backend)
if FOLDER is None:
    source, how = LlamaConfig(**MODEL, dtype=STORED), {"load_format": "dummy"}
    from polyllama.core.checkpoint.random_values import _block
    _block(0, dtype, 0.02)
else:
    source, how = FOLDER, {}
del warm
settle()
base = status("VmRSS")
reset()
llm = Llama.load(source, **how, **options)
loading = status("VmHWM") - base
settle()
if backend.startswith("jax"):  # compiling takes memory of its own, which is the framework's
    before = status("VmRSS")
    run(llm, batch, context, chunk)
    settle()
    base += max(0, status("VmRSS") - before)
reset()
for _ in "ab":  # what is made for the first tokens is there with the second prompt
    run(llm, batch, context, chunk)
running = status("VmHWM") - base
print(json.dumps({"loading": loading, "running": running}))
"""
PLAN = """
import json
from polyllama import Llama, LlamaConfig
layers, backend, dtype, quantize, batch, context, chunk, stored = CASE
MODEL["num_hidden_layers"] = layers
source = LlamaConfig(**MODEL, dtype=STORED) if FOLDER is None else FOLDER
plan = Llama.plan(source, backend=backend, dtype=dtype, quantize=quantize, batch=batch, context=context,
                  prefill_chunk_size=chunk)
memory = plan.chosen.memory
print(json.dumps({"loading": memory.load_peak, "running": memory.running, "weights": memory.weights,
                  "cache": memory.cache, "activations": memory.activations}))
"""


def merged(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These results, and those of other cases from earlier runs."""
    file = RESULTS / f"{NAME}.json"
    before = json.loads(file.read_text())["cases"] if file.is_file() else []
    fresh = {json.dumps(result["case"]): result for result in results}
    known = {json.dumps(result["case"]): result for result in before} | fresh
    return [known[json.dumps(case)] for case in CASES if json.dumps(case) in known]


def stored_dtype(dtype: str) -> str:
    """What a model that computes in `dtype` is stored in."""
    return "float32" if dtype == "float64" else dtype


def saved(folder: Path, dtype: str, kind: str) -> Path:
    """The model on the disk, made when it is first asked for."""
    from polyllama import Llama, LlamaConfig
    from polyllama.backends.cpu.backend import CpuBackend
    from polyllama.core.export.quantize_checkpoint import quantize_checkpoint

    target = folder / f"{dtype} {kind}"
    if not target.exists():
        if kind == "plain":
            config = LlamaConfig(**MODEL, num_hidden_layers=8, dtype=dtype, tie_word_embeddings=True)
            Llama.load(config, load_format="dummy", backend="torch:cpu").save(target)
        elif kind == "int4":
            with warnings.catch_warnings(action="ignore"):  # it has no tokenizer
                quantize_checkpoint(saved(folder, dtype, "plain"), target, bits=4)
        else:
            shutil.copytree(saved(folder, dtype, kind.removesuffix(" packed")), target)
            CpuBackend().pack(target)
    return target


def keep(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Write what is known so far, and give it."""
    cases = merged(results)
    found = {"worst": max(abs(case["error of peak"]) for case in cases), "cases": cases}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{NAME}.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def main() -> None:
    """Plan and measure every case, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", help="only the cases of this one")
    parser.add_argument("--case", type=int, help="only the case of this number")
    arguments = parser.parse_args()
    chosen, only = arguments.backend, arguments.case
    rows, results = [], []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            layers, backend, dtype, quantize, batch, context, chunk, stored = case
            if (chosen is not None and not backend.startswith(chosen)) or only not in (None, CASES.index(case)):
                continue
            names = {
                "CASE": case,
                "MODEL": MODEL,
                "FOLDER": None if stored is None else str(saved(Path(folder), stored_dtype(dtype), stored)),
                "STORED": stored_dtype(dtype),
            }
            planned, measured = in_fresh_process(PLAN, **names), in_fresh_process(MEASURE, PLAIN=False, **names)
            hoarding = in_fresh_process(MEASURE, PLAIN=True, **names)
            # Mapped pages are touched as the model runs, so loading by a map shows only afterwards.
            peaks = [max(figures["loading"], figures["running"]) for figures in (planned, measured)]
            off = peaks[0] / peaks[1] - 1
            most = max(hoarding["loading"], hoarding["running"])
            off_hoarding = peaks[0] / most - 1
            results.append(
                {
                    "case": case,
                    "planned": planned,
                    "measured": measured,
                    "error of peak": off,
                    "default malloc": hoarding,
                }
            )
            megabytes = [
                f"{figures[key] / 1e6:.0f}" for key in ("loading", "running") for figures in (planned, measured)
            ]
            what = f"{layers} layers, batch {batch}, context {context}, passes of {chunk}"
            what += f", {stored} on disk" if stored else ""
            rows.append((backend, dtype, quantize or "-", what, *megabytes, f"{off:+.1%}", f"{off_hoarding:+.1%}"))
            print(*rows[-1], flush=True)
            keep(results)
    header = ("backend", "dtype", "quantize", "workload")
    columns = ("loading planned", "measured", "running planned", "measured", "peak off by", "by glibc's defaults")
    report(NAME, keep(results), rows, (*header, *columns))


if __name__ == "__main__":
    main()
