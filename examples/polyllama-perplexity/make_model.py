"""Writes the checkpoint ``uniform-bytes``: weights of zero, so every byte is as likely as any other after any text."""

from __future__ import annotations

from pathlib import Path

from polyllama import Llama, LlamaConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

FOLDER = Path(__file__).parent / "polyllama_perplexity" / "uniform-bytes"

config = LlamaConfig(
    vocab_size=256,
    hidden_size=4,
    intermediate_size=4,
    num_hidden_layers=1,
    num_attention_heads=1,
    tie_word_embeddings=True,
    bos_token_id=None,
    eos_token_id=None,
    initializer_range=0.0,
)
Llama.load(config, load_format="dummy", backend="reference", dtype="float32").save(FOLDER)

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.save(str(FOLDER / "tokenizer.json"))
