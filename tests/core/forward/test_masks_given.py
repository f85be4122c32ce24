"""Masks as they are given, beside positions and of every element type, on every backend, against transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from polyllama import Llama
from polyllama.core.array_kinds import as_numpy
from tiny_models import ALL_BACKENDS, beside_transformers, relative_error

IDS = np.random.default_rng(11).integers(1, 97, (2, 9))
AGAIN = np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4], [0, 1, 2, 0, 1, 2, 0, 1, 2]])
PADDED = np.array([[1] * 9, [0, 0] + [1] * 7])
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=ALL_BACKENDS)
def pair(request: pytest.FixtureRequest, tiny_models: Any) -> tuple[Any, Llama]:
    """A model of transformers', and ours."""
    return beside_transformers(tiny_models, str(request.param))


def theirs(model: Any, ids: np.ndarray, **named: Any) -> Any:
    with torch.no_grad():
        return model(
            torch.tensor(ids), **{n: torch.tensor(v) if isinstance(v, np.ndarray) else v for n, v in named.items()}
        )


class TestPositionsThatStartAgain:
    """They tell packed sequences apart only where there is no mask: one that masks nothing is one."""

    @pytest.mark.parametrize("use_cache", [True, False])
    @pytest.mark.parametrize("mask", [np.ones((2, 9), int), PADDED], ids=["ones", "padded"])
    def test_beside_a_mask(self, pair: tuple[Any, Llama], mask: np.ndarray, use_cache: bool) -> None:
        model, llm = pair
        given = {"attention_mask": mask, "position_ids": AGAIN, "use_cache": use_cache}
        found, wanted = llm(IDS, **given).logits, theirs(model, IDS, **given).logits
        assert relative_error(found[mask == 1], wanted.numpy()[mask == 1]) < TOLERANCE

    def test_beside_ones_in_one_row(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        given = {"attention_mask": np.ones((2, 9), int), "position_ids": AGAIN[:1]}
        found, wanted = llm(IDS, **given).logits, theirs(model, IDS, **given).logits
        assert relative_error(found, wanted) < TOLERANCE

    def test_without_a_mask(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        given = {"position_ids": AGAIN, "use_cache": False}
        found, wanted = llm(IDS, **given).logits, theirs(model, IDS, **given).logits
        assert relative_error(found, wanted) < TOLERANCE

    def test_going_on_from_a_cache(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        first = {"attention_mask": np.ones((2, 5), int), "position_ids": AGAIN[:, :5], "use_cache": True}
        rest = {"attention_mask": np.ones((2, 9), int), "position_ids": AGAIN[:, 5:]}
        past, their_past = (run(IDS[:, :5], **first) for run in (llm, lambda *a, **k: theirs(model, *a, **k)))
        found = llm(IDS[:, 5:], past_key_values=past.past_key_values, **rest).logits
        wanted = theirs(model, IDS[:, 5:], past_key_values=their_past.past_key_values, **rest).logits
        assert relative_error(found, wanted) < TOLERANCE

    @pytest.mark.parametrize("rope", ["dynamic", "longrope"])
    def test_where_frequencies_depend_on_the_length(self, pair: tuple[Any, Llama], tiny_models: Any, rope: str) -> None:
        model, folder = tiny_models(rope)
        llm = Llama.load(folder, backend=pair[1].backend, dtype=pair[1].dtype)
        given = {"attention_mask": np.ones((2, 9), int), "position_ids": AGAIN}
        assert relative_error(llm(IDS, **given).logits, theirs(model, IDS, **given).logits) < TOLERANCE

    @pytest.mark.parametrize("pooling", ["last", "mean"])
    def test_of_whole_rows(self, pair: tuple[Any, Llama], tiny_models: Any, pooling: str) -> None:
        """Their tasks are told what is text by a padding id too, which is no mask."""
        same = {"backend": pair[1].backend, "dtype": pair[1].dtype, "pad_token_id": 0}
        llm = Llama.load(tiny_models()[1], task="embedding", pooling=pooling, **same)
        masks: list[dict[str, Any]] = [{"attention_mask": np.ones_like(IDS)}, {}]
        whole, packed = (llm(IDS, position_ids=AGAIN, **mask).embeddings for mask in masks)
        wanted = llm(IDS, position_ids=AGAIN, attention_mask=np.tril(np.ones((1, 1, 9, 9), int))).embeddings
        assert relative_error(as_numpy(whole), as_numpy(wanted)) < TOLERANCE
        assert relative_error(as_numpy(packed), as_numpy(wanted)) > 1e-3
