"""Fixtures shared by the tests of cli."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import Outcome
from polyllama.cli.main import main


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the Hub has them: random weights, a SentencePiece tokenizer, no chat template."""
    import sentencepiece
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("checkpoint")
    words = [
        "once",
        "upon",
        "a",
        "time",
        "there",
        "was",
        "a",
        "llama",
        "who",
        "lived",
        "by",
        "the",
        "sea",
        "and",
        "sang",
        "to",
        "the",
        "moon",
        "every",
        "night",
    ]
    rng = np.random.default_rng(0)
    sentences = (" ".join(rng.choice(words, 12)) + "." for _ in range(300))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    vocab = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size()
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    tensors = {"model.embed_tokens.weight": weight(vocab, 16), "lm_head.weight": weight(vocab, 16)}
    tensors["model.norm.weight"] = np.ones(16, np.float32)
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        for name, shape in {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16)}.items():
            tensors[f"{prefix}.self_attn.{name}.weight"] = weight(*shape)
        for name, shape in {"gate_proj": (32, 16), "up_proj": (32, 16), "down_proj": (16, 32)}.items():
            tensors[f"{prefix}.mlp.{name}.weight"] = weight(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{name}.weight"] = np.ones(16, np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run a command line in this process: exit code, stdout, stderr."""

    def run(*arguments: str, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
