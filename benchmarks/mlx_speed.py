"""Prefill, decode and generation of a small random model: the mlx backend beside mlx-lm, in one run.

python benchmarks/mlx_speed.py [--rounds 7] [--dtype float32] [--size small|tiny]
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from measure import alternate, ratio, report
from polyllama import Llama, LlamaConfig

PROMPT, NEW = 64, 32
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 5,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "small": {
        "vocab_size": 8192,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
}


def theirs(model: Any, ids: np.ndarray) -> tuple[float, float]:
    """Prefill and decode speed of mlx-lm by its own forward and cache, in tokens per second."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    start = time.perf_counter()
    cache = make_prompt_cache(model)
    # As its generation does it: the head's product is taken for the last token only.
    logits = model.model(mx.array(ids[:, :-1]), cache=cache)
    mx.eval([part.state for part in cache])
    logits = model(mx.array(ids[:, -1:]), cache=cache)[:, -1]
    mx.eval(logits)
    middle = time.perf_counter()
    for _ in range(NEW):
        token = mx.argmax(logits, axis=-1, keepdims=True)
        logits = model(token, cache=cache)[:, -1]
        mx.eval(logits)
    end = time.perf_counter()
    return ids.shape[1] / (middle - start), NEW / (end - middle)


def generate_theirs(model: Any, ids: np.ndarray) -> float:
    """End-to-end speed of mlx-lm's generation loop, which computes a token while Python prepares the next."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    start = time.perf_counter()
    tokens = [int(token) for token, _ in generate_step(mx.array(ids[0]), model, max_tokens=NEW)]
    assert len(tokens) == NEW
    return NEW / (time.perf_counter() - start)


def ours(llm: Llama, ids: np.ndarray) -> tuple[float, float]:
    """The same with polyllama."""
    import mlx.core as mx

    start = time.perf_counter()
    y = llm.forward(ids, use_cache=True, logits_to_keep=1)
    mx.eval(y.logits)
    middle = time.perf_counter()
    for _ in range(NEW):
        token = mx.argmax(y.logits[:, -1], axis=-1, keepdims=True)
        y = llm.forward(token, past_key_values=y.past_key_values, use_cache=True, logits_to_keep=1)
        mx.eval(y.logits)
    end = time.perf_counter()
    return ids.shape[1] / (middle - start), NEW / (end - middle)


def generate_ours(llm: Llama, ids: np.ndarray) -> float:
    """End-to-end speed of ``generate`` in polyllama."""
    start = time.perf_counter()
    llm.generate(input_ids=ids, max_new_tokens=NEW, eos_token_id=[])
    return NEW / (time.perf_counter() - start)


def load_both(size: str, dtype: str, folder: Path) -> tuple[Llama, Any]:
    """One random checkpoint, in polyllama and in mlx-lm, and the same logits from both."""
    import mlx.core as mx
    from mlx_lm.models.llama import Model, ModelArgs

    config = LlamaConfig(**SIZES[size], dtype=dtype, tie_word_embeddings=False)
    Llama.load(config, load_format="dummy", backend="mlx", dtype=dtype).save(folder)
    llm = Llama.load(folder, backend="mlx", dtype=dtype)
    model = Model(
        ModelArgs(model_type="llama", rms_norm_eps=config.rms_norm_eps, **SIZES[size], tie_word_embeddings=False)
    )
    model.load_weights([item for file in folder.glob("*.safetensors") for item in mx.load(str(file)).items()])
    model.eval()
    mx.eval(model.parameters())
    probe = np.arange(24)[None]
    found, wanted = llm.forward(probe).numpy()["logits"], np.array(model(mx.array(probe)).astype(mx.float32))
    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    if error > {"float32": 1e-4}.get(dtype, 5e-2):
        raise SystemExit(f"the two do not compute the same: {error:.2g} apart")
    return llm, model


def measure(size: str, dtype: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Tokens per second of both, per kind of work, one figure a round."""
    last: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        llm, model = load_both(size, dtype, Path(folder))
        ids = np.random.default_rng(0).integers(3, SIZES[size]["vocab_size"], (1, PROMPT))

        def both(name: str, run: Callable[[], tuple[float, float]]) -> float:
            last[name] = run()
            return last[name][0]

        figures = alternate(
            {
                "mlx-lm prefill": lambda: both("mlx-lm", lambda: theirs(model, ids)),
                "mlx-lm decode": lambda: last["mlx-lm"][1],
                "polyllama prefill": lambda: both("polyllama", lambda: ours(llm, ids)),
                "polyllama decode": lambda: last["polyllama"][1],
                "mlx-lm generate": lambda: generate_theirs(model, ids),
                "polyllama generate": lambda: generate_ours(llm, ids),
            },
            rounds,
        )
    return {
        what: {peer: figures[f"{peer} {what}"] for peer in ("polyllama", "mlx-lm")}
        for what in ("prefill", "decode", "generate")
    }


def main() -> None:
    """Measure every size and dtype asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), action="append")
    parser.add_argument("--size", choices=tuple(SIZES), action="append")
    arguments = parser.parse_args()
    if importlib.util.find_spec("mlx_lm") is None:
        raise SystemExit("mlx-lm is what this measures beside: pip install 'polyllama[mlx,bench]'")
    warnings.filterwarnings("ignore", message="generated texts stay empty")
    rows, result = [], {}
    for size in arguments.size or ("tiny", "small"):
        for dtype in arguments.dtype or ("float32", "bfloat16"):
            for what, figures in measure(size, dtype, arguments.rounds).items():
                ratios = ratio(figures, "polyllama", "mlx-lm")
                result[f"{size} {dtype} {what}"] = {"tokens per second": figures, "ratio": ratios}
                medians = [f"{statistics.median(figures[peer]):.1f}" for peer in ("polyllama", "mlx-lm")]
                rows.append((size, dtype, what, *medians, *(f"{ratios[k]:.2f}" for k in ("min", "median", "max"))))
    header = ("model", "dtype", "what", "polyllama tok/s", "mlx-lm tok/s", "ratio min", "median", "max")
    versions = {name: version(name) for name in ("mlx", "mlx-lm")}
    report(
        "mlx_speed",
        {"versions": versions, "sizes": SIZES, "prompt": PROMPT, "new": NEW, "results": result},
        rows,
        header,
    )


if __name__ == "__main__":
    main()
