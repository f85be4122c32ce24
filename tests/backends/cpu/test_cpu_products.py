"""Products of the cpu backend beside NumPy's in float64, on both sides of every threshold of the kernels.

Where those sizes come from (backends/cpu/native): panels of 16 outputs; 128 inputs unpacked at a time, 256 in pairs of
bfloat16; tiles of 18 KiB of packed weights, which is up to 2,048 inputs; blocks of 1 to 12 rows in registers; 2 rows
that every thread prepares for itself; 32 rows up to which runs of panels are dealt out; tasks of 256 rows, and of 128
in gated products; 8 panels of a gated product between two activations of a single row.
"""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest

if importlib.util.find_spec("polyllama.backends.cpu._kernels") is None:
    pytest.skip("the native kernels were not built", allow_module_level=True)

from cpu_oracles import FORMATS, ISAS, U, Weights, check, make_weights, norm_of, product_of, rounded, run_rows
from polyllama.backends.cpu import _kernels
from polyllama.backends.cpu.program import ACTIVATIONS
from polyllama.backends.cpu.weights import Packed, pack_floats, raw_view
from polyllama.core.dtypes import numpy_dtype
from polyllama.core.quantization.affine import dequantize

FEW_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 19, 25, 32, 33)
MANY_ROWS = (128, 129, 256, 257, 300, 513)
INPUTS = {"float": (1, 2, 127, 128, 129, 255, 256, 257, 301, 514), "packed": (128, 1152, 2048, 2304)}


def modes(form: str) -> tuple[bool, ...]:
    """Whether inputs are rounded to int8: never for floats, both for packed weights."""
    return (False, True) if form.startswith("int") else (False,)


def product(isa: str, w: Weights, x: np.ndarray, *, integers: bool = False, threads: int = 1) -> np.ndarray:
    y = np.full((len(x), w.packed.matrix.padded_rows), np.nan, np.float32)
    _kernels.Program(isa, threads, integers).product(w.packed.matrix, x, y)
    assert not y[:, w.packed.layout.rows :].any()  # what pads a row of outputs
    return y[:, : w.packed.layout.rows]


def rows_of(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Rows of sizes that differ, so that another row's scale or block is far off."""
    x = rng.standard_normal((rows, columns)) * np.exp2(rng.integers(-2, 3, (rows, 1)))
    return np.asarray(x, np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", FORMATS)
def test_products(isa: str, form: str) -> None:
    """Of every format at every number of inputs and rows where tiles begin and end."""
    rng = np.random.default_rng(1)
    for columns in INPUTS["packed" if form.startswith("int") else "float"]:
        w = make_weights(form, 83 if columns == 301 or columns == 2304 else 35, columns, rng)
        x = rows_of(rng, max(FEW_ROWS), columns)
        for integers in modes(form):
            wanted, bound = product_of(w, x, isa, integers=integers)
            for rows in FEW_ROWS:
                found = product(isa, w, x[:rows], integers=integers)
                check(found, wanted[:rows], bound[:rows], isa, form, columns, rows, integers)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", FORMATS)
def test_products_of_many_rows(isa: str, form: str) -> None:
    rng = np.random.default_rng(2)
    w = make_weights(form, 49, 128, rng)
    x = rows_of(rng, max(MANY_ROWS), 128)
    for integers in modes(form):
        wanted, bound = product_of(w, x, isa, integers=integers)
        for rows in MANY_ROWS:
            found = product(isa, w, x[:rows], integers=integers, threads=2)
            check(found, wanted[:rows], bound[:rows], isa, form, rows, integers)


MIXED = (
    ("float32", 40),
    ("bfloat16", 97),
    ("float16", 16),
    ("int4 32 float16", 52),
    ("int8 64 bfloat16", 33),
    ("int4 128 float32", 17),
)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("add", [False, True])
def test_products_of_several_matrices_in_one_operation(isa: str, add: bool) -> None:
    """Of all formats beside one another, normalized inputs, results set or added to what is there."""
    rng = np.random.default_rng(3)
    weights = [make_weights(form, rows, 128, rng, bias=place % 2 == 0) for place, (form, rows) in enumerate(MIXED)]
    norm = rng.uniform(0.5, 1.5, 128).astype(np.float32)
    # What is there before comes from a product as well: inputs themselves, picked by a matrix of ones.
    pick = [np.eye(128, dtype=np.float32)[: w.packed.layout.rows] for w in weights]
    picked = [Packed.of(*pack_floats(part, "float32")).matrix for part in pick]
    for rows, threads in ((1, 1), (1, 3), (2, 1), (3, 2), (32, 1), (33, 2), (257, 2), (513, 1)):
        x = rows_of(rng, rows, 128)
        weight = norm if rows % 2 else None
        program = _kernels.Program(isa, threads, True)
        source = program.buffer(128)
        outputs = [program.buffer(w.packed.layout.rows) for w in weights]
        if add:
            program.linear(source, None, 0.0, picked, outputs, False)
        program.linear(source, weight, 1e-5, [w.packed.matrix for w in weights], outputs, add)
        # What the kernels normalize to, which another test compares with what is exact, is what they round.
        inputs = x if weight is None else normalized(isa, x, norm, 1e-5)
        for w, output in zip(weights, outputs, strict=True):
            found = run_rows(program, x, output, w.packed.layout.rows)
            wanted, bound = product_of(w, inputs, isa, integers=True)
            if add:
                before = x[:, : w.packed.layout.rows].astype(np.float64)
                wanted, bound = wanted + before, bound + 16 * U * np.abs(before)
            check(found, wanted, bound, isa, w.packed.layout, rows, threads)


def normalized(isa: str, x: np.ndarray, weight: np.ndarray, eps: float, *, around: bool = False) -> np.ndarray:
    program = _kernels.Program(isa, 1, False)
    source, output = program.buffer(x.shape[1]), program.buffer(x.shape[1])
    program.norm(source, output, weight, eps, around)
    return run_rows(program, x, output, x.shape[1])


@pytest.mark.parametrize("isa", ISAS)
def test_normalizing(isa: str) -> None:
    """Of widths that do not fill registers; rounded to bfloat16 it is one of the two neighbours of what is exact."""
    rng = np.random.default_rng(4)
    for width in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 100):
        x, weight = rows_of(rng, 5, width), rng.uniform(0.5, 1.5, width).astype(np.float32)
        x[3] *= np.float32(1e-3)  # where eps counts
        for eps in (1e-5, 1e-2):
            wanted, bound = norm_of(x, weight, eps)
            check(normalized(isa, x, weight, eps), wanted, bound, isa, width, eps)
            found = normalized(isa, x, weight, eps, around=True)
            np.testing.assert_array_equal(found, rounded(found, "bfloat16"))
            check(found, wanted, bound + 2.0**-8 * np.abs(wanted), isa, width, eps, "bfloat16")


# gated products ------------------------------------------------------------------------------------------------------


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel()]).reshape(x.shape)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


STEEPEST = 1.13
"""The largest slope of SiLU (1.0998) and GELU (1.129)."""


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["float32", "bfloat16", "float16", "int4 32 float16", "int8 128 float16"])
@pytest.mark.parametrize("name", ["silu", "gelu"])
def test_gated_products(isa: str, form: str, name: str) -> None:
    """An activation and a product after two sums: off by what its slope makes of theirs, and 16 roundings."""
    rng = np.random.default_rng(5)
    activation = {"silu": silu, "gelu": gelu}[name]
    other = form if name == "silu" else "float32"
    for outputs, row_counts in ((437, (1, 2, 3, 33)), (37, (1, 2, 31, 127, 128, 129, 256, 257, 300)), (16, (1, 130))):
        gate, up = make_weights(form, outputs, 128, rng), make_weights(other, outputs, 128, rng, bias=False)
        x = rows_of(rng, max(row_counts), 128) / np.float32(8)
        sums = []
        for w in (gate, up):
            sums.append(product_of(w, x, isa, integers=True))
        (g, g_off), (u, u_off) = sums
        a = activation(g)
        wanted = a * u
        bound = STEEPEST * g_off * (np.abs(u) + u_off) + np.abs(a) * u_off + 16 * U * np.abs(wanted) + 1e-30
        for rows in row_counts:
            for threads in (1, 2):
                program = _kernels.Program(isa, threads, True)
                source, inner = program.buffer(128), program.buffer(outputs)
                matrices = gate.packed.matrix, up.packed.matrix
                program.gated(source, None, 0.0, *matrices, inner, ACTIVATIONS.index(name))
                found = run_rows(program, x[:rows], inner, outputs)
                check(found, wanted[:rows], bound[:rows], isa, form, name, outputs, rows, threads)


@pytest.mark.parametrize("isa", ISAS)
def test_silu_over_its_whole_range(isa: str) -> None:
    """Where the exponential is clamped, on both sides, and between: within 16 roundings of what is exact."""
    values = np.concatenate([np.linspace(-110, 110, 4001), np.linspace(-1, 1, 1001), [0.0, 1e-30, -1e-30]])
    x = values.astype(np.float32)[:, None]
    ones = Packed.of(*pack_floats(np.ones((5, 1), np.float32), "float32"))
    program = _kernels.Program(isa, 1, False)
    program.buffer(1)
    program.gated(0, None, 0.0, ones.matrix, ones.matrix, program.buffer(5), 0)
    found = run_rows(program, x, 1, 5)
    wide = x.astype(np.float64)
    wanted = np.repeat(silu(wide) * wide, 5, axis=1)
    check(found, wanted, 16 * U * np.abs(wanted) + 1e-33, isa)


# rows of a head, and of an embedding ---------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["float32", "bfloat16", "int4 64 float32"])
def test_a_head_over_kept_rows(isa: str, form: str) -> None:
    """In any order, few or many of them, and one of them more than once."""
    rng = np.random.default_rng(6)
    w = make_weights(form, 70, 64, rng)
    x = rows_of(rng, 40, 64)
    wanted, bound = product_of(w, x, isa, integers=True)
    for kept in ([39], [0], [7, 3], [5, 5, 0], list(range(39, 6, -1)), [*range(40), *range(40)] * 4):
        program = _kernels.Program(isa, 2, True)
        program.head(program.buffer(64), w.packed.matrix)
        logits = np.full((len(kept), 80), np.nan, np.float32)
        positions = np.zeros((1, 20), np.int64)
        arguments = 0, 1, x.reshape(2, 20, 64), positions, [], None, 0
        program.run(*arguments, kept=np.array(kept), logits=logits)
        check(logits[:, :70], wanted[kept], bound[kept], isa, form, len(kept))


def embedded(program: _kernels.Program, ids: list[int], width: int) -> np.ndarray:
    out = np.full((1, len(ids), width), np.nan, np.float32)
    program.run(0, 0, np.array([ids]), np.zeros((1, len(ids)), np.int64), [], None, 0, hidden=out)
    return out[0]


def test_rows_of_an_embedding() -> None:
    """From panels of every format, from rows of floats, and from packed words of every width."""
    rng = np.random.default_rng(7)
    ids = [0, 1, 15, 16, 17, 31, 32, 36, 36]
    for form in FORMATS:
        w = make_weights(form, 37, 128, rng)
        program = _kernels.Program("portable", 1, False)
        program.buffer(128)
        program.table(w.packed.matrix)
        check(embedded(program, ids, 128), w.exact[ids], 2 * U * w.size[ids] * (w.q is not None), form)
    for dtype in ("float32", "bfloat16", "float16"):
        table = rng.standard_normal((37, 33)).astype(numpy_dtype(dtype))
        program = _kernels.Program("portable", 1, False)
        program.buffer(33)
        program.table((dtype, raw_view(table)))
        np.testing.assert_array_equal(embedded(program, ids, 33), table[ids].astype(np.float32))
    for bits in (2, 3, 4, 5, 6, 8):
        for group, dtype in ((32, "float16"), (64, "bfloat16"), (128, "float32")):
            words = rng.integers(0, 2**32, (37, 384 * bits // 32), dtype=np.uint32)
            scales, biases = rng.standard_normal((2, 37, 384 // group)).astype(numpy_dtype(dtype))
            program = _kernels.Program("portable", 1, False)
            program.buffer(384)
            program.packed_table(bits, dtype, words, raw_view(scales), raw_view(biases))
            exact = dequantize(words, scales, biases, bits=bits, dtype=np.float64)
            size = np.abs(scales.astype(np.float64)) * 2**bits + np.abs(biases.astype(np.float64))
            check(embedded(program, ids, 384), exact[ids], 2 * U * size.repeat(group, axis=1)[ids], bits, group, dtype)


# every number of 16 bits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_number_of_16_bits_is_read_exactly(isa: str, dtype: str) -> None:
    """As a weight, of a single row and of several, and as an embedding: also the smallest ones and infinity."""
    every = np.arange(65536, dtype=np.uint16).view(numpy_dtype(dtype))
    program = _kernels.Program(isa, 1, False)
    program.buffer(16)
    program.table((dtype, every.view(np.uint16).reshape(-1, 16)))
    np.testing.assert_array_equal(embedded(program, list(range(4096)), 16).ravel(), every.astype(np.float32))
    finite = np.where(np.isfinite(every.astype(np.float32)), every, np.zeros(1, every.dtype))
    if isa == "avx512_bf16" and dtype == "bfloat16":  # products of pairs take numbers below 2^-126 for 0
        finite = np.where(np.abs(finite.astype(np.float32)) < 2.0**-126, np.zeros(1, every.dtype), finite)
    packed = Packed.of(*pack_floats(finite.reshape(-1, 16), dtype))
    for x in (np.eye(16, dtype=np.float32), *np.split(np.eye(16, dtype=np.float32), 16)):
        y = np.empty((len(x), 4096), np.float32)
        _kernels.Program(isa, 1, False).product(packed.matrix, x, y)
        np.testing.assert_array_equal(y, (x @ finite.astype(np.float32).reshape(-1, 16).T))
