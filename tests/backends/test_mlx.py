"""The mlx backend, really running: parity with the float64 reference, gradients against torch, cache, module."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaConfig, PolyllamaWarning
from polyllama.core.errors import BackendError, BackendUnavailableError, InputError
from polyllama.core.graph.node import Node, Parameter
from polyllama.core.graph.nodes import GatedMLP
from support_processes import run_process
from tiny_models import ROPE_TYPES, SIZES, forward, relative_error

mx = pytest.importorskip("mlx.core", reason="mlx is not installed here: pip install 'polyllama[mlx]'")

import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402
from polyllama.backends.mlx.backend import MlxBackend  # noqa: E402
from polyllama.backends.mlx.cache import STEP, MlxCache  # noqa: E402
from polyllama.backends.mlx.namespace import MlxNamespace  # noqa: E402

SHAPES: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha-biases": {"num_key_value_heads": 6, "attention_bias": True, "mlp_bias": True},
    "mqa-tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "own-head-dim": {"hidden_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
}
CASES = [(rope, "gqa") for rope in ROPE_TYPES] + [("default", shape) for shape in SHAPES if shape != "gqa"]
CASES += [("longrope", "mha-biases"), ("dynamic", "mqa-tied"), ("llama3", "own-head-dim")]
TOLERANCE = 1e-5
IDS = np.random.default_rng(0).integers(0, 97, (2, 30))
NO_TEXT = "ignore:generated texts stay empty"


def on_mlx(folder: Any, **options: Any) -> Llama:
    return Llama.load(folder, backend="mlx:cpu", **options)


@pytest.mark.parametrize(("rope", "shape"), CASES)
class TestParity:
    @pytest.fixture
    def pair(self, rope: str, shape: str, tiny_models: Any) -> tuple[Llama, Llama]:
        folder = tiny_models(rope, **SHAPES[shape])[1]
        return Llama.load(folder, backend="reference"), on_mlx(folder, dtype="float32")

    def test_everything_a_forward_pass_gives(self, pair: tuple[Llama, Llama]) -> None:
        labels = IDS.copy()
        labels[0, 5:9] = -100
        asked: dict[str, Any] = {"output_hidden_states": True, "output_attentions": True, "labels": labels}
        wanted, found = (llm.forward(IDS, **asked).numpy() for llm in pair)
        assert found.keys() == wanted.keys()
        assert relative_error(found["logits"], wanted["logits"]) < TOLERANCE
        for name in ("hidden_states", "attentions"):
            assert len(found[name]) == len(wanted[name])
            for ours, theirs in zip(found[name], wanted[name], strict=True):
                assert relative_error(ours, theirs) < TOLERANCE
        assert float(found["loss"]) == pytest.approx(float(wanted["loss"]), rel=1e-5)

    def test_fused_attention(self, pair: tuple[Llama, Llama]) -> None:
        wanted, found = (llm.forward(IDS).numpy()["logits"] for llm in pair)
        assert relative_error(found, wanted) < TOLERANCE

    def test_cached_and_chunked(self, pair: tuple[Llama, Llama]) -> None:
        reference, llm = pair
        cache = None
        for start, stop in [(0, 7), (7, 12), (12, 13), (13, 17), (17, 18), (18, 19), (19, 20), (20, 21), (21, 30)]:
            step = llm.forward(IDS[:, start:stop], past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            whole = reference.forward(IDS[:, :stop], logits_to_keep=1).numpy()["logits"]
            assert relative_error(step.numpy()["logits"][:, -1:], whole) < TOLERANCE
        assert cache.length == 30

    @pytest.mark.parametrize("start", [0, 9, 17], ids=["right", "both", "left"])
    def test_padded_rows_then_cached(self, pair: tuple[Llama, Llama], start: int) -> None:
        reference, llm = pair
        ids, mask = IDS.copy(), np.ones((2, 30), int)
        mask[1] = 0
        mask[1, start : start + 13] = 1
        ids[1, start : start + 13] = IDS[1, :13]
        first = llm.forward(ids, attention_mask=mask, use_cache=True)
        solo = reference.forward(IDS[1:, :13]).numpy()["logits"]
        assert relative_error(first.numpy()["logits"][1, start : start + 13], solo[0]) < TOLERANCE
        step = llm.forward(IDS[:, :1], past_key_values=first.past_key_values).numpy()["logits"]
        for row, before in ((0, ids[:1]), (1, IDS[1:, :13])):
            whole = reference.forward(np.concatenate([before, IDS[row : row + 1, :1]], axis=1), logits_to_keep=1)
            assert relative_error(step[row], whole.numpy()["logits"][0]) < TOLERANCE

    @pytest.mark.filterwarnings(NO_TEXT)
    @pytest.mark.filterwarnings("ignore:row 0 is")  # beyond its context a random model gets no worse
    def test_the_same_tokens_for_the_same_seed(self, pair: tuple[Llama, Llama]) -> None:
        asked: dict[str, Any] = {"max_new_tokens": 40, "eos_token_id": [], "temperature": 0.8, "seed": 3}
        wanted, found = (llm.generate([[1, 5, 9, 33]], **asked)[0].token_ids for llm in pair)
        assert found == wanted

    def test_the_spec_alone_runs_on_the_namespace(self, pair: tuple[Llama, Llama], tiny_models: Any) -> None:
        from polyllama.core.forward.forward import Engine
        from polyllama.core.forward.spec_model import SpecModel

        reference, llm = pair
        native = {name: mx.array(array) for name, array in _arrays(llm).items()}
        engine = Engine(MlxNamespace(), native, as_frequencies=mx.array, to_host=np.array)
        described: dict[str, Any] = {"dtype": "float32", "stored_dtype": "float32", "device": "cpu"}
        model = SpecModel(
            llm.graph, llm.config, llm._loaded.task, engine, as_array=mx.array, to_numpy=np.array, **described
        )
        mask = np.ones((2, 20), int)
        mask[1, :3] = 0
        steps = []
        for each in (model, reference.model):
            first = forward(each, IDS[:, :20], attention_mask=mask, use_cache=True)
            step = forward(each, IDS[:, 20:], past_key_values=first.past_key_values, labels=IDS[:, 20:])
            steps.append(step.numpy())
        assert relative_error(steps[0]["logits"], steps[1]["logits"]) < TOLERANCE
        assert float(steps[0]["loss"]) == pytest.approx(float(steps[1]["loss"]), rel=1e-5)


def _arrays(llm: Llama) -> dict[str, np.ndarray]:
    return {info.name: read() for info, read in llm.model.state()}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padded", [False, True])
def test_gradients_are_those_of_torch(shape: str, padded: bool, tiny_models: Any) -> None:
    import torch

    model, folder = tiny_models("llama3", **SHAPES[shape])
    mask = np.ones((2, 30), int)
    labels = IDS.copy()
    if padded:
        # The first real token is no label either: padding would have to predict it.
        mask[1, :11], labels[1, :12] = 0, -100
    module = on_mlx(folder).module
    module.train()
    loss, gradients = nn.value_and_grad(module, lambda: module(IDS, attention_mask=mask, labels=labels).loss)()
    positions = torch.tensor(np.maximum(mask.cumsum(1) - 1, 0))
    model.zero_grad()
    wanted = model(torch.tensor(IDS), torch.tensor(mask), positions, labels=torch.tensor(labels)).loss
    wanted.backward()
    assert float(loss) == pytest.approx(float(wanted.detach()), rel=1e-5)
    found = dict(tree_flatten(gradients))
    named = {name: p.grad.numpy() for name, p in model.named_parameters()}  # tied ones once, in both
    assert found.keys() == named.keys()
    for name, gradient in named.items():
        assert relative_error(np.array(found[name]), gradient) < 1e-4, name


def test_a_step_of_training_changes_what_runs_and_what_is_saved(tiny_models: Any, tmp_path: Any) -> None:
    import mlx.optimizers as optimizers

    llm = on_mlx(tiny_models()[1])
    module, optimizer = llm.module, optimizers.SGD(learning_rate=0.3)
    before = llm.forward(IDS).numpy()["logits"]
    module.train()
    step = nn.value_and_grad(module, lambda: module(IDS, labels=IDS).loss)
    losses = []
    for _ in range(6):
        loss, gradients = step()
        optimizer.update(module, gradients)
        losses.append(float(loss))
    module.eval()
    assert losses[-1] < losses[0] - 0.1
    after = llm.forward(IDS).numpy()["logits"]
    assert relative_error(after, before) > 1e-2
    saved = Llama.load(llm.save(tmp_path), backend="reference")
    assert relative_error(after, saved.forward(IDS).numpy()["logits"]) < TOLERANCE


def test_gradient_of_the_embeddings(tiny_models: Any) -> None:
    import torch

    model, folder = tiny_models()
    llm = on_mlx(folder)
    llm.module.train()
    embeds = np.random.default_rng(1).normal(size=(1, 5, 48)).astype(np.float32)
    found = mx.grad(lambda e: llm.forward(inputs_embeds=e, labels=IDS[:1, :5]).loss)(mx.array(embeds))
    tensor = torch.tensor(embeds, requires_grad=True)
    model(inputs_embeds=tensor, labels=torch.tensor(IDS[:1, :5])).loss.backward()
    assert relative_error(np.array(found), tensor.grad) < 1e-4


def test_dropout_while_training_only(tiny_models: Any) -> None:
    llm = on_mlx(tiny_models(attention_dropout=0.5)[1])
    quiet = llm.forward(IDS).numpy()["logits"]
    assert relative_error(llm.forward(IDS).numpy()["logits"], quiet) == 0
    llm.module.train()
    mx.random.seed(0)
    first, second = (llm.forward(IDS).numpy()["logits"] for _ in range(2))
    assert relative_error(first, second) > 1e-3
    llm.module.eval()
    assert relative_error(llm.forward(IDS).numpy()["logits"], quiet) == 0


# Unit roundoff (half the step from 1 to the next number) of each dtype, times what some thirty roundings on the way
# through three layers come to: their errors add as squares do, to sqrt(30) = 5.5, and none is to be beyond 3 of that.
HALF = {"bfloat16": 2.0**-8 * 15, "float16": 2.0**-11 * 15}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("shape", ["mha-biases", "mqa-tied"])
def test_half_precision(dtype: str, shape: str, tiny_models: Any, tmp_path: Any) -> None:
    folder = tiny_models(**SHAPES[shape])[1]
    llm = on_mlx(folder, dtype=dtype)
    assert llm.dtype == dtype
    # Against the reference on the same rounded weights, so that only the arithmetic differs.
    reference = Llama.load(llm.save(tmp_path), backend="reference")
    y = llm.forward(mx.array(IDS), use_cache=True)
    assert y.logits.dtype == mx.float32
    wanted = reference.forward(IDS).numpy()["logits"]
    assert relative_error(y.numpy()["logits"], wanted) < HALF[dtype]
    states = llm.forward(mx.array(IDS), output_hidden_states=True).hidden_states
    assert {state.dtype for state in states} == {getattr(mx, dtype)}
    spelled_out = llm.forward(IDS, output_attentions=True).numpy()["logits"]
    assert relative_error(spelled_out, wanted) < HALF[dtype]
    step = llm.forward(IDS[:, :1], past_key_values=y.past_key_values).numpy()["logits"]
    whole = reference.forward(np.concatenate([IDS, IDS[:, :1]], axis=1), logits_to_keep=1).numpy()["logits"]
    assert relative_error(step, whole) < HALF[dtype]


def test_bfloat16_goes_in_and_out_bit_by_bit(tiny_models: Any, tmp_path: Any) -> None:
    stored = Llama.load(tiny_models()[1], backend="torch:cpu", dtype="bfloat16").save(tmp_path)
    llm = on_mlx(stored)
    assert llm.dtype == "bfloat16"
    wanted = {i.name: r() for i, r in Llama.load(stored, backend="torch:cpu").model.state()}
    for name, array in _arrays(llm).items():
        assert array.dtype.name == "bfloat16"
        assert np.array_equal(array.view(np.uint16), wanted[name].view(np.uint16)), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_rms_norm_is_rounded_before_it_is_scaled(dtype: str) -> None:
    from polyllama.backends.mlx.modules import RMSNorm
    from polyllama.core.graph import nodes
    from polyllama.core.graph.node import Context

    node = nodes.RMSNorm("n", 256, 1e-5)
    rng = np.random.default_rng(0)
    x = mx.array(rng.normal(size=(4, 256)).astype(np.float32) * 3).astype(getattr(mx, dtype))
    module = RMSNorm(node)
    module.weight = mx.array(rng.uniform(0.5, 1.5, 256).astype(np.float32)).astype(x.dtype)
    ctx = Context(MlxNamespace(), {"n.weight": module.weight}, None, lambda rope: None)
    wanted = node.apply(ctx.xp, ctx.weights, x, ctx)
    found = module(x)
    assert found.dtype == wanted.dtype == x.dtype
    step = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-23}[dtype]
    difference = np.abs(np.array(found.astype(mx.float32)) - np.array(wanted.astype(mx.float32)))
    # A rounding of the sum may move a few numbers by one step; scaling before rounding would move a quarter of them.
    assert difference.max() <= 2 * step * np.abs(np.array(wanted.astype(mx.float32))).max()
    assert dtype == "float32" or (difference > 0).mean() < 0.02
    late = (x.astype(mx.float32) * mx.rsqrt((x.astype(mx.float32) ** 2).mean(-1, keepdims=True) + 1e-5)) * module.weight
    assert dtype == "float32" or bool((late.astype(x.dtype) != wanted).mean() > 0.1)


def test_angles_at_large_positions_are_the_contracts(tiny_models: Any) -> None:
    folder = tiny_models("default", max_position_embeddings=200_000)[1]
    asked: dict[str, Any] = {"position_ids": 131_000 + np.arange(30)[None] * 7}
    wanted = Llama.load(folder, backend="reference").forward(IDS, **asked).numpy()["logits"]
    assert relative_error(on_mlx(folder).forward(IDS, **asked).numpy()["logits"], wanted) < TOLERANCE


@dataclass(frozen=True)
class ScaledMLP(Node):
    """A node from somebody's plugin: an MLP times a learned number per component."""

    name: str
    inner: Node
    dim: int

    def own_parameters(self) -> Iterator[Parameter]:
        yield Parameter(f"{self.name}.scale.own", (self.dim,), "norm")

    def apply(self, xp: Any, weights: Any, x: Any, ctx: Any) -> Any:
        y = ctx.run(self.inner, x) * weights[f"{self.name}.scale.own"]
        return xp.where(xp.isfinite(y), y, xp.zeros_like(y))


def test_a_node_that_mlx_has_never_heard_of_runs_by_its_own_definition(tiny_models: Any) -> None:
    from polyllama.backends.reference.backend import ReferenceBackend
    from polyllama.core.backend.protocol import RealizeOptions

    described = Llama.load(tiny_models()[1], backend="reference")
    config, task, decoder = described.config, described._loaded.task, described.graph.decoder

    def scaled(layer: Any) -> Any:
        inner: GatedMLP = layer.mlp
        return replace(layer, mlp=ScaledMLP(f"{layer.name}.scaled", inner, config.hidden_size))

    graph = replace(described.graph, decoder=replace(decoder, layers=tuple(scaled(layer) for layer in decoder.layers)))
    rng = np.random.default_rng(2)
    weights = {p.name: rng.normal(size=p.shape).astype(np.float32) * 0.2 for p in graph.parameters()}
    logits = []
    for backend in (ReferenceBackend(), MlxBackend()):
        model = backend.realize(graph, weights, RealizeOptions("float32", "cpu"), config=config, task=task)
        logits.append(model.to_numpy(forward(model, IDS).logits))
    assert relative_error(logits[1], logits[0]) < TOLERANCE
    found = {name for name, _ in tree_flatten(model.module.parameters())}
    assert found == {p.name for p in graph.parameters()}


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_have_the_names_and_shapes_of_the_checkpoint(shape: str, tiny_models: Any) -> None:
    llm = on_mlx(tiny_models(**SHAPES[shape])[1])
    found = {name: tuple(array.shape) for name, array in tree_flatten(llm.module.parameters())}
    assert found == {p.name: p.shape for p in llm.graph.parameters()}
    assert isinstance(llm.module.model.layers[1].self_attn.q_proj, nn.Linear)
    assert isinstance(llm.module.model.embed_tokens, nn.Embedding)


def test_a_module_put_in_the_place_of_another_is_what_runs(tiny_models: Any) -> None:
    llm = on_mlx(tiny_models()[1])
    before = llm.forward(IDS).numpy()["logits"]

    class Doubled(nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def __call__(self, x: Any) -> Any:
            return 2 * self.inner(x)

    attention = llm.module.model.layers[0].self_attn
    attention.q_proj = Doubled(attention.q_proj)
    assert relative_error(llm.forward(IDS).numpy()["logits"], before) > 1e-3


def test_every_named_node_is_observed(tiny_models: Any) -> None:
    folder = tiny_models()[1]
    seen: dict[str, list[tuple[str, Any]]] = {"reference": [], "mlx": []}
    for backend, calls in seen.items():
        llm = Llama.load(folder, backend=backend)

        def observe(node: Any, y: Any, calls: Any = calls, llm: Any = llm) -> None:
            calls.append((getattr(node, "name", type(node).__name__), llm.model.to_numpy(y)))

        llm.forward(IDS, observe=observe)
    assert [name for name, _ in seen["mlx"]] == [name for name, _ in seen["reference"]]
    for (name, ours), (_, theirs) in zip(seen["mlx"], seen["reference"], strict=True):
        assert relative_error(ours, theirs) < TOLERANCE, name


class TestCache:
    @pytest.mark.parametrize("capacity", [None, 10, STEP + 40])
    def test_it_grows_past_what_was_planned(self, capacity: int | None) -> None:
        rng = np.random.default_rng(0)
        keys, values = (rng.normal(size=(2, 3, 2 * STEP + 9, 4)).astype(np.float32) for _ in range(2))
        cache = MlxCache(2, capacity)
        stops = [5, 6, STEP, STEP + 1, 2 * STEP, 2 * STEP + 9]
        for start, stop in itertools.pairwise([0, *stops]):
            k, v = cache.update("a", mx.array(keys[:, :, start:stop]), mx.array(values[:, :, start:stop]))
            cache.advance(stop - start, None)
            assert np.array_equal(np.array(k), keys[:, :, :stop]) and np.array_equal(np.array(v), values[:, :, :stop])

    def test_chosen_rows_and_earlier_outputs_stay_as_they_were(self) -> None:
        cache = MlxCache(2, 8)
        first, _ = cache.update("a", mx.zeros((2, 1, 3, 2)), mx.zeros((2, 1, 3, 2)))
        cache.advance(3, None)
        cache.batch = 2
        other = cache.select_rows([1, 1, 0])
        full, _ = cache.update("a", mx.ones((2, 1, 5, 2)), mx.ones((2, 1, 5, 2)))  # to the last slot
        chosen, _ = other.update("a", mx.full((3, 1, 1, 2), 7.0), mx.ones((3, 1, 1, 2)))
        cache.length = 3
        cache.update("a", mx.full((2, 1, 5, 2), 9.0), mx.ones((2, 1, 5, 2)))
        assert np.array(first).sum() == 0 and np.array(full).sum() == 20 and np.array(chosen).sum() == 42

    def test_rows_go_on_alone(self, tiny_models: Any) -> None:
        llm = on_mlx(tiny_models()[1])
        cache = llm.forward(IDS[:, :10], use_cache=True).past_key_values
        picked = cache.select_rows([1, 0, 1])
        step = llm.forward(IDS[[1, 0, 1], 10:11], past_key_values=picked).numpy()["logits"]
        whole = llm.forward(IDS[:, :11], logits_to_keep=1).numpy()["logits"]
        assert relative_error(step, whole[[1, 0, 1]]) < TOLERANCE
        assert cache.length == 10


def test_mlx_arrays_as_inputs(tiny_models: Any) -> None:
    llm = on_mlx(tiny_models()[1])
    wanted = llm.forward(IDS).numpy()["logits"]
    assert relative_error(llm.forward(mx.array(IDS)).numpy()["logits"], wanted) == 0
    table = llm.module.model.embed_tokens.weight
    assert relative_error(llm.forward(inputs_embeds=table[mx.array(IDS)]).numpy()["logits"], wanted) < 1e-6
    kept = llm.forward(mx.array(IDS), logits_to_keep=mx.array([0, 7])).numpy()["logits"]
    assert relative_error(kept, wanted[:, [0, 7]]) < 1e-6
    with pytest.raises(InputError, match=r"inputs_embeds has shape \[1, 2, 3\]"):
        llm.forward(inputs_embeds=mx.zeros((1, 2, 3)))
    with pytest.raises(InputError, match="given"):
        llm.forward(IDS, inputs_embeds=mx.zeros((2, 30, 48)))


def test_wrong_inputs_and_options_are_named(tiny_models: Any) -> None:
    folder = tiny_models()[1]
    llm = on_mlx(folder)
    with pytest.raises(InputError, match="outside the vocabulary of 97"):
        llm.forward(mx.array([[1, 97]]))
    with pytest.raises(InputError, match="attention_masks"):
        llm.module(IDS, attention_masks=IDS)
    with pytest.raises(InputError, match=r"past_key_values\[0\] is a int, wanted keys and values"):
        llm.forward(IDS, past_key_values=(1,))
    with pytest.raises(BackendError, match="computes in float32, bfloat16, float16, not in 'float64'"):
        on_mlx(folder, dtype="float64")
    with pytest.raises(BackendUnavailableError, match="no device 'tpu'"):
        Llama.load(folder, backend="mlx:tpu")
    if not mx.metal.is_available():
        with pytest.raises(BackendUnavailableError, match="GPU on Apple silicon only"):
            Llama.load(folder, backend="mlx:gpu")


def test_a_float64_model_says_that_it_runs_in_float32() -> None:
    config = LlamaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, dtype="float64"
    )
    with pytest.warns(PolyllamaWarning, match="float64, which MLX does not compute in"):
        assert Llama.load(config, load_format="dummy", backend="mlx:cpu").dtype == "float32"


def test_listing_it_does_not_import_mlx() -> None:
    program = (
        "import sys\nfrom polyllama.backends.mlx.backend import MlxBackend\nseen = MlxBackend().availability()\n"
        "print(seen.usable, 'cpu' in seen.devices, any(n.split('.')[0] == 'mlx' for n in sys.modules))"
    )
    done = run_process([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "False"]


def test_the_dtypes_it_declares_are_those_it_computes_in() -> None:
    from polyllama.backends.mlx.arrays import DTYPES

    assert MlxBackend.dtypes == tuple(DTYPES)


class TestNamespace:
    """The names of the array API that are spelled otherwise in MLX, against NumPy, which has the standard's."""

    xp = MlxNamespace()

    @pytest.mark.parametrize(
        "expression",
        [
            "xp.permute_dims(x, (2, 0, 1))",
            "xp.concat([x, x], axis=-1)",
            "xp.concat([x, x[:1]], axis=None)",
            "xp.astype(x, xp.int32)",
            "xp.cumulative_sum(x > 0, axis=1, dtype=xp.int32)",
            "xp.cumulative_sum(x, axis=-1, include_initial=True)",
            "xp.cumulative_sum(xp.ones((200,), dtype=xp.int8))",
            "xp.take(x, xp.asarray([2, 0]), axis=2)",
            "xp.take_along_axis(x, xp.zeros((2, 3, 1), dtype=xp.int64), axis=-1)",
            "xp.arange(3, 9, 2, dtype=xp.int32, device=None)",
            "xp.arange(5, device=None)",
            "xp.ones((2, 1), dtype=xp.bool, device=None)",
            "xp.zeros((2, 1), device=None)",
            "xp.full((2,), 3, dtype=xp.float32)",
            "xp.zeros_like(x)",
            "xp.ones_like(x > 0)",
            "xp.clip(x, None, 0.5)",
            "xp.clip(x, 0.0, None)",
            "xp.clip(x)",
            "xp.where(x > 0, x, xp.asarray(-float('inf'), dtype=x.dtype))",
            "xp.matrix_transpose(x)",
            "xp.pow(xp.abs(x), 1.5)",
            "xp.unstack(x, axis=1)[2]",
            "xp.atan2(x, x + 3)",
            "xp.broadcast_to(x[:, :1], (2, 3, 4))",
            "xp.max(x, axis=-1, keepdims=True)",
            "xp.log1p(xp.expm1(xp.tanh(x) + 2))",
        ],
    )
    def test_it_gives_what_the_standard_says(self, expression: str) -> None:
        import numpy as standard

        x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
        found = eval(expression, {"xp": self.xp, "x": mx.array(x)})
        wanted = eval(expression, {"xp": standard, "x": x})
        assert found.dtype != mx.bool_ or wanted.dtype == np.bool_
        np.testing.assert_allclose(np.array(found), wanted, rtol=2e-6)

    def test_no_array_of_ours_is_float64(self) -> None:
        assert mx.ones(2).dtype != self.xp.float64

    def test_a_name_that_is_nowhere(self) -> None:
        with pytest.raises(AttributeError, match="nothing called 'permute_dimensions'"):
            _ = self.xp.permute_dimensions


def test_a_module_gives_a_tuple_where_that_is_asked_for() -> None:
    llm = Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend="mlx")
    ids = [[1, 5, 9]]
    loss, logits = llm.module(ids, labels=ids, return_dict=False)
    assert float(loss) == float(llm.module(ids, labels=ids).loss) and logits.shape == (1, 3, SIZES["vocab_size"])
