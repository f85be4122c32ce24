"""The cpu backend: conformance, packed weights, threads and processes, interruption, what it refuses."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from polyllama import Llama, LlamaConfig, PolyllamaError
from polyllama.backends.cpu.backend import CpuBackend, instruction_set
from polyllama.core.backend.choice import choose_backend
from polyllama.core.errors import BackendError, InputError, PolyllamaWarning, SettingsError, UnsupportedError
from polyllama.core.plugin_system.manager import plugin_manager
from polyllama.testing import ConformanceSuite
from support_processes import run_process, start_process
from tiny_models import SIZES, relative_error

if importlib.util.find_spec("polyllama.backends.cpu._kernels") is None:
    pytest.skip("the native kernels were not built", allow_module_level=True)

from polyllama.backends.cpu import _kernels
from polyllama.backends.cpu.weights import Packed, pack_floats, pack_quantized
from polyllama.core.quantization.affine import dequantize, quantize

ISAS = tuple(_kernels.instruction_sets())
ROWS = (1, 2, 5, 7, 12, 13, 40)


class TestConformance(ConformanceSuite):
    """Everything, on the best instruction set."""

    backend = CpuBackend()


class TestPortable(ConformanceSuite):
    """What differs between instruction sets, on the one that every machine has."""

    backend = CpuBackend("portable")
    only = ("node", "attention", "quantized", "cache.chunked", "padding.mixed")


if "avx2" in ISAS[1:]:

    class TestAvx2(ConformanceSuite):
        """The same on 256-bit registers."""

        backend = CpuBackend("avx2")
        only = TestPortable.only


def product(isa: str, packed: Packed, x: np.ndarray, *, integers: bool = False, threads: int = 2) -> np.ndarray:
    program = _kernels.Program(isa, threads, integers)
    y = np.full((len(x), packed.matrix.padded_rows), np.nan, np.float32)
    program.product(packed.matrix, np.ascontiguousarray(x, np.float32), y)
    return y[:, : packed.layout.rows]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (4, 128), (8, 32), (8, 64), (8, 128), (2, 64), (6, 32)])
def test_products_of_packed_weights(isa: str, bits: int, group: int) -> None:
    rng = np.random.default_rng(2)
    w = rng.standard_normal((83, 640)).astype(np.float16)
    quantized = quantize(w, group, bits)
    layout, data = pack_quantized(*quantized, bits=bits, group=group, dtype="bfloat16")
    packed = Packed.of(layout, data, rng.standard_normal(83).astype(np.float32))
    for kind in quantized._fields:
        np.testing.assert_array_equal(packed.tensor(kind), getattr(quantized, kind))
    bias = product(isa, packed, np.zeros((1, 640), np.float32))[0]
    exact = dequantize(*quantized, bits=bits, dtype=np.float64)
    for rows in ROWS:
        x = rng.standard_normal((rows, 640)).astype(np.float32)
        wanted = x.astype(np.float64) @ exact.T + bias
        assert relative_error(product(isa, packed, x), wanted) < 2e-6
        # Rounding to int8 is off by half a step, 1/254 of a group's largest value, and over many inputs by less.
        assert relative_error(product(isa, packed, x, integers=True), wanted) < 1e-2


@pytest.mark.parametrize("isa", ISAS)
def test_rounded_inputs_give_exact_integers(isa: str) -> None:
    """Inputs that int8 holds exactly give the exact result, whatever the kernel: nothing saturates or wraps."""
    rng = np.random.default_rng(3)
    for bits in (4, 8):
        words = np.full((32, 256 * bits // 32), 0xFFFFFFFF, np.uint32)  # every value the largest
        words[16:] = rng.integers(0, 2**32, words[16:].shape, dtype=np.uint32)
        scales, biases = np.ones((32, 4), np.float32), np.zeros((32, 4), np.float32)
        layout, data = pack_quantized(words, scales, biases, bits=bits, group=64, dtype="float32")
        exact = dequantize(words, scales, biases, bits=bits, dtype=np.float64)
        for rows in (1, 3, 9):
            x = rng.integers(-127, 128, (rows, 256)).astype(np.float32)
            x[:, ::64], x[0] = 127, -127
            found = product(isa, Packed.of(layout, data), x, integers=True)
            np.testing.assert_allclose(found, x.astype(np.float64) @ exact.T, rtol=1e-6, atol=0.5)


# whole models --------------------------------------------------------------------------------------------------------


def config(**fields: Any) -> LlamaConfig:
    return LlamaConfig(**{**SIZES, "dtype": "float32", **fields})


def load(backend: str = "cpu", **fields: Any) -> Llama:
    options = {name: fields.pop(name) for name in ("dtype", "quantize") if name in fields}
    return Llama.load(config(**fields), load_format="dummy", backend=backend, **options)


IDS = np.random.default_rng(5).integers(0, 97, (3, 40))


def test_another_backends_cache_is_refused() -> None:
    cache = load("reference").forward([[1]], use_cache=True).past_key_values
    with pytest.raises(InputError, match="of another backend"):
        load().forward([[1]], past_key_values=cache)


@pytest.mark.parametrize("how", ["int4-g32", "int8-g32"])
def test_int8_inputs_cost_little(how: str) -> None:
    """Less than 0.5% of tiny's loss, beside the same packed weights and float32 inputs."""
    text = (
        "Once upon a time, a small girl named Bean found a red kite. She gave it to her friend, and they ran to the "
        "hill. The wind was strong. The kite flew high, and the two friends laughed until the sun went down."
    )
    ids = np.array([Llama.load("tiny", backend="cpu").tokenizer.encode(text)])
    loss = {}
    for dtype in ("float32", "bfloat16"):
        llm = Llama.load("tiny", backend="cpu", quantize=how, dtype=dtype)
        loss[dtype] = float(llm.forward(ids, labels=ids).loss)
    assert loss["bfloat16"] != loss["float32"]
    assert abs(loss["bfloat16"] / loss["float32"] - 1) < 0.005


def test_packed_weights_take_int8_inputs_by_themselves() -> None:
    llm = load(quantize="int8-g32", hidden_size=64, intermediate_size=96, num_attention_heads=4, dtype="auto")
    assert llm.dtype == "bfloat16"
    assert load().dtype == "float32"


# threads, signals, processes -----------------------------------------------------------------------------------------


def test_two_models_in_two_threads() -> None:
    models = [load(), load(num_hidden_layers=2)]
    wanted = [llm.forward(IDS).logits for llm in models]
    wrong: list[Any] = []

    def work(place: int) -> None:
        for _ in range(20):
            found = models[place % 2].forward(IDS).logits
            if not np.array_equal(found, wanted[place % 2]):
                wrong.append(place)

    threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong and not any(thread.is_alive() for thread in threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_threads_of_its_own() -> None:
    code = (
        "import os, sys\nimport numpy as np\nfrom polyllama import Llama, LlamaConfig\n"
        "c = LlamaConfig(vocab_size=97, hidden_size=48, intermediate_size=80, num_attention_heads=6)\n"
        "llm = Llama.load(c, load_format='dummy', backend='cpu', dtype='float32')\n"
        "before = llm.forward([[1, 2, 3]]).logits\n"
        "child = os.fork()\n"
        "same = np.array_equal(llm.forward([[1, 2, 3]]).logits, before)\n"
        "if child == 0: os._exit(0 if same else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or not same)\n"
    )
    run_process([sys.executable, "-c", code], check=True, timeout=60, env=os.environ | {"POLYLLAMA_THREADS": "2"})


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_an_interrupt_ends_a_long_pass_at_once() -> None:
    code = (
        "import time\nfrom polyllama import Llama, LlamaConfig\n"
        "c = LlamaConfig(vocab_size=99, hidden_size=512, intermediate_size=4096, num_attention_heads=8,\n"
        "                num_hidden_layers=8)\n"
        "llm = Llama.load(c, load_format='dummy', backend='cpu', dtype='float32')\n"
        "y = llm.forward([[1, 2]], use_cache=True)\n"
        "wanted = llm.forward([[3]], past_key_values=y.past_key_values.select_rows([0])).logits\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    while True: llm.forward([[5] * 4000], past_key_values=y.past_key_values.select_rows([0]))\n"
        "except KeyboardInterrupt:\n"
        "    found = llm.forward([[3]], past_key_values=y.past_key_values).logits\n"
        "    print(time.process_time(), bool((found == wanted).all()), flush=True)\n"
    )
    process = start_process([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    so_far = sum(psutil.Process(process.pid).cpu_times()[:2])
    process.send_signal(signal.SIGINT)
    at_last, same = process.stdout.readline().split()
    assert same == "True"
    # On the processor's clock; the pass takes much longer than that, an operation does not.
    assert float(at_last) - so_far < 5
    assert process.wait(30) == 0


# what is asked for ---------------------------------------------------------------------------------------------------


def test_the_instruction_set_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert instruction_set() == ISAS[0] and ISAS[-1] == "portable"
    monkeypatch.setenv("POLYLLAMA_CPU_ISA", "portable")
    model: Any = load().model
    assert model.instruction_set == "portable"
    monkeypatch.setenv("POLYLLAMA_CPU_ISA", "mmx")
    with pytest.raises(SettingsError, match=r"POLYLLAMA_CPU_ISA: 'mmx' has no kernels .*there are: .*portable"):
        load()


def test_backends_say_which_instruction_set_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLYLLAMA_CPU_ISA", raising=False)
    assert CpuBackend().availability().reason == f"runs as {ISAS[0]}; there are {', '.join(ISAS)}"
    monkeypatch.setenv("POLYLLAMA_CPU_ISA", "portable")
    assert (CpuBackend().availability().reason or "").startswith("runs as portable; there are ")
    monkeypatch.setenv("POLYLLAMA_CPU_ISA", "avx9")
    said = CpuBackend().availability()
    assert said.usable and (said.reason or "").startswith(
        "set to what cannot be loaded: POLYLLAMA_CPU_ISA: 'avx9' has no kernels that run here"
    )


def test_threads_come_from_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = load().model
    assert model.threads == 1  # so small a model would only wait
    monkeypatch.setattr("polyllama.backends.cpu.model.processors", lambda: 3)
    monkeypatch.setenv("POLYLLAMA_THREADS", "3")
    model = load().model
    assert model.threads == 3
    monkeypatch.setenv("POLYLLAMA_THREADS", "4")
    with pytest.warns(PolyllamaWarning, match="threads: 4 are more than the 3 that can run here at one time"):
        model = load().model
    assert model.threads == 4


def test_wrong_wishes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="computes in float32, bfloat16 or float16, not in float64"):
        load(dtype="float64")
    monkeypatch.setenv("POLYLLAMA_KV_CACHE", "int8")
    with pytest.raises(UnsupportedError, match="kv_cache=int8: not on backend 'reference'"):
        load("reference")


def test_auto_takes_cpu_before_torch() -> None:
    choice = choose_backend("auto", {k: v for k, v in plugin_manager().backends().items() if k != "mlx"})
    names = [row.name for row in choice.considered]
    assert names.index("cpu") < names.index("torch:cpu")
    if not any(row.taken for row in choice.considered if row.name == "torch:cuda"):
        assert choice.backend.name == "cpu"


def test_without_kernels_it_says_how_to_get_them(tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, polyllama.backends.cpu.backend as b\nreal = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n.endswith('_kernels') else real(n, *a)\n"
        "a = b.CpuBackend().availability()\nprint(a.usable, a.reason)\n"
    )
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False its kernels were not built") and "compiler" in done.stdout


def test_native_code_refuses_what_does_not_fit() -> None:
    layout, data = pack_floats(np.ones((16, 32), np.float32), "float32")
    with pytest.raises(ValueError, match="bytes are not as many"):
        _kernels.Matrix("float32", 16, 33, 0, "float32", data)
    with pytest.raises(ValueError, match="groups that do not divide"):
        _kernels.Matrix("q4", 16, 33, 32, "float32", data)
    packed = Packed.of(layout, data)
    program = _kernels.Program(ISAS[0], 1, False)
    with pytest.raises(ValueError, match="rows of another shape"):
        program.product(packed.matrix, np.ones((1, 31), np.float32), np.ones((1, 16), np.float32))
    with pytest.raises(TypeError):
        program.product(packed.matrix, np.ones((1, 32)), np.ones((1, 16), np.float32))
    with pytest.raises(ValueError, match="no kernels for"):
        _kernels.Program("mmx", 1, False)
    model: Any = load().model
    run, frequencies = model.lowered.program.run, model._frequencies
    positions = np.zeros((1, 2), np.int64)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        run(0, 0, np.array([[1, 97]]), positions, frequencies, None, 0)
    with pytest.raises(ValueError, match="a cache of another shape"):
        run(*model.lowered.whole, np.array([[1, 2]]), positions, frequencies, None, 0)
    cache = model.new_cache(1, 64)
    cache.batch = 1
    with pytest.raises(ValueError, match="a cache of another shape"):
        run(*model.lowered.whole, np.array([[1, 2]]), positions, frequencies, cache.reserve(64), 63)
    with pytest.raises(ValueError, match="positions of another length"):
        run(0, 0, np.array([[1]]), positions, frequencies, None, 0)


def test_errors_are_the_projects_own() -> None:
    with pytest.raises(PolyllamaError, match="outside the vocabulary"):
        load().forward([[97]])
