"""The doors of `core`'s rooms: names that are fetched from their file when they are used."""

from __future__ import annotations

from pathlib import Path

import polyllama
import pytest
from polyllama.core import checkpoint, tokenizer

TINY = Path(polyllama.__file__).parent / "models" / "tiny"


def test_a_room_gives_what_one_comes_for() -> None:
    assert tokenizer.load_tokenizer(TINY).encode("Once", add_special_tokens=False)
    assert "model.norm.weight" in checkpoint.open_checkpoint(TINY).tensors()


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="load_tokeniser"):
        tokenizer.load_tokeniser  # noqa: B018
