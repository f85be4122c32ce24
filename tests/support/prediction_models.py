"""Small models with heads and the bundled model's vocabulary, for the tests of predictions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polyllama

TINY = Path(polyllama.__file__).parent / "models" / "tiny"
SIZE = 32
CONTEXT = 256
HEADS = {  # class: the head's name, the trunk's, whether there is a bias
    "SequenceClassification": ("score", "model", False),
    "TokenClassification": ("score", "model", True),
    "QuestionAnswering": ("qa_outputs", "transformer", True),
}


def add_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder / name)


def vocabulary() -> dict[str, int]:
    found: dict[str, int] = json.loads((TINY / "tokenizer.json").read_text())["model"]["vocab"]
    return found


def random_head(folder: Path, kind: str, seed: int = 0, **fields: Any) -> Path:
    """A transformers model with random weights, in a folder with a tokenizer."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=SIZE,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,  # so that every label is the likeliest somewhere
        **({"pad_token_id": 0} | fields),
    )
    model = getattr(transformers, f"Llama{kind}")(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    add_tokenizer(folder)
    return folder


def taught_head(
    folder: Path, kind: str, scores: Mapping[str, Sequence[float]], otherwise: Sequence[float] = (), **fields: Any
) -> Path:
    """A model that knows a few tokens by heart, so that what it must answer is known too.

    Args:
        scores: tokens as the vocabulary has them, and the logits that the head gives each.
        otherwise: the logits of all other tokens, 0 without.
    """
    from safetensors.numpy import save_file

    head, trunk, has_bias = HEADS[kind]
    ids = vocabulary()
    count = len(next(iter(scores.values())))
    base = np.asarray(otherwise or [0.0] * count, np.float32)
    assert len(scores) <= SIZE and (has_bias or not base.any())
    embedding = np.zeros((len(ids), SIZE), np.float32)
    weight = np.zeros((count, SIZE), np.float32)
    for place, (token, wanted) in enumerate(scores.items()):
        embedding[ids[token], place] = 1.0
        weight[:, place] = np.asarray(wanted, np.float32) - base
    # The layer adds nothing, and the norm of a one-hot row is undone by its weight: the head looks the token up.
    tensors = {
        f"{trunk}.embed_tokens.weight": embedding,
        f"{trunk}.norm.weight": np.full(SIZE, SIZE**-0.5, np.float32),
        f"{trunk}.layers.0.input_layernorm.weight": np.ones(SIZE, np.float32),
        f"{trunk}.layers.0.post_attention_layernorm.weight": np.ones(SIZE, np.float32),
        f"{head}.weight": weight,
    }
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"):
        tensors[f"{trunk}.layers.0.{name}.weight"] = np.zeros((SIZE, SIZE), np.float32)
    for name in ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
        tensors[f"{trunk}.layers.0.{name}.weight"] = np.zeros((SIZE, SIZE), np.float32)
    if has_bias:
        tensors[f"{head}.bias"] = base
    config = {
        "architectures": [f"LlamaFor{kind}"],
        "model_type": "llama",
        "vocab_size": len(ids),
        "hidden_size": SIZE,
        "intermediate_size": SIZE,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-12,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **({} if kind == "QuestionAnswering" or "id2label" in fields else {"num_labels": count}),
        **fields,
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    add_tokenizer(folder)
    return folder


def labels(*names: str) -> dict[str, Any]:
    """The config's fields for these labels."""
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
