"""Fixtures shared by the tests of core/attention_mask."""

from __future__ import annotations

import pytest
from mask_cases import BACKENDS
from polyllama import AttentionMaskVisualizer, Llama, LlamaConfig
from tiny_models import SIZES


@pytest.fixture(scope="module")
def models() -> dict[str, Llama]:
    """The same random weights on every backend; sharp attention, so that no weight that should be there is lost."""
    config = LlamaConfig(**SIZES)
    dummy = {"load_format": "dummy", "dtype": "float32"}
    return {name: Llama.load(config, backend=name, **dummy) for name in BACKENDS}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tiny() -> AttentionMaskVisualizer:
    return AttentionMaskVisualizer("tiny")
