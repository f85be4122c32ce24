"""What the cpu backend's kernels should give, in NumPy float64, and how far rounding may take them from it.

Every bound is a worst case, element by element: a sum of n terms with one rounding for each product and one for each
addition is off by at most ``2 n u`` of the sum of their sizes (Higham 2002, section 3.1; u = 2^-24 in float32), plus a
few roundings for what comes before and after. Where the kernels round inputs to fewer bits by contract, the oracle
rounds them as well, so that bounds stay as tight and a wrong scale or a wrong tile shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from polyllama.backends.cpu import _kernels
from polyllama.backends.cpu.cache import CacheShape, CpuCache
from polyllama.backends.cpu.weights import Packed, pack_floats, pack_quantized
from polyllama.core.dtypes import numpy_dtype
from polyllama.core.quantization.affine import dequantize
from polyllama.core.quantization.packing import unpack

U = 2.0**-24
"""Float32's unit roundoff."""

ISAS = tuple(_kernels.instruction_sets())

PAIRS = ("avx512_bf16", "neon_i8mm")
"""Instruction sets that multiply pairs of bfloat16, so that the other operand is rounded to bfloat16 as well."""

TILE = 64
"""Keys whose probabilities the kernels find together."""

CACHES = ("float32", "bfloat16", "float16", "int8")

FORMATS = (
    "float32",
    "bfloat16",
    "float16",
    *(f"int4 {group} {scale}" for group, scale in ((32, "float16"), (64, "float32"), (128, "bfloat16"))),
    *(f"int8 {group} {scale}" for group, scale in ((32, "float32"), (64, "bfloat16"), (128, "float16"))),
)
"""Every format of a matrix with every size of a group and every element type of its scales."""


def check(found: np.ndarray, wanted: np.ndarray, bound: np.ndarray, *what: Any) -> None:
    """Every element is within its bound; the message says which is not and by how much."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape, what)
    off = np.abs(found.astype(np.float64) - wanted)
    bad = ~(off <= bound)
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise AssertionError(
            f"{what}: {bad.sum()} of {bad.size} elements are off, the first at {place}: "
            f"{found[place]} for {wanted[place]}, bound {np.broadcast_to(bound, off.shape)[place]:.2g}"
        )


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """To the nearest number of `dtype`, in float64."""
    return x.astype(numpy_dtype(dtype)).astype(np.float64)


def to_int8(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from -127 to 127 and the scale of each vector (the last axis); computed in float32 by contract."""
    top = np.abs(x).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(top > np.float32(1e-36), np.float32(127) / top, np.float32(0)).astype(np.float32)
    q = np.rint(x * inverse).astype(np.float64)
    return q, (top[..., 0] / np.float32(127)).astype(np.float64)


# products ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """A matrix ``[rows, columns]`` in panels, and what it is exactly.

    Attributes:
        exact: its values.
        size: sizes of what makes up a value, ``|scale q| + |bias|`` for packed ones.
        q: packed ones' whole numbers ``[rows, groups, group]``, with `scales` and `biases` ``[rows, groups]``.
    """

    packed: Packed
    exact: np.ndarray
    size: np.ndarray
    bias: np.ndarray
    dtype: str
    q: np.ndarray | None = None
    scales: np.ndarray | None = None
    biases: np.ndarray | None = None


def make_weights(form: str, rows: int, columns: int, rng: np.random.Generator, *, bias: bool = True) -> Weights:
    """Random weights of a format: ``"float16"``, or bits, group and the scales' element type, ``"int4 32 float16"``."""
    added = rng.standard_normal(rows).astype(np.float32)
    if not bias:
        added[:] = 0
    given = added if bias else None
    kind, *rest = form.split()
    if not rest:
        layout, data = pack_floats(rng.standard_normal((rows, columns)).astype(np.float32), kind)
        packed = Packed.of(layout, data, given)
        exact = packed.tensor("weight").astype(np.float64)
        return Weights(packed, exact, np.abs(exact), added.astype(np.float64), kind)
    bits, group, dtype = int(kind[3:]), int(rest[0]), numpy_dtype(rest[1])
    words = rng.integers(0, 2**32, (rows, columns * bits // 32), dtype=np.uint32)
    # Of sizes that differ by much, so that those of another group or row are far off.
    shape = rows, columns // group
    sizes = np.exp2(rng.integers(-3, 4, shape)) / 2**bits
    scales = (rng.uniform(0.5, 1, shape) * sizes).astype(dtype)
    biases = (-rng.uniform(0.3, 0.7, shape) * sizes * 2**bits).astype(dtype)
    layout, data = pack_quantized(words, scales, biases, bits=bits, group=group, dtype=rest[1])
    assert layout.scale == rest[1]
    q = unpack(words, bits).astype(np.float64).reshape(*shape, group)
    wide = [part.astype(np.float64) for part in (scales, biases)]
    size = (np.abs(wide[0])[..., None] * q + np.abs(wide[1])[..., None]).reshape(rows, columns)
    exact = dequantize(words, scales, biases, bits=bits, dtype=np.float64)
    return Weights(Packed.of(layout, data, given), exact, size, added.astype(np.float64), kind, q, *wide)


def product_of(w: Weights, x: np.ndarray, isa: str, *, integers: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """``x @ w.T + bias`` of float32 rows, and the bound; with `integers` packed weights take inputs rounded to int8."""
    if w.q is not None and integers:
        assert w.scales is not None and w.biases is not None
        groups = w.scales.shape[1]
        q, scales = to_int8(x.reshape(len(x), groups, -1))
        sums = (q.transpose(1, 0, 2) @ w.q.transpose(1, 2, 0)).transpose(1, 2, 0)  # whole numbers: exact
        values = sums * scales[:, None] * w.scales
        biases = (q.sum(axis=-1) * scales)[:, None] * w.biases
        size = (np.abs(values) + np.abs(biases)).sum(axis=-1) + np.abs(w.bias)
        # Of each group: scaled, added, and its bias times the sum of its inputs, itself rounded twice, added.
        return (values + biases).sum(axis=-1) + w.bias, (2 * groups + 8) * U * size
    inputs = rounded(x, "bfloat16") if w.dtype == "bfloat16" and isa in PAIRS else x.astype(np.float64)
    size = np.abs(inputs) @ w.size.T + np.abs(w.bias)
    return inputs @ w.exact.T + w.bias, (2 * x.shape[1] + 8) * U * size


def norm_of(x: np.ndarray, weight: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """RMSNorm of float32 rows. Half of n roundings of the mean are left after the root; n / 2 and 4 further ones."""
    wide = x.astype(np.float64)
    y = weight * wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + np.float64(np.float32(eps)))
    return y, (x.shape[-1] / 2 + 5) * U * np.abs(y)


# attention -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heads:
    """Sizes of an attention: query heads, key/value heads and components of each."""

    queries: int
    keys: int
    dim: int

    @property
    def width(self) -> int:
        """Of a row that holds queries, keys and values side by side."""
        return (self.queries + 2 * self.keys) * self.dim

    def split(self, x: np.ndarray) -> list[np.ndarray]:
        """Rows ``[B, T, width]`` as queries, keys and values ``[B, heads, T, D]``."""
        ends = self.queries * self.dim, (self.queries + self.keys) * self.dim
        parts = np.split(x, ends, axis=-1)
        return [part.reshape(*x.shape[:2], -1, self.dim).transpose(0, 2, 1, 3) for part in parts]


@dataclass(frozen=True)
class Turn:
    """A rotary embedding: `positions` ``[B or 1, T]``, `frequencies` ``[B or 1, half]`` and the factor."""

    positions: np.ndarray
    frequencies: np.ndarray
    factor: float = 1.0

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors ``[B, heads, T, D]`` turned, and sums of the sizes that went into them.

        Angles are float32 products of float32 numbers by contract, and cosines float32 of what they are exactly.
        """
        half = self.frequencies.shape[1]
        angles = self.positions[:, : x.shape[2]].astype(np.float32)[:, :, None] * self.frequencies[:, None, :]
        cos, sin = (
            (f(angles.astype(np.float64)).astype(np.float32) * np.float32(self.factor)).astype(np.float64)[:, None]
            for f in (np.cos, np.sin)
        )
        wide = x.astype(np.float64)
        first, second, rest = wide[..., :half], wide[..., half : 2 * half], wide[..., 2 * half :]
        turned = np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)
        size = np.abs(first) * np.abs(cos) + np.abs(second) * np.abs(sin)
        other = np.abs(second) * np.abs(cos) + np.abs(first) * np.abs(sin)
        return turned, np.concatenate([size, other, np.abs(rest)], axis=-1)


def held(x: np.ndarray, element: str) -> np.ndarray:
    """Keys or values as a cache of `element` holds them."""
    if element != "int8":
        return rounded(x, element)
    q, scales = to_int8(x.astype(np.float32))
    return q * scales[..., None]


def attention_of(
    x: np.ndarray, heads: Heads, *, past: int, turn: Turn, element: str, isa: str, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What rows `past` and later of `x` ``[B, T, width]`` attend to, ``[B, T - past, queries * D]``, and the bound.

    A score is a sum of D products, off by e. A probability is then off by 2 e of itself, by the roundings of the
    exponent (as large as scores differ) and of bringing earlier tiles to a new largest score, and by those of its sum;
    the result is a sum of T of them. Where pairs are multiplied, probabilities are rounded to bfloat16 before values
    meet them, but not before they are summed.
    """
    queries, keys, values = heads.split(x)
    queries, query_sizes = turn(queries)
    keys, key_sizes = turn(keys)
    scale = np.float32(1) / np.sqrt(np.float32(heads.dim))
    queries, query_sizes = queries[:, :, past:] * np.float64(scale), query_sizes[:, :, past:] * np.float64(scale)
    pairs = element == "bfloat16" and isa in PAIRS
    # Turned ones differ in float32's last bits, where rounding to fewer bits may go either way: no part of the bound.
    assert element == "float32" or not turn.frequencies.size, "rotary embeddings are tried with a cache of float32"
    if pairs:
        queries = rounded(queries.astype(np.float32), "bfloat16")
    keys, values = held(keys, element), held(values, element)
    keys, key_sizes, values = (
        np.repeat(part, heads.queries // heads.keys, axis=1) for part in (keys, key_sizes, values)
    )
    batch, tokens = x.shape[:2]
    allowed = np.arange(tokens)[None, None] <= np.arange(past, tokens)[None, :, None]
    if mask is not None:
        allowed = mask.astype(bool)
    allowed = np.broadcast_to(allowed, (batch, tokens - past, tokens))[:, None]
    scores = queries @ keys.transpose(0, 1, 3, 2)
    sizes = query_sizes @ np.maximum(key_sizes, np.abs(keys)).transpose(0, 1, 3, 2)
    shown = np.where(allowed, scores, -np.inf)
    p = np.exp(shown - shown.max(axis=-1, keepdims=True))
    total = p.sum(axis=-1, keepdims=True)
    off = (2 * heads.dim + 8) * U * np.where(allowed, sizes, 0).max(axis=-1, keepdims=True)
    spread = np.where(allowed, np.abs(scores), 0).max(axis=-1, keepdims=True)
    exponential = 2 * off + (2 * spread + 16) * U
    relative = exponential + (4 * (tokens // TILE + 1) + 2 * tokens) * U
    p, either = rounded_in_tiles(shown, exponential) if pairs else (p, np.zeros_like(p))
    bound = (2 * relative * p + either) / total @ np.abs(values)
    return tuple(  # type: ignore[return-value]
        part.transpose(0, 2, 1, 3).reshape(batch, tokens - past, -1) for part in (p / total @ values, bound)
    )


def rounded_in_tiles(scores: np.ndarray, relative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exponentials of scores ``[..., T]`` as they are rounded to bfloat16, and how far each may be from that.

    They are rounded tile by tile of keys, each tile's below the largest score up to there, and brought to the largest
    of all later. One that is off by `relative` of itself may lie on the other side of the border between two numbers,
    and then comes out as the other: rounding never changes the order, so nothing lies outside its interval's ends.
    """
    p, either = np.zeros_like(scores), np.zeros_like(scores)
    last, top = scores.max(axis=-1, keepdims=True), np.full_like(scores[..., :1], -np.inf)
    for start in range(0, scores.shape[-1], TILE):
        tile = scores[..., start : start + TILE]
        top = np.maximum(top, tile.max(axis=-1, keepdims=True))
        exact = np.exp(tile - np.where(np.isfinite(top), top, 0))  # nothing may be looked at so far: all are 0
        low, nearest, high = (rounded(exact * by, "bfloat16") for by in (1 - relative, 1, 1 + relative))
        brought = np.exp(top - last)
        p[..., start : start + TILE] = nearest * brought
        either[..., start : start + TILE] = np.maximum(high - nearest, nearest - low) * brought
    return p, either


class AttentionProgram:
    """An attention alone: rows of queries, keys and values side by side go in, through matrices of ones that pick."""

    def __init__(
        self, isa: str, heads: Heads, element: str, *, half: int = 0, factor: float = 1.0, threads: int = 1
    ) -> None:
        self.heads, self.half, self.factor, self.element = heads, half, factor, element
        self.program = _kernels.Program(isa, threads, False)
        source = self.program.buffer(heads.width)
        widths = heads.queries * heads.dim, heads.keys * heads.dim, heads.keys * heads.dim
        q, k, v = (self.program.buffer(width) for width in widths)
        self.mixed = self.program.buffer(widths[0])
        picked = np.split(np.eye(heads.width, dtype=np.float32), np.cumsum(widths)[:-1])
        matrices = [Packed.of(*pack_floats(rows, "float32")).matrix for rows in picked]
        self.program.linear(source, None, 0.0, matrices, [q, k, v], False)
        self.program.rope(half, 1.0)  # of another attention
        rope = self.program.rope(half, factor)
        self.program.attention(q, k, v, self.mixed, 1, heads.queries, heads.keys, heads.dim, rope)

    def cache(self, batch: int) -> CpuCache:
        """An empty cache of two layers, of which the second is used."""
        return CpuCache(batch, None, CacheShape({"a": 0, "b": 1}, self.heads.keys, self.heads.dim, self.element))

    def __call__(
        self, x: np.ndarray, cache: CpuCache, *, turn: Turn | None = None, mask: np.ndarray | None = None
    ) -> np.ndarray:
        """Run rows ``[B, S, width]`` after those that the cache holds, and count them."""
        batch, length, _ = x.shape
        past, stop = cache.length, cache.length + length
        turn = turn or Turn(np.zeros((1, stop), np.int64), np.zeros((1, self.half), np.float32))
        out = np.full((batch, length, self.heads.queries * self.heads.dim), np.nan, np.float32)
        self.program.run(
            0,
            2,
            np.ascontiguousarray(x),
            np.ascontiguousarray(turn.positions[:, past:stop]),
            [np.full_like(turn.frequencies, 3), turn.frequencies],
            cache.reserve(stop),
            past,
            mask=None if mask is None else np.ascontiguousarray(mask, np.uint8),
            hidden=out,
            hidden_buffer=self.mixed,
        )
        cache.length = stop
        return out


# programs of one operation -------------------------------------------------------------------------------------------


def run_rows(
    program: _kernels.Program, x: np.ndarray, buffer: int, width: int, *, frequencies: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """All operations of a program without attention, on rows ``[T, columns]``; what is in `buffer` at the end."""
    out = np.full((1, len(x), width), np.nan, np.float32)
    positions = np.zeros((1, len(x)), np.int64)
    rows = np.ascontiguousarray(x, np.float32)[None]
    last = program.operations
    program.run(0, last, rows, positions, list(frequencies), None, 0, hidden=out, hidden_buffer=buffer)
    return out[0]
