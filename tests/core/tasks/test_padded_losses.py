"""Padding has no part in a loss: what a padded batch gives is what its rows give alone, on every backend."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from head_models import IDS, SEQUENCE, SPAN, TOKEN, Heads, fresh, oracle
from polyllama import Llama
from polyllama.core.errors import PolyllamaWarning
from tiny_models import ALL_BACKENDS

LENGTHS = (11, 6, 3)
CAUSAL = "causal-lm"
rng = np.random.default_rng(9)
CLASSES = rng.integers(0, 3, IDS.shape)
CLASSES[0, 2] = -100
SPANS = np.array([[4, 0, 1], [9, 5, 1]])
EVERY = pytest.mark.parametrize("backend", ALL_BACKENDS)
SIDES = pytest.mark.parametrize("side", ["left", "right", "both"])


def start_of(side: str, length: int) -> int:
    spare = IDS.shape[1] - length
    return {"left": spare, "right": 0, "both": spare // 2}[side]


def batch(task: str, side: str) -> dict[str, Any]:
    """Three rows of 11, 6 and 3 tokens, padded; labels per token are -100 at padding."""
    ids, mask, per_token = np.zeros_like(IDS), np.zeros_like(IDS), np.full_like(IDS, -100)
    whole = IDS if task == CAUSAL else CLASSES
    spans = SPANS.copy()
    for row, length in enumerate(LENGTHS):
        start = start_of(side, length)
        part = slice(start, start + length)
        ids[row, part], mask[row, part], per_token[row, part] = IDS[row, :length], 1, whole[row, :length]
        spans[:, row] += start
    labels: Mapping[str, Any] = {"labels": per_token}
    if task == SPAN:
        labels = {"start_positions": spans[0], "end_positions": spans[1]}
    elif task == SEQUENCE:
        labels = {"labels": [2, 0, 1]}
    return {"input_ids": ids, "attention_mask": mask, **labels}


@functools.cache
def alone(task: str) -> float:
    """The loss of the rows, each in a pass of the reference of its own: a mean over all that counts in any of them."""
    llm = model(task, "reference")
    total = count = 0.0
    for row, length in enumerate(LENGTHS):
        ids = IDS[row : row + 1, :length]
        if task == SPAN:
            labels, items = {"start_positions": SPANS[0, [row]], "end_positions": SPANS[1, [row]]}, 1
        elif task == SEQUENCE:
            labels, items = {"labels": [[2, 0, 1][row]]}, 1
        else:
            given = (IDS if task == CAUSAL else CLASSES)[row : row + 1, :length]
            labels, items = {"labels": given}, int((given[:, 1 if task == CAUSAL else 0 :] != -100).sum())
        total += float(llm.forward(ids, num_items_in_batch=1, **labels).loss)
        count += items
    return total / count


MODELS: dict[tuple[str, str], Llama] = {}


def model(task: str, backend: str) -> Llama:
    if (task, backend) not in MODELS:
        fields: dict[str, Any] = {"initializer_range": 0.3} | ({} if task in (CAUSAL, SPAN) else {"num_labels": 3})
        MODELS[task, backend] = fresh(task, backend, **fields)
    return MODELS[task, backend]


@EVERY
@SIDES
@pytest.mark.parametrize("task", [CAUSAL, SPAN, TOKEN, SEQUENCE])
def test_a_padded_batch_gives_what_its_rows_give_alone(task: str, side: str, backend: str) -> None:
    llm = model(task, backend)
    found = float(llm.forward(**batch(task, side)).loss)
    assert found == pytest.approx(alone(task), rel=2e-5)


@EVERY
@pytest.mark.parametrize("task", [CAUSAL, TOKEN])
def test_labels_of_padding_are_said_and_ignored(task: str, backend: str) -> None:
    llm = model(task, backend)
    given = batch(task, "left")
    right = float(llm.forward(**given).loss)
    with pytest.warns(PolyllamaWarning, match="labels of padding, as the attention_mask tells it, are ignored"):
        found = llm.forward(**given | {"labels": np.where(given["attention_mask"] == 1, given["labels"], 1)})
    assert float(found.loss) == pytest.approx(right, rel=1e-6)


TRAINED = [(name, task) for name in ("torch", "mlx") for task in (CAUSAL, SPAN, TOKEN, SEQUENCE)]


@pytest.mark.parametrize(("backend", "task"), [case for case in (*TRAINED, ("jax", SPAN)) if case[0] in ALL_BACKENDS])
def test_gradients_of_a_padded_batch(backend: str, task: str) -> None:
    """The way a training step takes: each gradient is the mean of those of the rows alone, and none is NaN."""
    from polyllama.core.forward.arguments import ForwardArguments

    llm: Any = model(task, backend)

    def gradients(**arguments: Any) -> tuple[float, dict[str, np.ndarray]]:
        given = ForwardArguments.of(llm._loaded.task, **arguments)
        value, found = llm.model.value_and_gradients(lambda xp, output: output.loss, given)
        return float(value), {name: np.asarray(llm.model.to_numpy(array)) for name, array in found.items()}

    padded, by_name = gradients(**batch(task, "both"))
    other, again = gradients(**batch(task, "right"))
    assert padded == pytest.approx(other, rel=2e-5) and padded == pytest.approx(alone(task), rel=2e-5)
    for name, gradient in by_name.items():
        assert np.isfinite(gradient).all(), name
        # A row of padding's own embedding gets nothing from either; what counts is all that is compared.
        largest = np.abs(again[name]).max()
        assert np.abs(gradient - again[name]).max() <= 1e-4 * max(largest, 1e-3), name


@EVERY
def test_padded_on_the_right_as_transformers_where_it_lets_padding_out(backend: str, heads: Heads) -> None:
    """A language model's and a token classifier's losses agree; a span's agrees with the rows' alone."""
    for kind, task in (("ForCausalLM", CAUSAL), ("ForTokenClassification", TOKEN)):
        theirs, folder = heads(kind, **({"num_labels": 5} if task == TOKEN else {}))
        given = batch(task, "right")
        found = Llama.load(folder, backend=backend).forward(**given).loss
        ids = given.pop("input_ids")
        assert float(found) == pytest.approx(float(oracle(theirs, ids, **given).loss), rel=1e-4)
    theirs, folder = heads("ForQuestionAnswering")
    rows = [
        float(
            oracle(
                theirs,
                IDS[row : row + 1, :length],
                start_positions=SPANS[0, [row]],
                end_positions=SPANS[1, [row]],
            ).loss
        )
        for row, length in enumerate(LENGTHS)
    ]
    found = Llama.load(folder, backend=backend).forward(**batch(SPAN, "right")).loss
    assert float(found) == pytest.approx(np.mean(rows), rel=1e-4)


def test_an_end_on_padding_gives_no_loss_where_nobody_can_look() -> None:
    from polyllama.extend import span_loss

    logits, attended = np.zeros((1, 4)), np.array([[True, True, False, False]])
    one, two = np.array([1]), np.array([2])
    assert float(span_loss(np, logits, logits, one, one, attended=attended)) == pytest.approx(np.log(2))
    assert np.isnan(span_loss(np, logits, logits, one, two, attended=attended))
