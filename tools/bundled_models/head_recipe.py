"""How the bundled heads are trained, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out."""

    head: str
    examples: int
    layers: int
    kept: int  # as many of the layers start as those of `tiny` are, the others so that they do nothing
    batch_tokens: int
    learning_rate: float
    shortest_first: float = 0.0  # share of the training in which texts grow from the shortest to any length
    hints: float = 0.0  # weight of the loss of what the tokens are, where the head has hints
    warmup: float = 0.05
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    seed: int = 0
    chunk: int = 4096
    held_out: int = 1000


@dataclass
class Report:
    """What the model card tells about a training run."""

    recipe: Recipe
    parameters: int = 0
    tokens: int = 0
    steps: int = 0
    cpu_seconds: float = 0.0
    loss: float = math.nan
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)


def learning_rate(progress: float, recipe: Recipe) -> float:
    """Linear warmup, then a cosine to one percent of the peak."""
    if progress < recipe.warmup:
        return recipe.learning_rate * max(0.01, progress / recipe.warmup)
    rest = (progress - recipe.warmup) / (1 - recipe.warmup)
    return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * rest)))
