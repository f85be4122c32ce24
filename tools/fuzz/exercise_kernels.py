"""Runs every native kernel and the threads around it on awkward shapes, for the sanitizers of ``make sanitize``.

python tools/fuzz/exercise_kernels.py [FILE]    # FILE: the extension to load instead of the installed one

Results are compared with NumPy as well; the sanitizers end the process by themselves when they find something.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from typing import Any

import numpy as np

NAME = "polyllama.backends.cpu._kernels"
ATTEMPTS = 3000


def load_extension(file: str) -> None:
    """Put the extension in `file` where the package will look for its own."""
    spec = importlib.util.spec_from_file_location(NAME, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)


def products(isa: str) -> None:
    """Every format with rows, columns and groups that do not fit registers."""
    from polyllama.backends.cpu import _kernels
    from polyllama.backends.cpu.weights import Packed, pack_floats, pack_quantized
    from polyllama.core.quantization.affine import quantize

    rng = np.random.default_rng(0)
    packed = []
    for outputs, inputs in ((1, 1), (17, 33), (97, 130)):
        w = rng.standard_normal((outputs, inputs)).astype(np.float32)
        packed += [Packed.of(*pack_floats(w, dtype)) for dtype in ("float32", "bfloat16", "float16")]
    for bits, group in ((2, 64), (4, 32), (4, 128), (6, 64), (8, 32), (8, 128)):
        quantized = quantize(rng.standard_normal((35, 256)).astype(np.float32), group, bits)
        packed += [
            Packed.of(*pack_quantized(*quantized, bits=bits, group=group, dtype=dtype))
            for dtype in ("float32", "bfloat16")
        ]
    for matrix in packed:
        layout = matrix.layout
        matrix.tensor("weight")
        for rows in (1, 2, 7, 13, 40):
            x = rng.standard_normal((rows, layout.columns)).astype(np.float32)
            for threads in (1, 3):
                program = _kernels.Program(isa, threads, bool(layout.bits))
                y = np.empty((rows, matrix.matrix.padded_rows), np.float32)
                program.product(matrix.matrix, x, y)
                assert np.isfinite(y).all()


def models(isa: str) -> None:
    """Whole models: caches of every element, batches, masks, chunks, heads of odd sizes, activations."""
    from polyllama import LlamaConfig
    from polyllama.backends.cpu.backend import CpuBackend
    from polyllama.core.backend.protocol import RealizeOptions
    from polyllama.core.checkpoint.weights import dummy_weights
    from polyllama.core.forward.arguments import ForwardArguments
    from polyllama.core.graph.from_config import build_graph
    from polyllama.plugins.tasks.causal_lm import CausalLM

    rng = np.random.default_rng(1)
    shapes: list[dict[str, Any]] = [
        {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_act": "gelu"},
        {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 18, "tie_word_embeddings": True},
    ]
    for fields in shapes:
        c = LlamaConfig(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2, **fields)
        task = CausalLM()
        graph = build_graph(c, task)
        for element in ("float32", "bfloat16", "float16", "int8"):
            options = RealizeOptions(dtype="bfloat16", threads=3, kv_cache=element)
            model = CpuBackend(isa).realize(graph, dummy_weights(graph.parameters()), options, config=c, task=task)
            ids = rng.integers(0, 97, (3, 70))
            mask = np.ones((3, 70), np.int64)
            mask[0, :9] = mask[1, 60:] = 0
            whole = model.forward(ForwardArguments(input_ids=ids, attention_mask=mask, output_hidden_states=True))
            first = model.forward(ForwardArguments(input_ids=ids[:, :65], use_cache=True))
            cache = first.past_key_values.select_rows([2, 0, 1])
            for place in range(65, 70):
                model.forward(ForwardArguments(input_ids=ids[:, place : place + 1], past_key_values=cache))
            assert np.isfinite(whole.logits).all()
            list(read() for _, read in model.state())


def threads(isa: str) -> None:
    """Two programs run by four threads, and passes that are stopped in the middle."""
    from polyllama import Llama, LlamaConfig
    from polyllama.backends.cpu.backend import CpuBackend

    c = LlamaConfig(vocab_size=97, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_hidden_layers=2)
    llms = [Llama.load(c, load_format="dummy", backend="cpu") for _ in range(2)]
    ids = np.arange(30)[None]
    wanted = llms[0].forward(ids).logits
    assert isinstance(CpuBackend(isa), CpuBackend)

    def work(place: int) -> None:
        for _ in range(25):
            assert np.array_equal(llms[place % 2].forward(ids).logits, wanted)

    running = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def wrong_arguments() -> None:
    """Calls with arguments that do not fit, on every instruction set; see fuzz_kernels."""
    import random

    import fuzz_kernels
    from polyllama.backends.cpu import _kernels

    rng = random.Random(1)
    for _ in range(ATTEMPTS):
        fuzz_kernels.attempt(_kernels, rng.choice, rng.randrange(fuzz_kernels.STEPS))
    print(f"{ATTEMPTS} wrong calls: clean", flush=True)


def main() -> int:
    """Do it all on every instruction set of this machine."""
    import os

    os.environ["POLYLLAMA_THREADS"] = "3"
    if len(sys.argv) > 1:
        load_extension(sys.argv[1])
    from polyllama.backends.cpu.backend import instruction_sets

    for isa in instruction_sets():
        os.environ["POLYLLAMA_CPU_ISA"] = isa
        products(isa)
        models(isa)
        threads(isa)
        print(f"{isa}: clean", flush=True)
    wrong_arguments()
    return 0


if __name__ == "__main__":
    sys.exit(main())
