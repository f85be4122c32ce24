"""Writing llama2.c's .bin files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from checkpoint_models import meta_tensors

ATTENTION = [f"attention.w{x}.weight" for x in "qkvo"]


MLP = [f"feed_forward.w{n}.weight" for n in (1, 2, 3)]


def write(path: Path, model: Any, version: int) -> Path:
    """A file of llama2.c from a transformers model."""
    c, t = model.config, meta_tensors(model)
    shared = c.tie_word_embeddings

    def each(*names: str) -> list[Any]:
        return [t[f"layers.{layer}.{name}"] for name in names for layer in range(c.num_hidden_layers)]

    fields = [c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads]
    if version == 0:
        head = struct.pack("<7i", *fields, c.vocab_size if shared else -c.vocab_size, c.max_position_embeddings)
        tables = np.zeros(c.max_position_embeddings * c.head_dim, np.float32)
        parts = [t["tok_embeddings.weight"], *each("attention_norm.weight", *ATTENTION, "ffn_norm.weight", *MLP)]
        parts += [t["norm.weight"], tables]
    else:
        head = struct.pack("<Ii7iB", 0x616B3432, version, *fields, c.vocab_size, c.max_position_embeddings, shared)
        head += b"\0" * (256 - len(head))
        parts = [*each("attention_norm.weight", "ffn_norm.weight"), t["norm.weight"], t["tok_embeddings.weight"]]
        parts += each(*ATTENTION, *MLP)
    parts += [] if shared else [t["output.weight"]]
    path.write_bytes(head + b"".join(np.asarray(part, "<f4").tobytes() for part in parts))
    return path
