"""Gradient checkpointing: the same gradients, from fewer numbers kept."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaConfig
from polyllama.core.errors import InputError, UnsupportedError
from tiny_models import forward, relative_error
from training_support import (
    CASES,
    FRAMEWORKS,
    IDS,
    QUICKLY,
    SIZES,
    Case,
    loss_of,
    model_of,
    seed_everything,
    value_and_gradients,
)

EACH = pytest.mark.parametrize("framework", FRAMEWORKS)
TAGS: Any = CASES["token-classification"]
DROPS = {"num_hidden_layers": 2, "attention_dropout": 0.3, "classifier_dropout": 0.3}


def gradients(model: Any, framework: str, case: Case, **asked: Any) -> dict[str, np.ndarray]:
    """In training mode, with the random numbers of seed 3."""
    if framework == "jax":
        import jax

        key = jax.random.key(3, impl="rbg")  # compiles faster

        def loss(params: Any) -> Any:
            return model.apply(params, IDS, train=True, dropout_rng=key, **case.inputs, **asked).loss

        found = jax.jit(jax.grad(loss), compiler_options=QUICKLY)(model.params)
    else:
        seed_everything(framework, 3)
        model.module.train()
        _, found = value_and_gradients(model, loss_of, IDS, **case.inputs, **asked)
    return {name: np.asarray(value) for name, value in found.items()}


@EACH
def test_gradients_stay_the_same_dropout_included(framework: str) -> None:
    model = model_of(TAGS, framework, **DROPS)
    assert not model.is_gradient_checkpointing
    plain = gradients(model, framework, TAGS)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    again = gradients(model, framework, TAGS)
    # XLA puts operations together differently; the others compute the very same.
    for name, wanted in plain.items():
        if framework == "jax":
            assert relative_error(again[name], wanted) < 1e-5, name
        else:
            assert np.array_equal(again[name], wanted), name


@EACH
def test_hidden_states_and_attentions_come_out_once(framework: str) -> None:
    case = CASES["causal-lm"]  # two layers, a padded row
    asked = {"output_hidden_states": True, "output_attentions": True}
    kept: list[Any] = []

    def measure(xp: Any, output: Any) -> Any:
        kept.append((output.hidden_states, output.attentions))
        return output.loss + xp.mean(output.attentions[0] ** 2) + xp.mean(output.hidden_states[1] ** 2)

    model, results = model_of(case, framework), []
    for on in (False, True):
        if on:
            model.gradient_checkpointing_enable()
        if framework == "jax":
            import jax
            import jax.numpy as jnp

            def loss(params: Any) -> Any:
                return measure(jnp, model.apply(params, IDS, **case.inputs, **asked))

            shapes = jax.eval_shape(jax.grad(loss), model.params)
            results.append({name: np.asarray(value.shape) for name, value in shapes.items()})
            continue
        model.module.train()
        found = value_and_gradients(model, measure, IDS, **case.inputs, **asked)[1]
        results.append({name: np.asarray(value) for name, value in found.items()})
    for name, wanted in results[0].items():
        assert np.allclose(results[1][name], wanted, rtol=1e-5, atol=1e-6), (
            name
        )  # what goes where is added up otherwise
    for states, weights in kept:
        assert len(states) == 3 and len(weights) == 2
        assert all(tuple(each.shape) == (3, 4, 7, 7) for each in weights)


@pytest.mark.skipif("torch" not in FRAMEWORKS, reason="needs torch")
def test_torch_keeps_no_attentions_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from polyllama.backends.torch.modules import TorchContext

    kept, keep = [], TorchContext.keep_attention

    def counted(self: Any, probabilities: Any) -> None:
        kept.append(self.attentions is not None)
        keep(self, probabilities)

    monkeypatch.setattr(TorchContext, "keep_attention", counted)
    model = model_of(CASES["causal-lm"], "torch")
    model.gradient_checkpointing_enable()
    model.module.train()
    forward(model, IDS, output_attentions=True, **CASES["causal-lm"].inputs).loss.backward()
    assert kept == [True, True, False, False]


BIG = Case("causal-lm", {"num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 192})
LONG = np.random.default_rng(0).integers(3, 23, (4, 96))


@pytest.mark.skipif("torch" not in FRAMEWORKS, reason="needs torch")
def test_torch_saves_less() -> None:
    import torch

    model = model_of(BIG, "torch", max_position_embeddings=128)
    module, ids = model.module, torch.from_numpy(LONG)

    def saved() -> int:
        """Bytes that autograd keeps beside the parameters, each storage once."""
        own = {p.untyped_storage().data_ptr() for p in module.parameters()}
        sizes: dict[int, int] = {}

        def pack(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = module(ids, labels=ids).loss
        assert loss.requires_grad
        return sum(sizes.values())

    module.train()
    plain = saved()
    module.gradient_checkpointing_enable()
    less = saved()
    layer_inputs = 4 * LONG.size * 64 * 4
    assert layer_inputs <= less < plain / 4
    module.eval()
    assert saved() == plain  # only while training
    module.train()
    module.gradient_checkpointing_disable()
    assert saved() == plain


@pytest.mark.skipif("mlx" not in FRAMEWORKS, reason="needs mlx")
def test_mlx_peaks_lower() -> None:
    import mlx.core as mx

    model = model_of(BIG, "mlx", max_position_embeddings=128, num_hidden_layers=8)
    model.module.train()

    def peak() -> int:
        mx.synchronize()
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(*value_and_gradients(model, loss_of, LONG, labels=LONG))
        return int(mx.get_peak_memory() - before)

    plain = peak()
    model.gradient_checkpointing_enable()
    assert peak() < 0.5 * plain
    model.gradient_checkpointing_disable()
    assert peak() > 0.9 * plain


@pytest.mark.skipif("jax" not in FRAMEWORKS, reason="needs jax")
def test_jax_saves_less() -> None:
    import jax

    model = model_of(BIG, "jax", max_position_embeddings=128)

    def residuals() -> int:
        """Bytes that go from the forward to the backward pass, traced and not computed."""
        pull = jax.eval_shape(lambda p: jax.vjp(lambda q: model.apply(q, LONG, labels=LONG).loss, p)[1], model.params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pull))

    plain = residuals()
    model.gradient_checkpointing_enable()
    less = residuals()
    assert 4 * LONG.size * 64 * 4 <= less < plain / 4
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    model.gradient_checkpointing_enable({"policy": policy, "use_reentrant": False})
    assert less < residuals() < plain
    model.gradient_checkpointing_disable()
    assert residuals() == plain and not model.is_gradient_checkpointing


@EACH
def test_by_the_names_of_the_facade(framework: str) -> None:
    llm = Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend=framework)
    assert not llm.is_gradient_checkpointing
    llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert llm.is_gradient_checkpointing
    llm.gradient_checkpointing_disable()
    assert not llm.is_gradient_checkpointing
    if framework == "torch":  # whose users know both ways; the module sees to the gradients of what is no input
        llm.gradient_checkpointing_enable({"use_reentrant": True})
        assert llm.is_gradient_checkpointing
        llm.gradient_checkpointing_disable()
    else:
        with pytest.raises(InputError, match="use_reentrant=True would lose the gradients"):
            llm.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(InputError, match=f"gradient checkpointing on {framework} has no argument polcy"):
        llm.gradient_checkpointing_enable({"polcy": None})
    assert not llm.is_gradient_checkpointing


def test_where_nothing_is_trained_it_is_refused_by_name() -> None:
    llm = Llama.load("tiny", backend="reference")
    for call in (llm.gradient_checkpointing_enable, llm.gradient_checkpointing_disable):
        with pytest.raises(UnsupportedError, match="backend 'reference' has no gradient checkpointing"):
            call()
    assert not llm.is_gradient_checkpointing


@pytest.mark.parametrize("framework", [name for name in FRAMEWORKS if name in ("torch", "mlx")])
def test_a_cache_is_refused_while_training_only(framework: str) -> None:
    llm = Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend=framework)
    before = llm.forward(IDS[:1], use_cache=True)
    llm.gradient_checkpointing_enable()
    llm.forward(IDS[:1, :1], past_key_values=before.past_key_values)
    llm.train()
    with pytest.raises(InputError, match="a cache and gradient checkpointing do not go together while training"):
        llm.forward(IDS[:1], use_cache=True)
    llm.gradient_checkpointing_disable()
    assert llm.forward(IDS[:1], use_cache=True).past_key_values.length == 7


@pytest.mark.skipif("torch" not in FRAMEWORKS, reason="needs torch")
def test_torch_goes_on_as_an_ordinary_module() -> None:
    import torch

    module = model_of(TAGS, "torch", num_hidden_layers=2).module.train()
    module.gradient_checkpointing_enable()
    other = copy.deepcopy(module)
    assert other.is_gradient_checkpointing
    ids, labels = torch.from_numpy(IDS), torch.from_numpy(TAGS.labels["labels"])
    module(ids, labels=labels).loss.backward()
    compiled = torch.compile(other, backend="aot_eager")
    compiled(ids, labels=labels).loss.backward()
    for (name, one), two in zip(module.named_parameters(), other.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None
        assert relative_error(two.grad, one.grad) < 1e-5, name


@pytest.mark.skipif("mlx" not in FRAMEWORKS, reason="needs mlx")
def test_mlx_trains_frozen_and_optimized_with_it() -> None:
    """Layers leave their parameters where they were: the optimizer, freezing and saving see the module's own."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optimizers
    from mlx.utils import tree_flatten

    losses = []
    for on in (False, True):
        model = model_of(TAGS, "mlx", num_hidden_layers=2)
        module = model.module
        module.train()
        if on:
            model.gradient_checkpointing_enable()
        module.freeze()
        module["score"].unfreeze()
        module["model"]["layers"][1].unfreeze()
        frozen = module["model"]["layers"][0]["mlp"]["up_proj"]["weight"]
        optimizer = optimizers.AdamW(learning_rate=0.01)
        step = nn.value_and_grad(module, lambda m=module: m(IDS, **TAGS.inputs).loss)
        for _ in range(4):
            loss, found = step()
            optimizer.update(module, found)
            mx.eval(module.parameters(), optimizer.state)
        losses.append(float(loss))
        names = [name for name, _ in tree_flatten(found)]
        assert {name.partition(".")[0] for name in names} == {"score", "model"}
        assert all(name.startswith(("score", "model.layers.1.")) for name in names)
        assert module["model"]["layers"][0]["mlp"]["up_proj"]["weight"] is frozen
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
