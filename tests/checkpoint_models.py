"""Checkpoints of other formats, written from transformers models by other people's code or by plain definitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from polyllama import Llama

IDS = [[1, 5, 9, 42, 7, 3, 88, 60, 2, 31, 77, 12]]


def logits_of(model: Any) -> np.ndarray:
    """What transformers computes for ``IDS``, in float32."""
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.float().numpy()


def our_logits(path: Any, **options: Any) -> np.ndarray:
    """What the reference backend computes for ``IDS`` from a checkpoint."""
    llm = Llama.load(path, backend="reference", **options)
    return llm.forward(IDS).numpy()["logits"]


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows from Hugging Face's rotary order to Meta's: component i of the first half beside i of the second."""
    rows = weight.shape[0] // heads
    order = [head * rows + half * rows // 2 + i for head in range(heads) for i in range(rows // 2) for half in (0, 1)]
    return weight[order].clone()


def meta_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The whole tensors of a transformers model under Meta's names and in Meta's order."""
    config, state = model.config, model.state_dict()
    found = {
        "tok_embeddings.weight": state["model.embed_tokens.weight"],
        "norm.weight": state["model.norm.weight"],
        "output.weight": state["lm_head.weight"],
    }
    for layer in range(config.num_hidden_layers):
        old, new = f"model.layers.{layer}.", f"layers.{layer}."
        found |= {
            new + "attention.wq.weight": interleaved(
                state[old + "self_attn.q_proj.weight"], config.num_attention_heads
            ),
            new + "attention.wk.weight": interleaved(
                state[old + "self_attn.k_proj.weight"], config.num_key_value_heads
            ),
            new + "attention.wv.weight": state[old + "self_attn.v_proj.weight"],
            new + "attention.wo.weight": state[old + "self_attn.o_proj.weight"],
            new + "feed_forward.w1.weight": state[old + "mlp.gate_proj.weight"],
            new + "feed_forward.w2.weight": state[old + "mlp.down_proj.weight"],
            new + "feed_forward.w3.weight": state[old + "mlp.up_proj.weight"],
            new + "attention_norm.weight": state[old + "input_layernorm.weight"],
            new + "ffn_norm.weight": state[old + "post_attention_layernorm.weight"],
        }
    return found


def write_meta(folder: Path, model: Any, ranks: int = 1, *, llama: int = 2, **params: Any) -> Path:
    """consolidated.NN.pth and params.json as Meta's training code left them, cut for ``ranks`` ranks by torch.save."""
    config = model.config
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(ranks)]
    for name, tensor in meta_tensors(model).items():
        if "norm" in name:
            pieces = [tensor] * ranks
        elif name.endswith(("wo.weight", "w2.weight")) or (name.startswith("tok") and llama < 3):
            pieces = list(tensor.chunk(ranks, 1))
        elif name.endswith(("wk.weight", "wv.weight")) and ranks > config.num_key_value_heads:
            heads = tensor.chunk(config.num_key_value_heads, 0)
            pieces = [heads[rank * len(heads) // ranks] for rank in range(ranks)]
        else:
            pieces = list(tensor.chunk(ranks, 0))
        for shard, piece in zip(shards, pieces, strict=True):
            shard[name] = piece.clone()
    for rank, shard in enumerate(shards):
        if llama < 3:
            shard["rope.freqs"] = torch.ones(config.head_dim // 2)
        torch.save(shard, folder / f"consolidated.{rank:02d}.pth")
    stated = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size if llama == 3 else -1,
        "norm_eps": config.rms_norm_eps,
        "multiple_of": 16,
    }
    (folder / "params.json").write_text(json.dumps(stated | params))
    return folder
