"""How tiny is trained, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from polyllama import LlamaConfig

BOS, EOS, IGNORED = 1, 2, -100


HELD_OUT_STORIES = 500


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out."""

    stories: int = 40_000
    tokenizer_stories: int = 20_000
    vocab_size: int = 1792
    hidden_size: int = 128
    intermediate_size: int = 352
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 512
    batch_tokens: int = 6144
    packed_share: float = 0.1  # batches whose rows are filled to the full context with several stories
    learning_rate: float = 3e-3
    warmup: float = 0.04
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    seed: int = 0
    threads: int = 2

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            architectures=["LlamaForCausalLM"],
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            max_position_embeddings=self.max_position_embeddings,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=BOS,
            eos_token_id=EOS,
            dtype="bfloat16",
        )


@dataclass
class Report:
    """What the model card tells about a training run."""

    recipe: Recipe
    parameters: int = 0
    tokens: int = 0
    steps: int = 0
    cpu_seconds: float = 0.0
    train_loss: float = math.nan
    losses: dict[str, float] = field(default_factory=dict)
    held_out_stories: int = HELD_OUT_STORIES
    tokens_per_word: float = math.nan
    distinct_stories: int = 0
    sample: str = ""
    curve: list[tuple[int, float, float]] = field(default_factory=list)


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Linear warmup, then a cosine to one percent of the peak."""
    warmup = max(1, int(steps * recipe.warmup))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
