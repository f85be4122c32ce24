"""Dropout: in training only, scaled right, the same for the same seed; and refused by name where there is none."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaConfig, PolyllamaWarning
from polyllama.core.backend.protocol import RealizeOptions
from polyllama.core.errors import InputError, UnsupportedError
from polyllama.core.graph.from_config import build_graph
from polyllama.core.graph.nodes import Dropout
from polyllama.core.plugin_system.manager import plugin_manager
from polyllama.core.tasks.outputs import BaseModelOutput
from polyllama.core.tasks.task import Task
from tiny_models import ALL_BACKENDS, forward
from training_support import (
    CASES,
    FRAMEWORKS,
    IDS,
    MASK,
    QUICKLY,
    SIZES,
    Case,
    loss_of,
    model_of,
    seed_everything,
    train_forward,
    value_and_gradients,
    weights_of,
)

EACH = pytest.mark.parametrize("framework", FRAMEWORKS)
P = 0.3
ROWS = 300


class Dropped(Task):
    """The trunk's states, and what dropout makes of them."""

    name = "dropped"
    architecture = "LlamaForDropped"
    output_type = BaseModelOutput
    labels = ()
    outputs_per = "token"

    def head(self, config: Any, decoder: Any) -> Any:
        return Dropout(P)

    def outputs(self, ctx: Any, raw: Any, hidden: Any) -> dict[str, Any]:
        return {"last_hidden_state": ctx.xp.stack([raw, hidden], axis=1)}


def off_by(count: int, of: int, share: float) -> float:
    """How many standard deviations a count is from what chance gives."""
    return abs(count - of * share) / np.sqrt(of * share * (1 - share))


@EACH
def test_a_heads_dropout_drops_and_scales(framework: str) -> None:
    config = LlamaConfig(**SIZES)
    graph = build_graph(config, Dropped())
    held = {f"model.{name}": value for name, value in weights_of(Case("base")).items()}
    backend = plugin_manager().backends()[framework].load()()
    model = backend.realize(graph, held, RealizeOptions(device="cpu"), config=config, task=Dropped())
    ids = np.random.default_rng(0).integers(3, 23, (8, 30))
    dropped, states = np.moveaxis(model.to_numpy(train_forward(model, framework, 0, ids).last_hidden_state), 1, 0)
    kept = dropped != 0
    assert np.allclose(dropped[kept], states[kept] / (1 - P), rtol=1e-6)
    assert off_by(int(kept.sum()), kept.size, 1 - P) < 5
    # No pattern along any axis: every token and every feature keeps about its share.
    for axes in ((0, 1), (0, 2), (1, 2)):
        share = kept.mean(axis=axes)
        assert np.abs(share - (1 - P)).max() < 5 * np.sqrt(P * (1 - P) / (kept.size / share.size))
    whole, bare = np.moveaxis(model.to_numpy(forward(model, ids).last_hidden_state), 1, 0)
    assert np.array_equal(whole, bare)


ATTENTION = Case("base", {"num_hidden_layers": 3, "num_key_value_heads": 4, "attention_dropout": P})


@functools.cache
def attention_weights() -> dict[str, np.ndarray]:
    """Each layer adds its heads' values as they are: no MLP, an output projection that changes nothing."""
    weights = weights_of(ATTENTION)
    for name, value in weights.items():
        if name.endswith("down_proj.weight"):
            value[:] = 0
        elif name.endswith("o_proj.weight"):
            value[:] = np.eye(16)
    return weights


def added(model: Any, states: Any, layer: int) -> np.ndarray:
    """What a layer added to each token, head by head: ``[B, S, heads, head_dim]``."""
    before, after = (model.to_numpy(state) for state in states[layer : layer + 2])
    return (after - before).reshape(*before.shape[:2], 4, 4)


@pytest.mark.parametrize("road", [*FRAMEWORKS, "torch, eager"])
def test_attention_dropout_drops_and_scales(road: str) -> None:
    framework = road.partition(",")[0]
    model = model_of(ATTENTION, framework, weights=attention_weights())
    if road == "torch, eager":
        model.module.attn_implementation = "eager"
        model.module._engine = model.module._build_engine()
    ids = np.repeat(IDS[:1, :5], ROWS, axis=0)
    asked = {"output_hidden_states": True}
    found = train_forward(model, framework, 0, ids, **asked).hidden_states
    whole = forward(model, ids, **asked).hidden_states
    # The first token sees itself alone: its probability of 1 is dropped or scaled, head by head.
    first = added(model, found, 0)[:, 0] / added(model, whole, 0)[:, 0]  # [B, heads, head_dim]
    kept = first[..., 0] > 0.5
    assert np.allclose(first, np.where(kept, 1 / (1 - P), 0.0)[..., None], atol=2e-5)
    assert off_by(int(kept.sum()), kept.size, 1 - P) < 5
    assert 0 < kept[0].sum() + kept[1].sum() + kept[2].sum() < 12  # heads and rows for themselves
    # Other places of the graph have random numbers of their own.
    size = np.abs(added(model, found, 1)[:, 0]).max(axis=-1)
    other = size > 1e-4 * size.max()
    assert off_by(int((kept & other).sum()), kept.size, (1 - P) ** 2) < 5
    # On the average nothing changes: the last token, which mixes five.
    here, wanted = added(model, found, 0)[:, 4], added(model, whole, 0)[0, 4]
    assert (np.abs(here.mean(axis=0) - wanted) < 5 * here.std(axis=0) / np.sqrt(ROWS)).all()
    assert here.std(axis=0).min() > 0


@EACH
def test_the_same_seed_gives_the_same(framework: str) -> None:
    case = CASES["token-classification"]
    model = model_of(case, framework, attention_dropout=P, classifier_dropout=P)
    first, again, other = (
        model.to_numpy(train_forward(model, framework, seed, IDS, attention_mask=MASK).logits) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


@EACH
def test_gradients_go_through_what_was_kept(framework: str) -> None:
    """The loss's slope with the same random numbers on both sides."""
    case = CASES["token-classification"]
    fields = {"attention_dropout": P, "classifier_dropout": P}
    start = weights_of(case, **fields)
    numbers = np.random.default_rng(2)
    way = {name: (0.2 * numbers.normal(size=value.shape)).astype(np.float32) for name, value in start.items()}

    at = functools.partial(loss_and_gradients, framework, case, fields)
    step, losses = 0.004, {}
    for steps in (-2, -1, 1, 2):
        moved = {name: value + np.float32(steps * step) * way[name] for name, value in start.items()}
        losses[steps] = at(moved)[0]
    slope = (8 * (losses[1] - losses[-1]) - (losses[2] - losses[-2])) / (12 * step)
    found = at(start)[1]
    assert sum(float((found[name] * way[name]).sum()) for name in found) == pytest.approx(slope, rel=2e-3)


def loss_and_gradients(framework: str, case: Case, fields: Any, weights: Any) -> tuple[float, dict[str, np.ndarray]]:
    """In training mode, always with the same random numbers."""
    if framework == "jax":
        loss, found = compiled(case.task, tuple(fields.items()))(weights)
    else:
        model = model_of(case, framework, weights={name: value.copy() for name, value in weights.items()}, **fields)
        seed_everything(framework, 3)
        model.module.train()
        loss, found = value_and_gradients(model, loss_of, IDS, **case.inputs)
    return float(loss), {name: np.asarray(value) for name, value in found.items()}


@functools.cache
def compiled(name: str, fields: Any) -> Any:
    import jax

    case, key = CASES[name], jax.random.key(3, impl="rbg")  # compiles faster
    model = model_of(case, "jax", **dict(fields))

    def loss(params: Any) -> Any:
        return model.apply(params, IDS, train=True, dropout_rng=key, **case.inputs).loss

    return jax.jit(jax.value_and_grad(loss), compiler_options=QUICKLY)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_inference_is_untouched(backend: str) -> None:
    case = CASES["token-classification"]
    quiet = model_of(case, backend, attention_dropout=0.0, classifier_dropout=0.0)
    loud = model_of(case, backend, attention_dropout=0.6, classifier_dropout=0.6)
    one, two = (forward(model, IDS, attention_mask=MASK).logits for model in (quiet, loud))
    assert np.array_equal(quiet.to_numpy(one), loud.to_numpy(two))


def fresh(backend: str, task: str = "causal-lm", **fields: Any) -> Llama:
    return Llama.load(LlamaConfig(**(SIZES | fields)), task=task, load_format="dummy", backend=backend)


@EACH
def test_the_switch_is_the_frameworks_own(framework: str) -> None:
    llm = fresh(framework, attention_dropout=0.5, initializer_range=0.3)
    before = llm.forward(IDS).numpy()["logits"]
    if framework == "jax":
        with pytest.raises(UnsupportedError, match=r"'jax' has no module to train.*llm\.model\.apply"):
            llm.train()
        import jax

        asked = {"train": True, "dropout_rng": jax.random.key(0)}
        assert np.abs(llm.forward(IDS, **asked).numpy()["logits"] - before).max() > 0.01
    else:
        assert llm.train() is llm and llm.module.training
        assert np.abs(llm.forward(IDS).numpy()["logits"] - before).max() > 0.01
        assert llm.eval() is llm and not llm.module.training
        assert not llm.train(False).module.training
    assert np.array_equal(llm.eval().forward(IDS).numpy()["logits"], before)


def test_where_there_is_no_dropout_it_is_refused_by_name() -> None:
    llm = fresh("reference", attention_dropout=0.5)
    with pytest.raises(UnsupportedError, match="backend 'reference' has no module to train"):
        llm.train()
    assert llm.eval() is llm
    with pytest.raises(InputError, match=r"no argument 'train'; on torch and mlx llm\.train\(\) turns dropout on"):
        llm.forward(IDS, train=True)
    with pytest.raises(InputError, match="no argument 'dropout_rng'"):
        fresh("torch").forward(IDS, dropout_rng=0)


@pytest.mark.skipif("jax" not in FRAMEWORKS, reason="needs jax")
def test_jax_wants_a_key_and_says_so() -> None:
    import jax

    llm = fresh("jax", attention_dropout=0.25)
    model: Any = llm.model

    def traced(**arguments: Any) -> Any:
        return jax.eval_shape(lambda p: model.apply(p, IDS, **arguments), model.params)

    for call in (traced, lambda **a: llm.forward(IDS, **a)):
        with pytest.raises(InputError, match=r"train=True with attention_dropout 0\.25 needs a random key"):
            call(train=True)
        with pytest.warns(PolyllamaWarning, match="dropout_rng does nothing without train=True"):
            call(dropout_rng=jax.random.key(0))
    tags = fresh("jax", "token-classification", classifier_dropout=0.1)
    with pytest.raises(InputError, match=r"train=True with a head's dropout 0\.1 needs a random key"):
        tags.model.apply(tags.model.params, IDS, train=True)  # type: ignore[attr-defined]
    still: Any = fresh("jax").model
    assert jax.eval_shape(lambda p: still.apply(p, IDS, labels=IDS, train=True), still.params).loss.shape == ()


def test_dropout_that_a_head_does_not_have_is_said() -> None:
    with pytest.warns(PolyllamaWarning, match="classifier_dropout does nothing: the head of task 'sequence-class"):
        Llama.load("tiny", task="embedding", backend="reference", hidden_dropout=0.0)  # none asked for: nothing said
        Llama.load(
            LlamaConfig(**SIZES),
            task="sequence-classification",
            load_format="dummy",
            backend="reference",
            classifier_dropout=0.2,
        )
