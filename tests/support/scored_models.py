"""Shared by the tests of core/prediction: models and helpers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from polyllama import Llama
from polyllama.core.tasks.results import Entity
from prediction_models import labels, random_head, taught_head

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


PEOPLE = {
    "▁Lily": [0, 6, 0, 0, 0],
    "▁Tom": [0, 6, 1, 0, 0],
    "▁Nora": [0, 0, 5, 0, 0],
    "▁sea": [1, 0, 0, 0, 3],
    # Three tokens of one word that do not agree:
    "▁O": [0, 0, 0, 3, 0],
    "s": [0, 0, 0, 0, 2],
    "lo": [0, 0, 7, 0, 0],
}


FEELINGS = {"▁good": [0, 3, 1], "▁sad": [2, -1, 0]}


POINTERS = {"▁Nora": [9, -2], "▁sea": [-3, 9], "▁Tom": [6, 6]}


def soft(logits: Sequence[float], number: int) -> float:
    powers = np.exp(np.asarray(logits, float))
    return float(powers[number] / powers.sum())


class Models:
    """Loaded models by name, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: dict[str, Llama] = {}
        self.makers: dict[str, Callable[[Path], Path]] = {
            "entities": lambda f: taught_head(f, "TokenClassification", PEOPLE, [4, 0, 0, 0, 0], **labels(*TAGS)),
            "feelings": lambda f: taught_head(f, "SequenceClassification", FEELINGS, **labels("sad", "glad", "calm")),
            "several": lambda f: taught_head(
                *(f, "SequenceClassification", FEELINGS),
                **labels("sad", "glad", "calm"),
                problem_type="multi_label_classification",
            ),
            "numbers": lambda f: taught_head(
                *(f, "SequenceClassification", {"▁good": [2.5, 4.0, -1.0]}),
                **labels("price", "size", "age"),
                problem_type="regression",
            ),
            "number": lambda f: taught_head(f, "SequenceClassification", {"▁good": [2.5], "▁sad": [-4]}),
            "answers": lambda f: taught_head(f, "QuestionAnswering", POINTERS),
            "unsure": lambda f: taught_head(f, "QuestionAnswering", POINTERS | {"<s>": [7, 7]}),
            "random entities": lambda f: random_head(f, "ForTokenClassification", num_labels=4),
            "random label": lambda f: random_head(f, "ForSequenceClassification", num_labels=4),
            "random answers": lambda f: random_head(f, "ForQuestionAnswering"),
            "random writer": lambda f: random_head(f, "ForCausalLM"),
            "random trunk": lambda f: random_head(f, "Model"),
        }

    def path(self, name: str) -> Path:
        folder = self.folder / name.replace(" ", "-")
        return folder if folder.exists() else self.makers[name](folder)

    def __call__(self, name: str, backend: str = "reference", **options: Any) -> Llama:
        key = repr((name, backend, sorted(options.items())))
        if key not in self.loaded:
            self.loaded[key] = Llama.load(self.path(name), backend=backend, **options)
        return self.loaded[key]


def spans(entities: list[Entity]) -> list[tuple[str, str]]:
    return [(entity.word, entity.label) for entity in entities]
