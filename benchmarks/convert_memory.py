"""Converting a Meta checkpoint of 3 GB in two shards: peak memory and seconds, each conversion in a fresh process.

python benchmarks/convert_memory.py [--gigabytes 3] [--folder DIR] [--to hf --to gguf ...]

The folder must have room for twice the checkpoint. Peak memory is the process's largest resident set, interpreter,
libraries and the touched pages of mapped files included (VmHWM of Linux).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import in_fresh_process, report

LIMIT = 1_000_000_000
RANKS = 2
HIDDEN, INNER, VOCABULARY = 2048, 5632, 32000
CONVERT = """
import json, os, re, time
from polyllama import convert
start = time.perf_counter()
made = convert(SOURCE, TARGET, to=TO, dtype=DTYPE)
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(json.dumps({"seconds": seconds, "peak": peak, "bytes": made.nbytes}))
"""


def write_meta(folder: Path, gigabytes: float) -> int:
    """A random model in bfloat16, cut for two ranks as Llama 2 is; its bytes."""
    from polyllama.core.checkpoint.meta.writer import write_torch_file
    from polyllama.core.checkpoint.protocol import TensorInfo

    per_layer = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER
    layers = round((gigabytes * 1e9 / 2 - 2 * VOCABULARY * HIDDEN) / per_layer)
    half, inner = HIDDEN // RANKS, INNER // RANKS
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (VOCABULARY, half),
        "norm.weight": (HIDDEN,),
        "output.weight": (VOCABULARY // RANKS, HIDDEN),
    }
    for layer in range(layers):
        shapes |= {f"layers.{layer}.attention.{name}.weight": (half, HIDDEN) for name in ("wq", "wk", "wv")}
        shapes |= {f"layers.{layer}.feed_forward.{name}.weight": (inner, HIDDEN) for name in ("w1", "w3")}
        shapes[f"layers.{layer}.attention.wo.weight"] = (HIDDEN, half)
        shapes[f"layers.{layer}.feed_forward.w2.weight"] = (HIDDEN, inner)
        shapes |= {f"layers.{layer}.{name}.weight": (HIDDEN,) for name in ("attention_norm", "ffn_norm")}
    infos = [TensorInfo(name, "bfloat16", shape) for name, shape in shapes.items()]
    for rank in range(RANKS):
        write_torch_file(folder / f"consolidated.{rank:02d}.pth", infos, _random(infos, rank))
    params = {"dim": HIDDEN, "n_layers": layers, "n_heads": 16, "vocab_size": -1, "norm_eps": 1e-5, "multiple_of": 256}
    (folder / "params.json").write_text(json.dumps(params))
    return sum(file.stat().st_size for file in folder.iterdir())


def _random(infos: list[Any], rank: int) -> Iterator[np.ndarray[Any, Any]]:
    """Values near normal, from one block of them: what they are makes no difference to the time."""
    import ml_dtypes

    block = np.random.default_rng(rank).normal(0, 0.02, 1 << 25).astype(np.float32).astype(ml_dtypes.bfloat16)
    for info in infos:
        size = int(np.prod(info.shape))
        yield np.resize(block, size).reshape(info.shape)


def check_first_tensors(source: Path, target: Path) -> None:
    """That the embedding, cut along its width, and the queries, whose rows move, are what they should be."""
    from polyllama.core.checkpoint.opening import open_checkpoint
    from polyllama.core.plugin_system.manager import plugin_manager

    formats = plugin_manager().checkpoint_formats()
    one, other = (open_checkpoint(path, formats=formats) for path in (source, target))
    for name in ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"):
        wanted, found = one.read(name), other.read(name)
        if not np.array_equal(wanted.astype(np.float16), found.astype(np.float16)):
            raise SystemExit(f"{target}: {name} is not what was converted")


def main() -> None:
    """Write the checkpoint, convert it to each format, print the table; fail where a peak is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--folder", help="where to work; the system's temporary folder by default")
    parser.add_argument("--to", action="append", help="hf, mlx, gguf or meta; may be repeated; all by default")
    arguments = parser.parse_args()
    runs: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        source, target = Path(name) / "meta", Path(name) / "out"
        source.mkdir()
        size = write_meta(source, arguments.gigabytes)
        wanted: list[tuple[str, str | None]] = [(to, None) for to in arguments.to or ("hf", "mlx", "gguf", "meta")]
        wanted += [] if arguments.to else [("hf", "float16")]
        for to, dtype in wanted:
            key = to if dtype is None else f"{to}, to {dtype}"
            where = target.with_suffix(".gguf") if to == "gguf" else target
            runs[key] = in_fresh_process(CONVERT, SOURCE=str(source), TARGET=str(where), TO=to, DTYPE=dtype)
            check_first_tensors(source, where)
            _remove(where)
    rows = [(key, f"{run['peak'] / 1e6:.0f} MB", f"{run['seconds']:.1f} s") for key, run in runs.items()]
    print(f"a checkpoint of {size / 1e9:.2f} GB in {RANKS} shards")
    report("convert_memory", {"checkpoint bytes": size, "runs": runs}, rows, ("to", "peak memory", "time"))
    if too_much := [key for key, run in runs.items() if run["peak"] > LIMIT]:
        raise SystemExit(f"more than {LIMIT / 1e9:.0f} GB: {', '.join(too_much)}")


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


if __name__ == "__main__":
    main()
