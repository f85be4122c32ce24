"""Random LoRA adapters in folders as PEFT saves them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from polyllama.core.graph.graph import Graph
from safetensors.numpy import save_file

PREFIX = "base_model.model."


def save_adapter(
    folder: Path, graph: Graph, targets: Collection[str], *, rank: int = 4, seed: int = 0, **settings: Any
) -> Path:
    """An adapter of the modules whose names end like one of `targets`; `settings` go into its configuration."""
    rng = np.random.default_rng(seed)
    ranks: Mapping[str, int] = settings.get("rank_pattern", {})
    tensors = {}
    for node in graph.walk():
        ending = next((name for name in targets if node.path.endswith(name)), None)
        if ending is None or node.path.endswith("_adapter"):
            continue
        own = ranks.get(ending, rank)
        if hasattr(node, "in_features"):
            shapes = {"lora_A.weight": (own, node.in_features), "lora_B.weight": (node.out_features, own)}
        else:
            shapes = {"lora_embedding_A": (own, node.num_embeddings), "lora_embedding_B": (node.dim, own)}  # type: ignore[attr-defined]
        for part, shape in shapes.items():
            tensors[f"{PREFIX}{node.path}.{part}"] = rng.normal(0, 0.25, shape).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": sorted(targets), **settings}
    (folder / "adapter_config.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder
