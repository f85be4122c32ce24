"""Shared by the tests of core/tasks: models and helpers."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from polyllama import Llama, LlamaConfig
from tiny_models import SIZES, relative_error

TOLERANCE = 1e-5


IDS = np.random.default_rng(3).integers(3, 97, (3, 11))  # 0 is the padding, 2 the end of a text


class Heads:
    """Random transformers models with a head, saved once per class and fields."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, {}

    def __call__(self, kind: str, **fields: Any) -> tuple[Any, Path]:
        import torch
        import transformers

        key = repr((kind, sorted(fields.items())))
        if key not in self.made:
            torch.manual_seed(zlib.crc32(key.encode()))  # the same weights whichever tests ran before
            sizes = SIZES | {"num_hidden_layers": 2, "pad_token_id": 0} | fields
            model = getattr(transformers, f"Llama{kind}")(transformers.LlamaConfig(**sizes)).eval()
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    torch.nn.init.normal_(parameter, std=0.3)
            folder = self.folder / f"head-{len(self.made)}"
            model.save_pretrained(folder)
            self.made[key] = model, folder
        return self.made[key]


def oracle(model: Any, ids: Any = None, **arguments: Any) -> Any:
    import torch

    given = {n: torch.tensor(np.asarray(v)) if not isinstance(v, bool) else v for n, v in arguments.items()}
    given = {n: v.float() if hasattr(v, "dtype") and v.dtype == torch.float64 else v for n, v in given.items()}
    with torch.no_grad():
        return model(None if ids is None else torch.tensor(np.asarray(ids)), **given)


def agree(ours: Any, theirs: Any) -> None:
    """The same fields in the same order, and the same numbers."""
    found = ours.numpy()
    assert list(ours) == list(theirs)
    for name, value in found.items():
        if not isinstance(value, tuple):
            assert relative_error(value, theirs[name]) < TOLERANCE, name


def fresh(task: str, backend: str = "reference", **fields: Any) -> Llama:
    """A head on random weights, from a config alone."""
    return Llama.load(
        LlamaConfig(**(SIZES | {"num_hidden_layers": 1, "pad_token_id": 0} | fields)),
        task=task,
        load_format="dummy",
        backend=backend,
    )


SEQUENCE, TOKEN, SPAN = "sequence-classification", "token-classification", "question-answering"
