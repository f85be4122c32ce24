"""Wrong arguments for the native kernels: whatever is handed over, they refuse it or do it, and stay in their memory.

python tools/fuzz/fuzz_kernels.py [COUNT]    # so many random attempts; also part of ``make sanitize``

An attempt builds a small program, a cache and a pass, and spoils an argument or two of one call on the way. What is
refused must be refused by an ordinary exception; what is not goes on to the end with it.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

REFUSALS = (ValueError, TypeError, IndexError, RuntimeError, OverflowError)
"""How pybind11 and the kernels say no. Anything else is a bug, and so is the end of the process."""

STEPS = 40
"""More calls than an attempt has."""

NUMBERS = (-1, 0, 1, 3, 33, 2**31, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1, 2**64, 1.5, None, "7")
NAMES = ("", "mmx", "int8", "q4", "q8", "float16", "bfloat16", "float32", "float64", None, 4)

Choose = Callable[[Sequence[Any]], Any]


def spoiled(value: Any) -> list[Any]:
    """What to put in an argument's place."""
    if isinstance(value, np.ndarray):
        return _arrays(value)
    if isinstance(value, bool):
        return [not value, None, 2]
    if isinstance(value, (int, float)):
        near = [value + 1, max(0, value - 1), 2 * value] if isinstance(value, int) else [float("nan"), float("inf")]
        return [*near, *NUMBERS]
    if isinstance(value, str):
        return list(NAMES)
    if isinstance(value, list):
        return [[], value[:-1], [*value, *value[-1:]], value[::-1], [None], None, 3]
    if isinstance(value, tuple) and value and isinstance(value[1], np.ndarray):
        return [(name, value[1]) for name in NAMES] + [(value[0], array) for array in _arrays(value[1])] + [(), None]
    return [None, 3, "x", np.zeros(4, np.float32), []]


def _arrays(array: np.ndarray) -> list[Any]:
    raw = np.zeros(array.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(array.tobytes(), np.uint8)
    unaligned = raw[1:].view(array.dtype).reshape(array.shape)
    fixed = array.copy()
    fixed.flags.writeable = False
    found: list[Any] = [
        None,
        3,
        array.tolist(),
        unaligned,
        fixed,
        array[:0],
        array[:-1].copy(),
        np.concatenate([array, array]),
        array[None],
        array.reshape(-1),
        array.T,
        np.repeat(array, 2, axis=-1)[..., ::2],
        array.astype(array.dtype.newbyteorder()),
        np.asarray(0, array.dtype),
    ]
    with np.errstate(all="ignore"):
        found += [array.astype(dtype) for dtype in (np.float64, np.float16, np.int8, np.uint64, object)]
    if array.dtype == np.int64:
        found += [np.full_like(array, number) for number in (-1, 10**6, 2**62, -(2**63))]
    if array.dtype == np.float32:
        found += [np.full_like(array, number) for number in (np.nan, np.inf, -1e38)]
    return found


class Attempt:
    """Makes calls; the one numbered `target` gets one argument that is not what it should be."""

    def __init__(self, choose: Choose, target: int) -> None:
        self.choose, self.target, self.calls = choose, target, 0
        self.spoiled = "nothing"

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call it, spoilt or not."""
        if self.calls == self.target:
            self.spoiled = getattr(function, "__name__", str(function))
            for _ in range(self.choose((1, 1, 2))):
                place = self.choose(range(len(arguments)))
                wrong = self.choose(spoiled(arguments[place]))
                self.spoiled += f", argument {place}: {wrong!r:.200}"
                arguments = (*arguments[:place], wrong, *arguments[place + 1 :])
        self.calls += 1
        return function(*arguments)


def attempt(kernels: Any, choose: Choose, target: int) -> str:
    """Everything once, with one call spoilt. Returns what was."""
    trial = Attempt(choose, target)
    isa = choose(kernels.instruction_sets())
    element = choose(("float32", "bfloat16", "float16", "int8"))
    packed = choose((False, True))
    with contextlib.suppress(*REFUSALS):
        _everything(kernels, trial, isa, element, packed)
    return trial.spoiled


def _everything(kernels: Any, trial: Attempt, isa: str, element: str, packed: bool) -> None:
    rng, call = np.random.default_rng(1), trial.call
    program = call(kernels.Program, isa, 1, packed)
    width, inner, heads, kv_heads, dim, vocab = 64, 96, 4, 2, 16, 37
    x, q, k, v, mixed, middle, hidden = (
        call(program.buffer, n) for n in (width, heads * dim, kv_heads * dim, kv_heads * dim, heads * dim, inner, width)
    )
    make = _packed_matrix if packed else _float_matrix
    shapes = {"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64), "gate": (96, 64), "up": (96, 64)}
    shapes |= {"down": (64, 96), "head": (vocab, 64)}
    spoil = trial.choose(sorted(shapes))  # one of them is made by calls that may be spoilt
    m = {name: make(kernels, trial if name == spoil else Attempt(trial.choose, -1), *shapes[name]) for name in shapes}
    norm = rng.standard_normal(width).astype(np.float32)
    rope = call(program.rope, dim // 2, 1.0)
    if packed:
        parts = [
            rng.integers(0, 2**32, (vocab, 8), dtype=np.uint32),
            *(np.ones((vocab, 2), np.float32) for _ in range(2)),
        ]
        call(program.packed_table, 4, "float32", *parts)
    else:
        call(program.table, ("float32", rng.standard_normal((vocab, width)).astype(np.float32)))
    call(program.capture, x)
    call(program.linear, x, norm, 1e-5, [m["q"], m["k"], m["v"]], [q, k, v], False)
    call(program.attention, q, k, v, mixed, 0, heads, kv_heads, dim, rope)
    call(program.linear, mixed, None, 0.0, [m["o"]], [x], True)
    call(program.gated, x, norm, 1e-5, m["gate"], m["up"], middle, 0)
    call(program.linear, middle, None, 0.0, [m["down"]], [x], True)
    call(program.norm, x, hidden, norm, 1e-5, True)
    call(program.head, hidden, m["head"])
    cache = call(kernels.Cache, element, dim, *_cache_parts(element, kv_heads, dim))
    for past, length in ((0, 5), (5, 1)):
        ids = rng.integers(0, vocab, (2, length))
        positions = np.tile(np.arange(past, past + length), (2, 1))
        frequencies = [np.ones((1, dim // 2), np.float32)]
        mask = trial.choose((None, np.ones((1, length, past + length), np.uint8)))
        captured, output = (np.zeros((n, 2, length, width), np.float32) for n in (1, 1))
        kept, logits = np.arange(2), np.zeros((2, 48), np.float32)
        last = program.operations
        call(
            program.run, 0, last, ids, positions, frequencies, cache, past, mask, captured, output, hidden, kept, logits
        )
    y = np.zeros((3, 48), np.float32)
    call(program.product, m["head"], np.ones((3, 64), np.float32), y)
    call(program.buffer, 32)  # too late, and refused


def _float_matrix(kernels: Any, trial: Attempt, rows: int, columns: int) -> Any:
    size = trial.call(kernels.packed_bytes, "float32", rows, columns, 0, "float32")
    data = _lines(size)
    trial.call(kernels.pack_floats, "float32", np.ones((rows, columns), np.uint32), data)
    matrix = trial.call(
        kernels.Matrix, "float32", rows, columns, 0, "float32", data, np.zeros(-(-rows // 16) * 16, np.float32)
    )
    trial.call(matrix.unpack_floats, np.zeros((rows, columns), np.uint32))
    return matrix


def _packed_matrix(kernels: Any, trial: Attempt, rows: int, columns: int) -> Any:
    size = trial.call(kernels.packed_bytes, "q4", rows, columns, 32, "float16")
    data = _lines(size)
    words = np.zeros((rows, columns // 8), np.uint32)
    scales, biases = (np.ones((rows, columns // 32), np.uint16) for _ in range(2))
    trial.call(kernels.pack_quantized, "q4", columns, 32, "float16", 4, words, scales, biases, data)
    matrix = trial.call(kernels.Matrix, "q4", rows, columns, 32, "float16", data, None)
    trial.call(matrix.unpack_quantized, 4, words, scales, biases)
    return matrix


def _lines(size: int) -> np.ndarray:
    raw = np.zeros(min(size, 1 << 20) + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def _cache_parts(element: str, heads: int, dim: int) -> list[np.ndarray]:
    dtype = {"float32": np.float32, "int8": np.int8}.get(element, np.uint16)
    parts = [np.zeros((1, 2, heads, 1, dim, 16), dtype), np.zeros((1, 2, heads, 16, 16), dtype)]
    return parts + [np.zeros((1, 2, heads, 16), np.float32) for _ in range(2 if element == "int8" else 0)]


def main() -> int:
    """Try so many times; an exception that is no refusal ends it."""
    from polyllama.backends.cpu import _kernels

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    rng = random.Random(count)
    for _ in range(count):
        attempt(_kernels, rng.choice, rng.randrange(STEPS))
    print(f"{count} attempts, none of which left its memory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
