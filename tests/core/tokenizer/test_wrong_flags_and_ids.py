"""Arguments of tokenizers that are wrong, and ids that are none: one line that names them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from polyllama import AutoTokenizer, LlamaTokenizer, LlamaTokenizerFast
from polyllama.core.errors import InputError, TokenizerError

PIECES = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4, "▁a": 5}


@pytest.mark.parametrize("kind", [LlamaTokenizer, LlamaTokenizerFast])
class TestConstruction:
    @pytest.mark.parametrize("name", ["legacy", "add_prefix_space", "add_bos_token", "add_eos_token"])
    def test_flags(self, kind: Any, name: str) -> None:
        for value in ("x", 1, []):
            with pytest.raises(TokenizerError, match=f"{name} must be true"):
                kind(vocab=PIECES, merges=["▁ a"], **{name: value})
        assert kind(vocab=PIECES, merges=["▁ a"], **{name: None}).decode([5]) == "a"

    def test_sampling(self, kind: Any) -> None:
        with pytest.raises(TokenizerError, match="sp_model_kwargs: 'wibble' is not a sampling option"):
            kind(vocab=PIECES, merges=["▁ a"], sp_model_kwargs={"wibble": True})
        with pytest.raises(TokenizerError, match="sp_model_kwargs must be a mapping"):
            kind(vocab=PIECES, merges=["▁ a"], sp_model_kwargs=5)


def test_ids_that_are_no_plain_arrays() -> None:
    torch = pytest.importorskip("torch")
    tokenizer = AutoTokenizer.from_pretrained("tiny")
    ids = torch.tensor([0, 400])
    hidden = np.ma.array([1, 400], mask=[False, True])  # type: ignore[no-untyped-call]
    for given, said in (
        (ids.to_sparse(), "token_ids is a sparse_coo tensor"),
        (ids.to("meta"), "token_ids is on torch's device 'meta'"),
        (hidden, "token_ids is a masked array"),
    ):
        with pytest.raises(InputError, match=said):
            tokenizer.decode(given)


@pytest.mark.parametrize("wrong", [-1, 2**40, 2**64 - 1])
def test_ids_outside_the_vocabulary(wrong: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained("tiny")
    array = np.array([1, wrong], np.uint64 if wrong > 2**63 else np.int64)
    for call in (tokenizer.decode, tokenizer.convert_ids_to_tokens):
        for given in ([1, wrong], array):
            with pytest.raises(TokenizerError, match=f"token id {wrong} is not in the vocabulary"):
                call(given)
