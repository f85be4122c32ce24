"""The shape of a small random model that transformers and polyllama both generate with, and what transformers gives."""

from __future__ import annotations

import warnings
from typing import Any

EOS, PAD, VOCAB = 2, 0, 61
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "initializer_range": 0.6, "eos_token_id": EOS,
    "bos_token_id": 1, "pad_token_id": PAD,
}  # fmt: skip


def wanted(model: Any, *arguments: Any, **options: Any) -> Any:
    """What transformers gives, without what it says beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate(*arguments, **options)
