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


def gguf_tensors(model: Any) -> dict[str, np.ndarray]:
    """The tensors of a transformers model under llama.cpp's names and in its order, in float32."""
    config, state = model.config, model.state_dict()
    modules = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    found = {"token_embd.weight": state["model.embed_tokens.weight"], "output_norm.weight": state["model.norm.weight"]}
    if not config.tie_word_embeddings:
        found["output.weight"] = state["lm_head.weight"]
    for layer in range(config.num_hidden_layers):
        for ours, theirs in modules.items():
            for kind in ("weight", "bias"):
                tensor = state.get(f"model.layers.{layer}.{theirs}.{kind}")
                if tensor is not None:
                    found[f"blk.{layer}.{ours}.{kind}"] = interleaved(tensor, heads[ours]) if ours in heads else tensor
    return {name: tensor.float().numpy() for name, tensor in found.items()}


def write_gguf(path: Path, model: Any, kind: str = "F32", *, mixed: dict[str, str] | None = None, **extra: Any) -> Path:
    """A GGUF file by the gguf package's own writer, matrices quantized by the package too.

    Args:
        kind: type of the matrices; norms stay F32.
        mixed: part of a name -> another type.
        extra: called with the writer under any name, for further metadata and tensors.
    """
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    for add in extra.values():
        add(writer)
    for name, array in gguf_tensors(model).items():
        chosen = next((to for part, to in (mixed or {}).items() if part in name), kind)
        number = gguf.GGMLQuantizationType["F32" if array.ndim == 1 else chosen]
        writer.add_tensor(name, gguf.quants.quantize(array, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


SMALL: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def small_tensors(config: dict[str, Any] = SMALL) -> dict[str, np.ndarray]:
    """Random float32 tensors of a causal language model under Hugging Face's names."""
    random = np.random.default_rng(0)
    hidden, inner, vocabulary = (config[n] for n in ("hidden_size", "intermediate_size", "vocab_size"))
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes |= {at + "input_layernorm.weight": (hidden,), at + "post_attention_layernorm.weight": (hidden,)}
        shapes |= {at + f"self_attn.{n}_proj.weight": (hidden, hidden) for n in "qo"}
        shapes |= {at + f"self_attn.{n}_proj.weight": (keys, hidden) for n in "kv"}
        shapes |= {at + f"mlp.{n}_proj.weight": (inner, hidden) for n in ("gate", "up")}
        shapes |= {at + "mlp.down_proj.weight": (hidden, inner)}
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    return {n: (0.3 * random.normal(size=s) + (len(s) == 1)).astype(np.float32) for n, s in shapes.items()}


def small_folder(folder: Path, tensors: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    """A Hugging Face folder of a small model, written by safetensors; with fields of its config changed."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(SMALL | config))
    save_file(small_tensors() if tensors is None else tensors, folder / "model.safetensors")
    return folder
