"""Rows and slots of several caches in one: each row goes on as it would have gone on in its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from polyllama import Llama
from polyllama.core.errors import InputError
from polyllama.core.graph.cache import CachedRows
from tiny_models import ALL_BACKENDS, forward, relative_error

IDS = np.random.default_rng(0).integers(3, 97, (6, 90))


@pytest.fixture(scope="module", params=ALL_BACKENDS)
def backend(request: Any) -> str:
    return str(request.param)


def filled(llm: Any, rows: list[int], length: int, padding: int = 0) -> Any:
    """A cache of the first tokens of some rows, after padding on the left."""
    ids = np.concatenate([np.zeros((len(rows), padding), np.int64), IDS[rows, :length]], axis=1)
    mask = np.ones(ids.shape, np.int64)
    mask[:, :padding] = 0
    return forward(llm.model, ids, attention_mask=mask, use_cache=True).past_key_values


def logits_after(llm: Any, ids: np.ndarray, cache: Any = None, mask: Any = None) -> np.ndarray:
    output = forward(llm.model, ids, past_key_values=cache, attention_mask=mask, logits_to_keep=1)
    return np.asarray(llm.model.to_numpy(output.logits))[:, -1]


@pytest.mark.parametrize("rope", ["default", "dynamic", "longrope"])
@pytest.mark.parametrize("lengths", [(40, 21, 5), (3, 16, 33), (16, 32, 48)])
def test_rows_go_on_as_alone(tiny_models: Any, backend: str, rope: str, lengths: tuple[int, ...]) -> None:
    llm = Llama.load(tiny_models(rope)[1], backend=backend, dtype="float32")
    parts = []
    for place, length in enumerate(lengths):
        cache = filled(llm, [2 * place, 2 * place + 1], length, padding=place)
        parts.append(CachedRows(cache, [1] if place else [0, 1], np.arange(place, length + place)))
    rows, before = [0, 1, 3, 5], [lengths[0], *lengths]
    whole = type(parts[0].cache).assembled(parts, max(lengths), 64)
    assert (whole.batch, whole.length) == (4, max(lengths))
    found = logits_after(llm, np.stack([IDS[row, n : n + 3] for row, n in zip(rows, before, strict=True)]), whole)
    for logits, row, length in zip(found, rows, before, strict=True):
        assert relative_error(logits, logits_after(llm, IDS[row : row + 1, : length + 3])[0]) < 2e-5


def test_rows_whose_slots_have_holes(tiny_models: Any, backend: str) -> None:
    """Slots that are left out are no part of the text: what is kept goes on as if it alone had been run."""
    llm = Llama.load(tiny_models()[1], backend=backend, dtype="float32")
    ids = IDS[:2, :20].copy()
    mask = np.ones((2, 20), np.int64)
    mask[0, [3, 4, 11]] = 0
    cache = forward(llm.model, ids, attention_mask=mask, use_cache=True).past_key_values
    parts = [CachedRows(cache, [0], np.flatnonzero(mask[0])), CachedRows(cache, [1], np.arange(20))]
    whole = type(cache).assembled(parts, 20)
    found = logits_after(llm, IDS[:2, 20:22], whole)
    assert relative_error(found[0], logits_after(llm, np.append(ids[0, mask[0] == 1], IDS[0, 20:22])[None])[0]) < 2e-5
    assert relative_error(found[1], logits_after(llm, IDS[1:2, :22])[0]) < 2e-5


@pytest.mark.parametrize("element", ["float32", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize("slots", [slice(0, 37), slice(5, 37), slice(16, 37)])
def test_every_element_type_of_the_cpu_cache(
    tiny_models: Any, monkeypatch: pytest.MonkeyPatch, element: str, slots: slice
) -> None:
    """Bit for bit what was there, whether whole blocks are copied or single slots."""
    if "cpu" not in ALL_BACKENDS:
        pytest.skip("the native kernels were not built")
    monkeypatch.setenv("POLYLLAMA_KV_CACHE", element)
    llm = Llama.load(tiny_models()[1], backend="cpu", dtype="float32")
    cache = filled(llm, [0, 1], 37)
    whole = type(cache).assembled([CachedRows(cache, [1, 0], np.arange(37)[slots])], 41 if slots.start == 5 else 37)
    for name in cache.names():
        for old, new in zip(cache.read(name), whole.read(name), strict=True):
            count = len(range(37)[slots])
            np.testing.assert_array_equal(new[:, :, new.shape[2] - count :], old[[1, 0]][:, :, slots])


def test_a_mask_of_its_own_stays_alone(tiny_models: Any, backend: str) -> None:
    llm = Llama.load(tiny_models("dynamic")[1], backend=backend, dtype="float32")
    mask = np.tril(np.ones((1, 1, 8, 8), np.int64))
    cache = forward(llm.model, IDS[:1, :8], attention_mask=mask, use_cache=True).past_key_values
    with pytest.raises(InputError, match="mask of its own"):
        type(cache).assembled([CachedRows(cache, [0], np.arange(8))], 8)
