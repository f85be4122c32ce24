"""Labels and masks whose numbers nobody can look at, under torch.compile, mx.compile and jax.jit: refused by their type
or their shape where that says enough, else a loss that is not a number. Never trained on as something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaConfig
from polyllama.core.errors import InputError
from polyllama.core.tasks.losses import binary_cross_entropy, cross_entropy
from tiny_models import relative_error
from training_support import FRAMEWORKS, SIZES

EACH = pytest.mark.parametrize("framework", FRAMEWORKS)
IDS = np.array([[5, 6, 7, 8], [9, 10, 0, 0]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
# 99 is far outside: MLX reads what lies there in memory.
WRONG = {"beyond the last": 99, "before the first": -1, "the ignored one, misspelt": -101}


def fresh(framework: str, task: str = "sequence-classification") -> Llama:
    config = LlamaConfig(**(SIZES | {"initializer_range": 0.3, "num_labels": 3}))
    return Llama.load(config, task=task, load_format="dummy", backend=framework)


def traced(llm: Llama, **held: Any) -> Callable[..., Any]:
    """The model as a compiled function of named arrays; `held` are beside them as they are."""
    model: Any = llm.model
    if llm.backend == "jax":
        import jax

        compiled = jax.jit(lambda ids, given: model.apply(model.params, ids, **held, **given))
        return lambda **given: compiled(IDS, given)
    if llm.backend == "mlx":
        import mlx.core as mx

        llm.train()

        def run(ids: Any, given: dict[str, Any]) -> dict[str, Any]:
            return dict(llm.module(ids, **held, **given).items())

        again = mx.compile(run)
        return lambda **given: _Fields(again(mx.array(IDS), {name: mx.array(v) for name, v in given.items()}))
    import torch

    torch._dynamo.reset()  # after too many models it would compile no more, and say nothing
    # Dynamo's own words about what it does with other libraries are no matter of these tests.
    module = torch.compile(llm.module, backend="eager")

    def call(**given: Any) -> Any:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return module(torch.tensor(IDS), **held, **{name: torch.tensor(value) for name, value in given.items()})

    return call


class _Fields:
    def __init__(self, fields: dict[str, Any]) -> None:
        self.__dict__.update(fields)


def number(value: Any) -> float:
    return float(value.detach() if hasattr(value, "detach") else value)


@EACH
def test_a_class_that_is_none_gives_no_loss(framework: str) -> None:
    llm = fresh(framework)
    loss = traced(llm)
    right = number(loss(attention_mask=MASK, labels=np.array([1, 2])).loss)
    llm.eval()
    assert right == pytest.approx(number(llm.forward(IDS, attention_mask=MASK, labels=[1, 2]).loss), rel=1e-5)
    for name, wrong in WRONG.items():
        assert np.isnan(number(loss(attention_mask=MASK, labels=np.array([1, wrong])).loss)), name


@EACH
@pytest.mark.parametrize("task", ["token-classification", "causal-lm"])
def test_nor_does_a_token_of_one(framework: str, task: str) -> None:
    labels = np.where(MASK == 1, IDS % 3, -100)
    loss = traced(fresh(framework, task), attention_mask=None)
    assert np.isfinite(number(loss(labels=labels).loss))
    labels[0, 2] = -1
    assert np.isnan(number(loss(labels=labels).loss))


@EACH
def test_nor_several_labels_beyond_1(framework: str) -> None:
    loss = traced(fresh(framework))
    assert np.isfinite(number(loss(attention_mask=MASK, labels=np.eye(3, dtype=np.float32)[:2]).loss))
    for wrong in (-100, 1.5):
        labels = np.eye(3, dtype=np.float32)[:2]
        labels[1, 2] = wrong
        assert np.isnan(number(loss(attention_mask=MASK, labels=labels).loss))


@EACH
def test_a_mask_of_floats_is_refused(framework: str) -> None:
    """Of two dimensions it could be 1 and 0 or 0 and -inf, which are each other's opposite; torch looks which."""
    llm = fresh(framework)
    wanted = llm.forward(IDS, attention_mask=MASK).numpy()["logits"]
    run = traced(llm)
    found = run(attention_mask=MASK).logits
    assert relative_error(found.detach() if hasattr(found, "detach") else found, wanted) < 1e-5
    ones, additive = MASK.astype(np.float32), np.where(MASK == 1, 0, -np.inf).astype(np.float32)
    if framework == "torch":
        assert relative_error(run(attention_mask=ones).logits.detach(), wanted) < 1e-5
    for mask in (additive,) if framework == "torch" else (ones, additive):
        with pytest.raises(InputError, match=r"attention_mask holds .*float.*give 1 and 0"):
            run(attention_mask=mask)


@pytest.mark.skipif("jax" not in FRAMEWORKS, reason="jax is not installed")
def test_labels_that_can_be_looked_at_are_checked_beside_a_mask_that_cannot() -> None:
    run = traced(fresh("jax"), labels=[1, 7])
    with pytest.raises(InputError, match="labels hold 7, the model has 3 labels"):
        run(attention_mask=MASK)
    spans = traced(fresh("jax", "question-answering"), start_positions=[3, 1], end_positions=[1, 1])
    with pytest.raises(InputError, match="row 0 has an answer that ends before it starts"):
        spans(attention_mask=MASK)


def test_every_gradient_of_a_wrong_label_is_no_number_and_of_an_ignored_one_0() -> None:
    """Else the other rows' gradients would be trained on, whatever the loss is."""
    import array_api_compat.torch as xp
    import torch

    for labels, wanted in (([1, -1], "nan"), ([1, -100], "zero")):
        logits = torch.randn(2, 3, requires_grad=True)
        cross_entropy(xp, logits, torch.tensor(labels)).backward()
        assert logits.grad is not None and logits.grad[0].isfinite().all()
        second = logits.grad[1]
        assert second.isnan().all() if wanted == "nan" else not second.any()
    logits = torch.randn(2, 3, requires_grad=True)
    binary_cross_entropy(xp, logits, torch.tensor([[0.0, 1.0, 0.5], [0.0, 2.0, 1.0]])).backward()
    assert logits.grad is not None and logits.grad.isnan().sum() == 1
