"""Caches of the cpu backend in whole models, longer than a tile of 64 keys, beside the float64 reference."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaConfig
from polyllama.backends.cpu.backend import CpuBackend
from polyllama.core.backend.protocol import RealizeOptions
from polyllama.testing.oracle import spec_model
from polyllama.testing.probes import Probe, make, make_quantized
from tiny_models import SIZES, forward, relative_error

if importlib.util.find_spec("polyllama.backends.cpu._kernels") is None:
    pytest.skip("the native kernels were not built", allow_module_level=True)

from polyllama.backends.cpu import _kernels

ISAS = tuple(_kernels.instruction_sets())
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3, "int8": 3e-2}
"""Of float32: a few hundred roundings, as many as the longest sums have. Of the others: 8 and 11 significant bits, and
127 steps, a few times over for keys and values of two layers."""

LONG = make("cpu.long", num_key_value_heads=2, max_position_embeddings=2048)
IDS = np.random.default_rng(5).integers(0, 97, (3, 200))


def realized(
    found: Probe, isa: str = ISAS[0], *, dtype: str = "float32", threads: int = 1, kv_cache: str = "auto"
) -> Any:
    options = RealizeOptions(dtype=dtype, threads=threads, kv_cache=kv_cache)
    return CpuBackend(isa).realize(found.graph, found.stored(dtype), options, config=found.config, task=found.task)


@pytest.fixture(scope="module")
def wanted() -> np.ndarray:
    return np.asarray(forward(spec_model(LONG), IDS).logits)


@pytest.mark.parametrize("length", [1, 17, 130, 200])
def test_a_cache_gives_what_a_whole_pass_gives_however_it_is_cut(length: int, wanted: np.ndarray) -> None:
    model, cache = realized(LONG), None
    for start in range(0, 200, length):
        y = forward(model, IDS[:, start : start + length], past_key_values=cache, use_cache=True)
        cache = y.past_key_values
        assert relative_error(y.logits, wanted[:, start : start + length]) < TOLERANCES["float32"], start


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("element", ["bfloat16", "float16", "int8"])
def test_caches_of_fewer_bits(isa: str, element: str, wanted: np.ndarray) -> None:
    """Two passes of many tokens, then one by one; the same after rows were picked."""
    model = realized(LONG, isa, kv_cache=element)
    cache = forward(model, IDS[:, :120], use_cache=True).past_key_values
    y = forward(model, IDS[:, 120:190], past_key_values=cache, use_cache=True)
    assert 1e-6 < relative_error(y.logits, wanted[:, 120:190]) < TOLERANCES[element]  # some, or the setting did nothing
    assert cache.nbytes < 0.7 * _float32_bytes(model)  # of int8, heads as small as these have half as much in scales
    picked = cache.select_rows([2, 0])
    for rows, held in (([0, 1, 2], cache), ([2, 0], picked)):
        for place in range(190, 200):
            ids = IDS[rows, place : place + 1]
            found = forward(model, ids, past_key_values=held, use_cache=True).logits
            assert 1e-6 < relative_error(found[:, 0], wanted[rows, place]) < TOLERANCES[element]


def _float32_bytes(model: Any) -> int:
    cache = realized(LONG).new_cache(3, 190)
    cache.batch = 3
    cache.reserve(190)
    return int(cache.nbytes)


@pytest.mark.parametrize("element", list(TOLERANCES))
def test_attentions_see_the_same_cache_as_the_kernels(element: str, wanted: np.ndarray) -> None:
    """Probabilities are computed by the node's own definition over keys that kernels wrote, and the reverse."""
    model = realized(LONG, kv_cache=element)
    cache = forward(model, IDS[:, :101], use_cache=True).past_key_values
    for start, stop, attentions in ((101, 131, True), (131, 170, False), (170, 171, True), (171, 200, False)):
        y = forward(model, IDS[:, start:stop], past_key_values=cache, use_cache=True, output_attentions=attentions)
        assert relative_error(y.logits, wanted[:, start:stop]) < TOLERANCES[element], start
        if attentions:
            assert y.attentions[0].shape == (3, 6, stop - start, stop)


def test_an_int8_cache_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than 0.5% of tiny's loss over more than two tiles of keys, every token read from the cache."""
    loss = []
    text = (
        "Once upon a time, a small girl named Bean found a red kite. She gave it to her friend, and they ran to the "
        "hill. The wind was strong. The kite flew high, and the two friends laughed until the sun went down. Then they "
        "went home. Mom made soup for them, and the cat sat near the fire. The next day the wind was gone, so they "
        "played with a ball. The dog took the ball and ran away. They ran after the dog and they were all very happy. "
        "At night the moon was big and white, and the girl dreamed of her kite high up in the sky."
    )
    for element in ("float32", "int8"):
        monkeypatch.setenv("POLYLLAMA_KV_CACHE", element)
        llm = Llama.load("tiny", backend="cpu", dtype="float32")
        ids = np.array([llm.tokenizer.encode(text)])
        assert ids.shape[1] > 2 * 64
        rows, cache = [], None
        for place in range(ids.shape[1]):
            y = llm.forward(ids[:, place : place + 1], past_key_values=cache, use_cache=True)
            cache = y.past_key_values
            rows.append(y.logits[0, 0])
        scores = np.array(rows[:-1], np.float64)
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        losses = -scores[np.arange(len(scores)), ids[0, 1:]]
        loss.append((losses.mean(), losses[64:].mean()))
    for exact, ours in zip(*loss, strict=True):  # of all tokens, and of those beyond the first tile
        assert exact != ours and abs(ours / exact - 1) < 0.005


# long prompts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_long_prompts_go_through_in_chunks(batch: int) -> None:
    """512 rows at a time, with a mask and every hidden state, beside the reference; then a token more."""
    ids = np.random.default_rng(6).integers(0, 97, (batch, 620))
    mask = np.ones_like(ids)
    mask[0, :40] = 0
    mask[-1, 100:130] = 0
    model, exact = realized(LONG, threads=2), spec_model(LONG)
    found, wanted = (
        forward(m, ids[:, :-1], attention_mask=mask[:, :-1], output_hidden_states=True, use_cache=True)
        for m in (model, exact)
    )
    attended = mask[:, :-1].astype(bool)
    pairs = [(found.logits, wanted.logits), *zip(found.hidden_states, wanted.hidden_states, strict=True)]
    for ours, theirs in pairs:
        assert relative_error(ours[attended], theirs[attended]) < TOLERANCES["float32"]
    last = [
        forward(m, ids[:, -1:], attention_mask=mask, past_key_values=y.past_key_values).logits
        for m, y in ((model, found), (exact, wanted))
    ]
    assert relative_error(*last) < TOLERANCES["float32"]


def test_chunks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, wanted: np.ndarray) -> None:
    model = realized(LONG)
    monkeypatch.setattr("polyllama.backends.cpu.model.PRODUCTS", 1)
    for rows in (1, 12, 100):
        monkeypatch.setattr("polyllama.backends.cpu.model.CHUNK", rows)
        assert relative_error(forward(model, IDS[:, :40]).logits, wanted[:, :40]) < TOLERANCES["float32"]


# threads -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("bits", "dtype"), [(0, "float32"), (0, "bfloat16"), (4, "bfloat16"), (8, "float32")])
def test_threads_do_not_change_results(isa: str, bits: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, over whole passes: 2 key/value heads are fewer than 3 threads, and the vocabulary is 63 panels.

    What differs between them: which thread stores a new token's key, how many queries a tile has, where runs of panels
    begin and end, and how many panels of a row are read side by side. One thread alone is compared with the reference.
    """
    monkeypatch.setattr("polyllama.backends.cpu.model.processors", lambda: 16)
    fields = {"vocab_size": 1001, "intermediate_size": 448, "num_key_value_heads": 2, "max_position_embeddings": 512}
    found = make_quantized(f"cpu.threads{bits}", bits, **fields) if bits else make("cpu.threads", **fields)
    models = [realized(found, isa, dtype=dtype, threads=threads) for threads in (1, 2, 3)]
    caches: list[Any] = [None] * len(models)
    ids = np.random.default_rng(7).integers(0, 1001, (1, 348))
    exact = np.asarray(forward(spec_model(found), ids).logits) if dtype == "float32" else None
    start = 0
    for length in (300, 1, 33, 1, 3, 2, 1, 7):
        logits = []
        for place, model in enumerate(models):
            y = forward(model, ids[:, start : start + length], past_key_values=caches[place], use_cache=True)
            caches[place] = y.past_key_values
            logits.append(np.asarray(y.logits))
        for other in logits[1:]:
            np.testing.assert_array_equal(other, logits[0])
        if exact is not None:
            assert relative_error(logits[0], exact[:, start : start + length]) < TOLERANCES["float32"]
        start += length
    assert start == ids.shape[1]


def test_what_a_pass_leaves_behind_is_not_seen() -> None:
    """A pass of rows that are no numbers, and a larger one: the next gives what it gives in a model that never ran."""
    for found, dtype in (
        (LONG, "float32"),
        (make_quantized("cpu.left", 4), "bfloat16"),
        (make("cpu.bf16"), "bfloat16"),
    ):
        used, fresh = realized(found, dtype=dtype, threads=2), realized(found, dtype=dtype)
        width = found.config.hidden_size
        forward(used, inputs_embeds=np.full((2, 200, width), np.nan, np.float32))
        for length in (1, 2, 3, 40):
            x = np.random.default_rng(8).standard_normal((1, length, width)).astype(np.float32)
            wanted = forward(fresh, inputs_embeds=x).logits
            assert np.isfinite(wanted).all()
            np.testing.assert_array_equal(forward(used, inputs_embeds=x).logits, wanted)


def test_heads_that_share_one_key() -> None:
    """32 query heads over one key/value head: two tiles of queries for a new token, at 1, 65 and 200 tokens."""
    found = make("cpu.mqa", num_attention_heads=32, num_key_value_heads=1, hidden_size=256, max_position_embeddings=512)
    exact = np.asarray(forward(spec_model(found), IDS[:1]).logits)
    for isa in ISAS:
        model, cache, start = realized(found, isa), None, 0
        for stop in (1, 64, 65, 199, 200):
            y = forward(model, IDS[:1, start:stop], past_key_values=cache, use_cache=True)
            cache, start = y.past_key_values, stop
            assert relative_error(y.logits[:, -1], exact[:, stop - 1]) < TOLERANCES["float32"], stop


def test_fields_of_the_usual_sizes() -> None:
    """A model as users make one, loaded by name, with a prompt of three tiles of keys."""
    config = LlamaConfig(**{**SIZES, "dtype": "float32", "max_position_embeddings": 512})
    ours, theirs = (Llama.load(config, load_format="dummy", backend=name) for name in ("cpu", "reference"))
    assert relative_error(ours.forward(IDS).logits, theirs.forward(IDS).logits) < TOLERANCES["float32"]
