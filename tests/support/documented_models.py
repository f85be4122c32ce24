"""Tiny random models of transformers' own, saved for each documented head, and the tasks' names for them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import polyllama
import torch
import transformers

SIZES: dict[str, Any] = {
    **{"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "pad_token_id": 0},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
}
IDS = torch.tensor([[1, 5, 9, 30], [1, 7, 2, 11]])

TASKS = {
    "LlamaForCausalLM": "causal-lm",
    "LlamaForSequenceClassification": "sequence-classification",
    "LlamaForTokenClassification": "token-classification",
    "LlamaForQuestionAnswering": "question-answering",
    "LlamaModel": "base",
}

LABELS: dict[str, dict[str, torch.Tensor]] = {
    "LlamaForCausalLM": {"labels": IDS},
    "LlamaForSequenceClassification": {"labels": torch.tensor([0, 1])},
    "LlamaForTokenClassification": {"labels": IDS % 2},
    "LlamaForQuestionAnswering": {"start_positions": torch.tensor([0, 1]), "end_positions": torch.tensor([2, 3])},
    "LlamaModel": {},
}


class Saved:
    """Checkpoints that transformers wrote into a folder, one for each head and set of fields."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made = functools.cache(self._make)

    def of(self, name: str, **fields: Any) -> Path:
        return self._made(name, tuple(sorted(fields.items())))

    def _make(self, name: str, fields: tuple[tuple[str, Any], ...]) -> Path:
        target = self.folder / "-".join([name, *(f"{key}-{value}" for key, value in fields)])
        torch.manual_seed(0)
        getattr(transformers, name)(transformers.LlamaConfig(**SIZES | dict(fields))).save_pretrained(target)
        return target

    def both(self, name: str, **fields: Any) -> tuple[Any, Any]:
        """Ours and theirs."""
        found = self.of(name, **fields)
        return getattr(polyllama, name).from_pretrained(found), getattr(transformers, name).from_pretrained(found)
