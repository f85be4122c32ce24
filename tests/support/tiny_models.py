"""Tiny random models that transformers makes, and how to compare arrays: shared by the tests."""

from __future__ import annotations

import importlib
import itertools
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama.core.forward.arguments import ForwardArguments

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    # Larger than real models' 0.02, so that attention is far from uniform and a wrong mask or position shows.
    "initializer_range": 0.15,
}

ROPE_TYPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 2.5, 3.0, 4.0],
        "original_max_position_embeddings": 20,
    },
}
"""For head_dim 8. With sequences of 30 tokens, yarn, llama3, longrope and dynamic (at a context of 18) all scale."""

BACKENDS = ("reference", "torch")


def _runnable(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the named backends that there are here."""
    from polyllama.core.plugin_system.manager import plugin_manager

    found = plugin_manager().backends()
    return tuple(name for name in names if name in found and found[name].load()().availability().usable)


ALL_BACKENDS = _runnable(("reference", "torch", "mlx", "jax", "cpu"))


def relative_error(found: Any, wanted: Any) -> float:
    """Largest difference, relative to the largest wanted value."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def peer(module: str, package: str) -> Any:
    """Another engine to compare with, imported; where it is not installed, the tests that want it are skipped.

    Under ``make test-peers``, which installs them, that is a failure instead.
    """
    if os.environ.get("TEST_PEERS"):
        return importlib.import_module(module)
    return pytest.importorskip(module, reason=f"pip install {package}, or make test-peers")


def orders_apart(x: Any, weight: Any, unit_roundoff: float) -> Any:
    """How far ``x @ weight.T`` may lie from the same product summed in another order, ``[..., out]``.

    Which order that is depends on the library, the processor, and the shapes of the whole product. Each sum of n terms
    is off by at most n u / (1 - n u) times the sum of the terms' absolute values (Higham 2002, section 3.1).
    """
    x, weight = np.abs(np.asarray(x, np.float64)), np.abs(np.asarray(weight, np.float64))
    n = x.shape[-1] * unit_roundoff
    return 2 * n / (1 - n) * (x @ weight.T)


class TinyModels:
    """Random transformers models, saved once per set of fields."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers = itertools.count()
        self.made: dict[str, tuple[Any, Path]] = {}

    def __call__(self, rope: str | dict[str, Any] = "default", **fields: Any) -> tuple[Any, Path]:
        """A transformers model in eval mode with eager attention, and the folder it was saved in."""
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        rope_parameters = ROPE_TYPES[rope] if isinstance(rope, str) else rope
        sizes = SIZES | ({"max_position_embeddings": 18} if rope == "dynamic" else {}) | fields
        key = repr((sorted(sizes.items()), sorted(rope_parameters.items())))
        if key not in self.made:
            torch.manual_seed(zlib.crc32(key.encode()))  # the same weights whichever tests ran before
            config = transformers.LlamaConfig(**sizes, rope_parameters=dict(rope_parameters))
            model = transformers.LlamaForCausalLM(config).eval()
            if sizes.get("attention_bias") or sizes.get("mlp_bias"):
                for name, parameter in model.named_parameters():
                    if name.endswith("bias"):
                        torch.nn.init.normal_(parameter, std=0.1)
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    torch.nn.init.uniform_(parameter, 0.5, 1.5)
            model.set_attn_implementation("eager")
            folder = self.folder / f"model-{next(self.numbers)}"
            model.save_pretrained(folder)
            self.made[key] = model, folder
        return self.made[key]


def beside_transformers(tiny_models: TinyModels, backend: str) -> tuple[Any, Any]:
    """A model of transformers', and ours on a backend, in the dtype that both can be compared in."""
    from polyllama import Llama

    model, folder = tiny_models()
    return model, Llama.load(folder, backend=backend, dtype="auto" if backend == "reference" else "float32")


def forward(model: Any, input_ids: Any = None, **given: Any) -> Any:
    """One pass of a backend's model, its arguments as keywords."""
    options = getattr(model, "forward_options", ())
    return model.forward(ForwardArguments.of(model.task, input_ids, options=options, **given))
