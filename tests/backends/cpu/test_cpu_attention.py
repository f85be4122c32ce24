"""Attention of the cpu backend beside NumPy's in float64, on both sides of every threshold of the kernels.

Where those sizes come from (backends/cpu/native): tiles of 16 queries that share keys; tiles of 64 keys in blocks of
16; 16 keys side by side in the cache, in bfloat16 pairs of components and of values; a single new token with at least
as many key/value heads as threads, which is stored and attended to by one thread, and everything else, where the
queries of a head are cut into so many tiles that every thread has one.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("polyllama.backends.cpu._kernels") is None:
    pytest.skip("the native kernels were not built", allow_module_level=True)

from cpu_oracles import CACHES, ISAS, AttentionProgram, Heads, Turn, U, attention_of, check, held

NEITHER = Turn(np.zeros((1, 4096), np.int64), np.zeros((1, 0), np.float32))
"""No rotary embedding: keys and values then reach the cache as they are given."""

# Heads, batch, tokens in the cache, new tokens, threads.
SHAPES = (
    (Heads(3, 3, 8), 2, 0, 1, 1),
    (Heads(4, 2, 15), 2, 15, 1, 1),
    (Heads(4, 2, 18), 1, 63, 1, 1),
    (Heads(2, 1, 7), 3, 64, 1, 2),
    (Heads(34, 2, 8), 1, 130, 1, 2),  # 17 queries of a new token share keys: more than a tile
    (Heads(32, 1, 16), 1, 200, 1, 1),
    (Heads(32, 1, 16), 1, 127, 1, 2),
    (Heads(6, 2, 64), 1, 0, 70, 2),
    (Heads(5, 1, 80), 2, 50, 30, 3),
    (Heads(2, 2, 8), 1, 3, 1, 3),
    (Heads(3, 1, 9), 1, 121, 11, 3),
    (Heads(20, 1, 4), 1, 17, 140, 1),
)


def inputs(heads: Heads, batch: int, tokens: int, seed: int = 1) -> np.ndarray:
    """Rows of queries, keys and values; the values' sizes differ by much from token to token and from head to head."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, tokens, heads.width))
    start = heads.queries * heads.dim
    sizes = np.exp2(rng.integers(-3, 4, (batch, tokens, 2 * heads.keys)))
    sizes[..., : heads.keys] = np.clip(sizes[..., : heads.keys], 0.5, 2)  # of keys
    x[..., start:] *= np.repeat(sizes, heads.dim, axis=-1)
    return np.asarray(x, np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("element", CACHES)
def test_attention(isa: str, element: str) -> None:
    for heads, batch, past, length, threads in SHAPES:
        x = inputs(heads, batch, past + length)
        program = AttentionProgram(isa, heads, element, threads=threads)
        cache = program.cache(batch)
        if past:
            program(x[:, :past], cache)
        found = program(x[:, past:], cache)
        wanted, bound = attention_of(x, heads, past=past, turn=NEITHER, element=element, isa=isa)
        check(found, wanted, bound, isa, element, heads, batch, past, length, threads)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("element", CACHES)
@pytest.mark.parametrize("shared", [False, True])
def test_attention_under_a_mask(isa: str, element: str, shared: bool) -> None:
    """Of a row of the batch or of all: scattered, and whole tiles of keys that some rows of a tile may not look at."""
    rng = np.random.default_rng(2)
    for heads, past, length in ((Heads(4, 2, 15), 0, 150), (Heads(6, 1, 8), 140, 9), (Heads(4, 2, 16), 200, 1)):
        tokens = past + length
        mask = np.arange(tokens) <= np.arange(past, tokens)[:, None]
        mask = np.repeat(mask[None], 1 if shared else 3, axis=0)
        mask &= rng.random(mask.shape) < 0.7
        mask[0, 0 if length == 1 else 1 :: 3, :70] = False  # the first tile and a part of the second
        mask[-1, :: 2 if length > 1 else 1, 64:128] = False  # a tile in the middle
        mask |= np.arange(tokens) == np.arange(past, tokens)[:, None]  # a token always sees itself
        x = inputs(heads, 3, tokens)
        program = AttentionProgram(isa, heads, element)
        cache = program.cache(3)
        if past:
            program(x[:, :past], cache)
        found = program(x[:, past:], cache, mask=mask)
        wanted, bound = attention_of(x, heads, past=past, turn=NEITHER, element=element, isa=isa, mask=mask)
        check(found, wanted, bound, isa, element, heads, past, length)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("element", CACHES)
def test_what_may_not_be_looked_at_counts_for_nothing(isa: str, element: str) -> None:
    """Its probability is 0 and not merely small, so that values of any size there leave no trace."""
    heads = Heads(2, 1, 16)
    x = inputs(heads, 1, 101)
    hidden = [20, 25, 66, 99]
    x[:, hidden, 3 * heads.dim :] = 60000 if element == "float16" else 1e30
    mask = np.ones((1, 1, 101), bool)
    mask[..., hidden] = False
    program = AttentionProgram(isa, heads, element)
    cache = program.cache(1)
    program(x[:, :100], cache)
    found = program(x[:, 100:], cache, mask=mask)
    wanted, bound = attention_of(x, heads, past=100, turn=NEITHER, element=element, isa=isa, mask=mask)
    check(found, wanted, bound, isa, element)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("element", CACHES)
def test_scores_that_are_far_apart(isa: str, element: str) -> None:
    """Each tile's largest score above or far below all before it; what is far below counts for nothing."""
    heads = Heads(2, 2, 16)
    for order in (1, -1):
        x = inputs(heads, 1, 200)
        queries, keys, _ = heads.split(x)
        queries[...] = 4.0
        keys[...] = np.linspace(-3, 3, 200, dtype=np.float32)[None, None, ::order, None]
        x[..., : 4 * heads.dim] = np.concatenate(
            [part.transpose(0, 2, 1, 3).reshape(1, 200, -1) for part in (queries, keys)], axis=-1
        )
        program = AttentionProgram(isa, heads, element)
        found = program(x, program.cache(1))
        wanted, bound = attention_of(x, heads, past=0, turn=NEITHER, element=element, isa=isa)
        check(found, wanted, bound, isa, element, order)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [2, 3])
def test_attention_does_not_depend_on_the_number_of_threads(isa: str, threads: int) -> None:
    """To the last bit, though a head's queries are cut into other tiles and another thread may store a new key."""
    for heads, batch, past, length in (
        (Heads(6, 2, 18), 1, 70, 1),
        (Heads(6, 1, 18), 1, 70, 5),
        (Heads(8, 2, 8), 2, 3, 40),
    ):
        for element in CACHES:
            x, found = inputs(heads, batch, past + length), []
            for count in (1, threads):
                program = AttentionProgram(isa, heads, element, threads=count)
                cache = program.cache(batch)
                program(x[:, :past], cache)
                found.append(program(x[:, past:], cache))
            np.testing.assert_array_equal(*found)


ROUNDINGS = {
    "truncated": lambda p: (p.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
    "not rounded": lambda p: p,
    "another key's": lambda p: held(np.where(np.arange(p.shape[-1]) == 1, p[..., :1], p), "bfloat16"),
}


@pytest.mark.parametrize("fault", [None, *ROUNDINGS])
def test_the_bound_is_tight_enough_to_see_how_probabilities_are_rounded(fault: str | None) -> None:
    """What multiplies pairs of bfloat16 rounds them to nearest. In float32 here, on machines without that as well."""
    heads, tokens = Heads(2, 2, 16), 60  # one tile
    x = inputs(heads, 2, tokens)
    wanted, bound = attention_of(x, heads, past=0, turn=NEITHER, element="bfloat16", isa="avx512_bf16")
    queries, keys, values = (held(part, "bfloat16").astype(np.float32) for part in heads.split(x))
    scores = np.where(np.tri(tokens, dtype=bool), queries / np.float32(4) @ keys.swapaxes(2, 3), np.float32("-inf"))
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    near = held(p, "bfloat16").astype(np.float32)
    mixed = (near if fault is None else ROUNDINGS[fault](p)) @ values / p.sum(axis=-1, keepdims=True)
    found = mixed.transpose(0, 2, 1, 3).reshape(2, tokens, -1)
    if fault is None:
        check(found, wanted, bound)
        return
    with pytest.raises(AssertionError, match="elements are off"):
        check(found, wanted, bound)


# rotary embeddings ---------------------------------------------------------------------------------------------------

# Components that are turned, of 16; where positions begin; a row's own positions and frequencies or all rows' together.
TURNS = ((8, 0, False), (8, 10_000, True), (5, 100_000, False), (1, 1_000_000, True), (7, 30, True))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("half", "start", "own"), TURNS)
def test_rotary_embedding(isa: str, threads: int, half: int, start: int, own: bool) -> None:
    """Angles are float32 by contract: at position 100,000 float64's would turn by 0.004 more or less."""
    rng = np.random.default_rng(3)
    heads, batch, tokens = Heads(4, 2, 16), 2, 75
    positions = start + np.arange(tokens)[None] + (np.array([[0], [313]]) if own else 0)
    frequencies = np.sort(rng.uniform(1e-4, 1, (batch if own else 1, half)).astype(np.float32))[:, ::-1]
    turn = Turn(positions, np.ascontiguousarray(frequencies), 1.25)
    x = inputs(heads, batch, tokens)
    for past in (0, 72, 74):
        program = AttentionProgram(isa, heads, "float32", half=half, factor=1.25, threads=threads)
        cache = program.cache(batch)
        if past:
            program(x[:, :past], cache, turn=turn)
        found = program(x[:, past:], cache, turn=turn)
        wanted, bound = attention_of(x, heads, past=past, turn=turn, element="float32", isa=isa)
        check(found, wanted, bound, isa, half, start, past, threads)


# what a cache holds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("element", CACHES)
def test_a_value_comes_back_as_the_cache_holds_it(isa: str, element: str) -> None:
    """A single key takes all of the attention, so its value comes back itself: rounded to nearest, ties to even."""
    heads = Heads(1, 1, 77)
    rng = np.random.default_rng(4)
    bits = rng.integers(0, 2**32, (400, 77), dtype=np.uint32)
    values = bits.view(np.float32)
    with np.errstate(all="ignore"):
        largest = 3e38 if element == "bfloat16" else 60000.0  # below what rounds to infinity
        sound = np.isfinite(values) & (np.abs(values) < largest) & (np.abs(values) > 1e-37)
    values = np.where(sound, values, np.float32(1))
    values[:9] = np.float32(2) ** np.arange(-30, -21)[:, None] * rng.standard_normal((9, 77)).astype(np.float32)
    values[9, :] = np.float32(1) + np.arange(77, dtype=np.float32) * np.float32(2.0**-12)  # halfway, for float16
    values[10, :] = np.float32(1) + np.arange(77, dtype=np.float32) * np.float32(2.0**-9)  # for bfloat16
    values[11, :] = np.arange(77, dtype=np.float32) - 38  # halfway and between, for int8
    values[12, :] = 0
    x = np.zeros((400, 1, heads.width), np.float32)
    x[:, 0, 2 * 77 :] = values
    program = AttentionProgram(isa, heads, element)
    found = program(x, program.cache(400))[:, 0]
    wanted = held(values, element)
    check(found, wanted, (2 * U if element == "int8" else 0.0) * np.abs(wanted), isa, element)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("element", CACHES)
def test_a_cache_that_grows_and_is_rearranged(isa: str, element: str) -> None:
    """Storage grows past 64 slots and again past 128, at an odd length; rows are picked, one of them twice."""
    heads, rows = Heads(4, 2, 15), [2, 0, 0]
    x = inputs(heads, 3, 150)
    program = AttentionProgram(isa, heads, element)
    cache = program.cache(3)
    ends = (33, 63, 64, 65, 101, 127, 128, 129)
    for start, stop in zip((0, *ends), ends, strict=False):
        found = program(x[:, start:stop], cache)
        wanted, bound = attention_of(x[:, :stop], heads, past=start, turn=NEITHER, element=element, isa=isa)
        check(found, wanted, bound, isa, element, start, stop)
    picked = cache.select_rows(rows)
    for held_rows, which in ((cache, [0, 1, 2]), (picked, rows)):
        found = program(x[which, 129:], held_rows)
        wanted, bound = attention_of(x[which], heads, past=129, turn=NEITHER, element=element, isa=isa)
        check(found, wanted, bound, isa, element, which)
    cache.reset()  # what is in it still must not be seen
    found = program(x[:, 50:90], cache)
    wanted, bound = attention_of(x[:, 50:90], heads, past=0, turn=NEITHER, element=element, isa=isa)
    check(found, wanted, bound, isa, element, "reset")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("element", CACHES)
def test_what_was_there_before_is_not_seen(isa: str, element: str) -> None:
    """After rows that are no numbers, in a larger pass, a program gives what one gives that never ran."""
    heads = Heads(3, 1, 7)  # padded everywhere
    program = AttentionProgram(isa, heads, element, half=3, threads=2)
    program(np.full((2, 90, heads.width), np.nan, np.float32), program.cache(2), turn=_turn(90))
    fresh = AttentionProgram(isa, heads, element, half=3)
    x = inputs(heads, 1, 70)
    for length in (1, 33, 70):
        wanted = fresh(x[:, :length], fresh.cache(1), turn=_turn(length))
        assert np.isfinite(wanted).all()
        np.testing.assert_array_equal(program(x[:, :length], program.cache(1), turn=_turn(length)), wanted)


def _turn(tokens: int) -> Turn:
    return Turn(np.arange(tokens)[None], np.array([[1.0, 0.1, 0.01]], np.float32))
