"""The loss of every head differentiates on every framework: against each other and against the reference's slopes."""

from __future__ import annotations

import functools
import shutil
from typing import Any

import numpy as np
import pytest
from polyllama.core.errors import InputError
from tiny_models import forward, relative_error
from training_support import CASES, FRAMEWORKS, IDS, MASK, SIZES, Case, Trainer, model_of, weights_of

EVERY = pytest.mark.parametrize("name", CASES)
STEP = 1e-4


@functools.cache
def trainer(name: str, framework: str) -> Trainer:
    """One per case, so that JAX compiles each only once for the tests of gradients and of training."""
    return Trainer(CASES[name], framework)


@functools.cache
def gradients(name: str, framework: str) -> tuple[float, dict[str, np.ndarray]]:
    return trainer(name, framework).gradients()


class Slopes:
    """The float64 reference backend's loss along a direction, by central differences of fourth order."""

    def __init__(self, case: Case) -> None:
        self.case, self.model = case, model_of(case, "reference", "float64")
        self.weights: dict[str, Any] = self.model.engine.weights

    def loss(self) -> float:
        return float(self.case.measure(np, forward(self.model, IDS, **self.case.inputs)))

    def along(self, name: str, way: Any) -> float:
        start, losses = self.weights[name], {}
        for steps in (-2, -1, 1, 2):
            self.weights[name] = start + steps * STEP * way
            losses[steps] = self.loss()
        self.weights[name] = start
        return (8 * (losses[1] - losses[-1]) - (losses[2] - losses[-2])) / (12 * STEP)


@functools.cache
def slopes(name: str) -> dict[str, list[tuple[np.ndarray, float]]]:
    """For each parameter a random direction and two single entries, each with the slope along it."""
    case, numbers = CASES[name], np.random.default_rng(6)
    reference = Slopes(case)
    found: dict[str, list[tuple[np.ndarray, float]]] = {}
    for parameter, values in weights_of(case).items():
        ways = [numbers.choice([-1.0, 1.0], values.shape)]
        for _ in range(2):
            single = np.zeros(values.size)
            single[numbers.integers(values.size)] = 1.0
            ways.append(single.reshape(values.shape))
        if parameter.endswith("embed_tokens.weight"):  # most rows are of tokens that are not there
            ways[1] = np.zeros(values.shape)
            ways[1][IDS[0, 2], 5] = 1.0
        found[parameter] = [(way, reference.along(parameter, way)) for way in ways]
    return found


@EVERY
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_gradients_are_the_slopes_of_the_reference(name: str, framework: str) -> None:
    loss, found = gradients(name, framework)
    assert loss == pytest.approx(Slopes(CASES[name]).loss(), rel=1e-5)
    wanted = slopes(name)
    assert found.keys() == wanted.keys()
    scale = max(abs(slope) for ways in wanted.values() for _, slope in ways)
    for parameter, ways in wanted.items():
        size = max(np.linalg.norm(found[parameter]), 1e-3 * scale)
        for way, slope in ways:
            assert abs(float((found[parameter] * way).sum()) - slope) < 2e-5 * size, parameter


@EVERY
@pytest.mark.parametrize("framework", [name for name in FRAMEWORKS if name != "torch"])
def test_gradients_are_those_of_the_other_frameworks(name: str, framework: str) -> None:
    (loss, found), (other_loss, others) = gradients(name, framework), gradients(name, "torch")
    assert loss == pytest.approx(other_loss, rel=1e-5)
    assert found.keys() == others.keys()
    scale = max(np.abs(other).max() for other in others.values())
    for parameter, other in others.items():
        if np.abs(other).max() > 1e-6 * scale:  # a key's bias moves nothing: its gradient is rounding alone
            assert relative_error(found[parameter], other) < 1e-4, parameter
        else:
            assert np.abs(found[parameter]).max() < 1e-5 * scale


@EVERY
def test_gradients_in_float64_are_exact(name: str) -> None:
    """Torch has float64, so that nothing but the differences themselves is off."""
    found = Trainer(CASES[name], "torch", "float64").gradients()[1]
    wanted = slopes(name)
    scale = max(abs(slope) for ways in wanted.values() for _, slope in ways)
    for parameter, ways in wanted.items():
        for way, slope in ways:
            assert abs(float((found[parameter] * way).sum()) - slope) < 1e-8 * scale, parameter


@EVERY
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_handful_of_examples_is_learnt(name: str, framework: str) -> None:
    each = trainer(name, framework)
    before = gradients(name, framework)[0]
    each.gradients()  # gradients alone change nothing
    losses = each.train(60, 0.02)
    assert losses[0] == pytest.approx(before, rel=1e-6)
    assert losses[-1] < CASES[name].reaches * losses[0]
    output = each.evaluate()
    assert learnt(name, {key: np.asarray(each.model.to_numpy(value)) for key, value in output.items()})


def test_a_padding_token_that_is_attended_to_is_trained() -> None:
    """A deliberate difference: transformers never trains the embedding of ``pad_token_id``, which often ends texts."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from polyllama import LlamaConfig
    from polyllama.backends.torch.realize import build_module
    from polyllama.plugins.tasks.token_classification import TokenClassification

    fields = SIZES | {"pad_token_id": 2, "num_labels": 3}
    theirs = transformers.LlamaForTokenClassification(transformers.LlamaConfig(**fields)).eval()
    ours = build_module(LlamaConfig(**fields), TokenClassification()).eval()
    ours.load_state_dict(theirs.state_dict())
    ids, labels = torch.tensor([[5, 6, 2]]), torch.tensor([[0, 2, 1]])
    rows = []
    for model in (ours, theirs):
        model(ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
        rows.append(model.model.embed_tokens.weight.grad)
    assert rows[0][2].abs().max() > 0 and not rows[1][2].any()
    rows[0][2] = 0
    assert relative_error(rows[0], rows[1]) < 1e-5


def test_an_embedding_of_nothing_has_a_gradient() -> None:
    torch = pytest.importorskip("torch")
    import array_api_compat.torch as xp
    from polyllama.plugins.tasks.embedding import Embedding

    class Context:
        def __init__(self) -> None:
            self.xp, self.widen = xp, lambda x: x

    states = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3e-8, 4e-8]], requires_grad=True)
    found = Embedding().outputs(Context(), states, None)["embeddings"]  # type: ignore[arg-type]
    direction = [pytest.approx(0.6), pytest.approx(0.8)]
    assert found.tolist() == [[0.0, 0.0], direction, direction]
    found.sum().backward()
    assert states.grad is not None and bool(torch.isfinite(states.grad).all())


@pytest.mark.skipif("mlx" not in FRAMEWORKS or not shutil.which("g++"), reason="needs mlx, which compiles by g++ here")
@pytest.mark.parametrize("name", ["single label", "token-classification"])
def test_a_step_on_mlx_may_be_compiled(name: str) -> None:
    """With the batch as arguments, so that one program is for all batches."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optimizers
    from polyllama.backends.mlx.namespace import MlxNamespace

    case, results = CASES[name], []
    for compiles in (False, True):
        module = model_of(case, "mlx", attention_dropout=0.2).module
        module.train()
        optimizer = optimizers.SGD(learning_rate=0.05)
        state = [module.state, optimizer.state, mx.random.state]

        def step(given: Any, module: Any = module, optimizer: Any = optimizer) -> Any:
            def loss(given: Any) -> Any:
                return case.measure(MlxNamespace(), module(**given))

            value, found = nn.value_and_grad(module, loss)(given)
            optimizer.update(module, found)
            return value

        if compiles:
            step = mx.compile(step, inputs=state, outputs=state)
        mx.random.seed(1)
        losses = []
        plain = np.where(MASK == 1, IDS, 7)  # padding by the mask alone
        for way in (1, -1, 1):
            given = {key: mx.array(value) for key, value in case.inputs.items()}
            given |= {"input_ids": mx.array(plain[::way].copy()), "attention_mask": mx.array(MASK[::way].copy())}
            losses.append(step(given).item())
        results.append(losses)
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    assert len({round(value, 6) for value in results[0]}) == 3
    if name == "single label":
        with pytest.raises(InputError, match=r"attention_mask has shape \[3, 6\], wanted \[3, 7\]"):
            mx.compile(lambda ids: module(ids, attention_mask=np.ones((3, 6), int)).logits)(mx.array(IDS))
        with pytest.raises(InputError, match="a cache cannot go through"):
            mx.compile(lambda ids: module(ids, use_cache=True).logits)(mx.array(IDS))


def learnt(name: str, found: dict[str, np.ndarray]) -> bool:
    """Whether the outputs out of training mode say what the labels say."""
    case = CASES[name]
    if name.startswith("causal-lm"):
        real = case.labels["labels"][:, 1:] != -100
        return bool((found["logits"][:, :-1].argmax(-1) == case.labels["labels"][:, 1:])[real].all())
    if name == "token-classification":
        real = case.labels["labels"] != -100
        return bool((found["logits"].argmax(-1) == case.labels["labels"])[real].all())
    if name == "single label":
        return bool((found["logits"].argmax(-1) == case.labels["labels"]).all())
    if name == "multi label":
        return bool(((found["logits"] > 0) == case.labels["labels"].astype(bool)).all())
    if name == "regression":
        return bool(np.abs(found["logits"][:, 0] - case.labels["labels"]).max() < 0.5)
    if name == "question-answering":
        starts, ends = found["start_logits"].argmax(-1), found["end_logits"].argmax(-1)
        return starts[:2].tolist() == [1, 3] and ends[:2].tolist() == [4, 3]
    return float(case.measure(np, type("Output", (), found))) < case.reaches * gradients(name, "torch")[0]
