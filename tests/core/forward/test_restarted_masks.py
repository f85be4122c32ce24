"""A pass of a length-dependent RoPE that starts over: every token looks at what it looked at when it was new."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from polyllama import Llama
from tiny_models import ALL_BACKENDS, relative_error

IDS = np.random.default_rng(3).integers(0, 97, (2, 30))
FILLED, NEW = 20, 4
TOTAL = FILLED + NEW
TOLERANCE = 1e-5


# The rule is one for both kinds of RoPE; "dynamic" starts over with every token, "longrope" once.
CASES = [*((name, "longrope") for name in ALL_BACKENDS), ("reference", "dynamic"), ("torch", "dynamic")]


@pytest.fixture(params=CASES, ids="-".join)
def llm(request: pytest.FixtureRequest, tiny_models: Any) -> Llama:
    backend, rope = request.param
    dtype = "auto" if backend == "reference" else "float32"
    return Llama.load(tiny_models(rope)[1], backend=backend, dtype=dtype)


def run(llm: Llama, start: int, stop: int, rows: Any = slice(0, 2), **options: Any) -> Any:
    return llm.forward(IDS[rows, start:stop], use_cache=True, **options)


def expect(llm: Llama, found: Any, mask: np.ndarray, positions: np.ndarray, rows: Any = slice(0, 2)) -> None:
    """`found` is what one pass over everything gives, with the attention mask `mask` ``[B, K, K]``."""
    length = mask.shape[-1]
    whole = run(llm, 0, length, rows, attention_mask=mask[:, None].astype(int), position_ids=positions[:, :length])
    logits = found.numpy()["logits"]
    assert relative_error(logits, whole.numpy()["logits"][:, -logits.shape[1] :]) < TOLERANCE


def causal(length: int = TOTAL) -> np.ndarray:
    return np.broadcast_to(np.tril(np.ones((length, length), bool)), (2, length, length)).copy()


def sparse(seed: int) -> np.ndarray:
    """A third of what a causal mask allows is forbidden; each token still sees itself."""
    forbidden = np.random.default_rng(seed).random((2, TOTAL, TOTAL)) < 1 / 3
    return causal() & (~forbidden | np.eye(TOTAL, dtype=bool))


# The first 16 tokens are one packed sequence and the next 4 another; then the row grows beyond its context.
PACKED = np.array([[*range(16), *range(4), 20, 21, 22, 23]] * 2)


def packed_mask() -> np.ndarray:
    mask = causal()
    mask[:, 16:20, :16] = False
    return mask


def test_after_packed_sequences(llm: Llama) -> None:
    first = run(llm, 0, FILLED, position_ids=PACKED[:, :FILLED])
    found = run(llm, FILLED, TOTAL, position_ids=PACKED[:, FILLED:], past_key_values=first.past_key_values)
    expect(llm, found, packed_mask(), PACKED)


def test_after_a_mask_of_four_dimensions(llm: Llama) -> None:
    mask, positions = sparse(1), np.tile(np.arange(TOTAL), (2, 1))
    mask[:, FILLED:] = True
    mask &= causal()
    first = run(llm, 0, FILLED, attention_mask=mask[:, None, :FILLED, :FILLED].astype(int))
    found = run(llm, FILLED, TOTAL, past_key_values=first.past_key_values)
    expect(llm, found, mask, positions)


def test_with_a_mask_of_four_dimensions(llm: Llama) -> None:
    mask, positions = sparse(2), np.tile(np.arange(TOTAL), (2, 1))
    mask[:, :FILLED] = causal()[:, :FILLED]
    first = run(llm, 0, FILLED)
    last = mask[:, None, FILLED:].astype(int)
    expect(llm, run(llm, FILLED, TOTAL, attention_mask=last, past_key_values=first.past_key_values), mask, positions)


def test_with_positions_that_do_not_rise(llm: Llama) -> None:
    """After a cache no position begins another sequence, whether the pass starts over or not."""
    positions = np.array([[*range(FILLED), 19, 23, 5, 6]] * 2)
    first = run(llm, 0, FILLED)
    found = run(llm, FILLED, TOTAL, position_ids=positions[:, FILLED:], past_key_values=first.past_key_values)
    expect(llm, found, causal(), positions)


def test_going_on_with_rows_of_it(llm: Llama) -> None:
    first = run(llm, 0, FILLED, position_ids=PACKED[:, :FILLED])
    second = run(llm, FILLED, TOTAL - 2, position_ids=PACKED[:, FILLED:-2], past_key_values=first.past_key_values)
    rows = second.past_key_values.select_rows([1])
    found = run(llm, TOTAL - 2, TOTAL, [1], position_ids=PACKED[1:, -2:], past_key_values=rows)
    expect(llm, found, packed_mask()[1:], PACKED[1:], [1])
