"""A small model with each head, on each framework that differentiates: shared by the tests of training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from polyllama import LlamaConfig
from polyllama.core.backend.protocol import RealizeOptions
from polyllama.core.forward.arguments import ForwardArguments
from polyllama.core.graph.from_config import build_graph
from polyllama.core.loading.tasks import find_task
from polyllama.core.plugin_system.manager import plugin_manager
from tiny_models import ALL_BACKENDS, forward

FRAMEWORKS = tuple(name for name in ALL_BACKENDS if getattr(plugin_manager().backends()[name].load(), "trains", False))

QUICKLY = {"xla_backend_optimization_level": 0}
"""For ``jax.jit``: half of its time goes into machine code that runs once here."""

SIZES: dict[str, Any] = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "classifier_dropout": 0.0,
}

rng = np.random.default_rng(11)
# No token twice: a model without biases on the way cannot tell a text's first token from the same one after it.
IDS = np.zeros((3, 7), np.int64)
IDS[np.array([[1] * 7, [0, 0, 1, 1, 1, 1, 1], [1] * 7]) == 1] = rng.permutation(np.arange(3, 23))[:19]
MASK = (IDS != 0).astype(np.int64)
# A padding would predict the first token of its row's text, and what it gives is nobody's business.
NEXT = np.where(np.roll(MASK, 1, axis=1) * MASK == 1, IDS, -100)
TEXT = MASK[:, :, None].astype(np.float32)
STATES = rng.normal(size=(3, 7, 16)).astype(np.float32)
POINTS = rng.normal(size=(3, 16)).astype(np.float32)
POINTS /= np.linalg.norm(POINTS, axis=1, keepdims=True)


def loss_of(xp: Any, output: Any) -> Any:
    return output.loss


def distance_of_states(xp: Any, output: Any) -> Any:
    """How far the hidden states of the text are from given ones: a loss for the bare trunk."""
    return xp.sum((output.last_hidden_state - xp.asarray(STATES)) ** 2 * xp.asarray(TEXT)) / float(TEXT.sum() * 16)


def distance_of_embeddings(xp: Any, output: Any) -> Any:
    return xp.sum((output.embeddings - xp.asarray(POINTS)) ** 2) / 3.0


@dataclass(frozen=True)
class Case:
    """A head, what its config has beside :data:`SIZES`, what the pass gets, and a scalar of its output."""

    task: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    measure: Callable[[Any, Any], Any] = loss_of
    reaches: float = 0.1  # share of its first loss that sixty steps take it below

    @property
    def inputs(self) -> dict[str, Any]:
        return {"attention_mask": MASK, **self.labels}


SEQUENCE = "sequence-classification"
TAGS = np.where(MASK == 1, IDS % 4, -100)
TAGS[0, 3] = -100
CASES = {
    "causal-lm": Case(
        "causal-lm", {"num_hidden_layers": 2, "attention_bias": True, "mlp_bias": True}, {"labels": NEXT}
    ),
    "causal-lm, tied": Case("causal-lm", {"tie_word_embeddings": True, "num_key_value_heads": 1}, {"labels": NEXT}),
    "base": Case("base", {"num_hidden_layers": 2}, {}, distance_of_states, 0.5),
    "regression": Case(SEQUENCE, {"num_labels": 1}, {"labels": np.array([0.5, -2.0, 3.25], np.float32)}),
    "single label": Case(SEQUENCE, {"num_labels": 4}, {"labels": np.array([3, 0, 2])}),
    "multi label": Case(SEQUENCE, {"num_labels": 3}, {"labels": np.eye(3, dtype=np.float32)[::-1].copy()}),
    "token-classification": Case("token-classification", {"num_labels": 4}, {"labels": TAGS}),
    "question-answering": Case(
        "question-answering", {}, {"start_positions": np.array([1, 3, -1]), "end_positions": np.array([4, 3, 90])}
    ),
    "embedding": Case("embedding", {}, {}, distance_of_embeddings, 0.5),
}


def config_of(case: Case, **fields: Any) -> LlamaConfig:
    return LlamaConfig(**(SIZES | dict(case.fields) | fields))


def weights_of(case: Case, **fields: Any) -> dict[str, np.ndarray]:
    """Random float32 numbers for every parameter, norms and biases too."""
    config = config_of(case, **fields)
    graph = build_graph(config, find_task(plugin_manager(), case.task, config))
    numbers, made = np.random.default_rng(4), {}
    for parameter in graph.parameters():
        values = numbers.normal(size=parameter.shape)
        scale = 1.0 if parameter.role == "embedding" else 1.2 / np.sqrt(parameter.shape[-1])
        made[parameter.name] = (1.0 + 0.3 * values if parameter.role == "norm" else scale * values).astype(np.float32)
    return made


def model_of(case: Case, backend: str, dtype: str = "float32", weights: Any = None, **fields: Any) -> Any:
    """The case on a backend, all of them with the same weights."""
    config = config_of(case, **fields)
    task = find_task(plugin_manager(), case.task, config)
    found = plugin_manager().backends()[backend].load()()
    options = RealizeOptions(dtype=dtype, device="cpu")
    weights = weights_of(case, **fields) if weights is None else weights
    return found.realize(build_graph(config, task), weights, options, config=config, task=task)


def seed_everything(framework: str, seed: int) -> None:
    if framework == "torch":
        import torch

        torch.manual_seed(seed)
    elif framework == "mlx":
        import mlx.core as mx

        mx.random.seed(seed)


def train_forward(model: Any, framework: str, seed: int, *arguments: Any, **named: Any) -> Any:
    """A pass in training mode with its random numbers from `seed`."""
    if framework == "jax":
        import jax

        return forward(model, *arguments, train=True, dropout_rng=jax.random.key(seed), **named)
    seed_everything(framework, seed)
    model.module.train()
    try:
        return forward(model, *arguments, **named)
    finally:
        model.module.eval()


class Trainer:
    """A case's loss and gradients as a user of the framework writes them, and its ordinary optimizer."""

    def __init__(self, case: Case, framework: str, dtype: str = "float32", **fields: Any) -> None:
        self.case, self.framework = case, framework
        self.model = model_of(case, framework, dtype, **fields)
        self._make = getattr(self, f"_{framework}")()

    def gradients(self) -> tuple[float, dict[str, np.ndarray]]:
        loss, found = self._make()
        return float(loss), {name: np.asarray(value).astype(np.float64) for name, value in found.items()}

    def train(self, steps: int, rate: float) -> list[float]:
        """The loss before each step."""
        update = getattr(self, f"_{self.framework}_optimizer")(rate)
        losses = []
        for _ in range(steps):
            loss, found = self._make()
            update(found)
            losses.append(float(loss))
        return losses

    def evaluate(self) -> Any:
        """The output out of training mode."""
        if self.framework == "jax":  # it has no such mode, and has compiled this pass already
            self._make()
            return self._output
        self.model.module.eval()
        return forward(self.model, IDS, **self.case.inputs)

    def _torch(self) -> Callable[[], Any]:
        import array_api_compat.torch as xp
        import torch

        module = self.model.module.train()
        given = {name: torch.from_numpy(value) for name, value in self.case.inputs.items()}

        def step() -> Any:
            module.zero_grad()
            loss = self.case.measure(xp, module(torch.from_numpy(IDS), **given))
            loss.backward()
            return loss.detach(), {name: p.grad for name, p in module.named_parameters()}

        return step

    def _torch_optimizer(self, rate: float) -> Callable[[Any], None]:
        import torch

        optimizer = torch.optim.AdamW(self.model.module.parameters(), lr=rate)
        return lambda found: optimizer.step() and None

    def _mlx(self) -> Callable[[], Any]:
        import mlx.nn as nn
        from mlx.utils import tree_flatten
        from polyllama.backends.mlx.namespace import MlxNamespace

        module = self.model.module
        module.train()
        step = nn.value_and_grad(module, lambda: self.case.measure(MlxNamespace(), module(IDS, **self.case.inputs)))

        def flat() -> Any:
            loss, self._nested = step()
            return loss.item(), dict(tree_flatten(self._nested))

        return flat

    def _mlx_optimizer(self, rate: float) -> Callable[[Any], None]:
        import mlx.core as mx
        import mlx.optimizers as optimizers

        optimizer = optimizers.AdamW(learning_rate=rate)

        def update(found: Any) -> None:
            optimizer.update(self.model.module, self._nested)
            mx.eval(self.model.module.parameters(), optimizer.state)

        return update

    def _jax(self) -> Callable[[], Any]:
        import jax
        import jax.numpy as jnp

        def loss(params: Any) -> Any:
            output = self.model.apply(params, IDS, **self.case.inputs)
            return self.case.measure(jnp, output), output

        step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICKLY)

        def both() -> Any:
            (value, self._output), found = step(self.model.params)
            return value, found

        return both

    def _jax_optimizer(self, rate: float) -> Callable[[Any], None]:
        state = {name: (np.zeros(value.shape, np.float32),) * 2 for name, value in self.model.params.items()}
        count = 0

        def update(found: Any) -> None:
            nonlocal count
            count += 1
            for name, gradient in found.items():
                moved, *state[name] = _adam()(self.model.params[name], gradient, *state[name], float(count), rate)
                self.model.params[name] = moved

        return update


@functools.cache
def _adam() -> Any:
    """Adam (Kingma and Ba 2015) as plain JAX, compiled once for each shape."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def step(weight: Any, gradient: Any, first: Any, second: Any, count: Any, rate: Any) -> Any:
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        scale = jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        return weight - rate * scale * first / (jnp.sqrt(second) + 1e-8), first, second

    return step


def value_and_gradients(model: Any, measure: Any, input_ids: Any = None, **given: Any) -> Any:
    """A scalar of one pass of a backend's model and its gradients, the pass's arguments as keywords."""
    options = getattr(model, "forward_options", ())
    return model.value_and_gradients(measure, ForwardArguments.of(model.task, input_ids, options=options, **given))
