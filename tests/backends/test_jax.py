"""The JAX backend: parity with the reference, few traces, and what JAX users expect (jit, grad, vmap, sharding)."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_processes import run_process

pytest.importorskip("jax", reason="jax is not installed")

import jax
import jax.numpy as jnp
from polyllama import FlaxLlamaForCausalLM, FlaxLlamaModel, Llama, LlamaConfig, PolyllamaWarning
from polyllama.backends.jax.backend import JaxBackend
from polyllama.core.errors import BackendError, BackendUnavailableError, InputError
from tiny_models import ROPE_TYPES, SIZES, relative_error

pytestmark = pytest.mark.long
OPTIMIZED = pytest.mark.optimized_jax

SHAPES: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha-biases": {"num_key_value_heads": 6, "attention_bias": True, "mlp_bias": True},
    "mqa-tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "own-head-dim": {"hidden_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
}
CASES = [
    *(pytest.param("default", shape, marks=OPTIMIZED) for shape in SHAPES),
    pytest.param("dynamic", "gqa", marks=OPTIMIZED),
    # To the programs of the first and the second, other frequencies are other data.
    *((rope, "gqa") for rope in ROPE_TYPES if rope not in ("default", "dynamic")),
]
TOLERANCE = 1e-5
IDS = np.random.default_rng(0).integers(0, 97, (3, 30))


def config(rope: str = "default", **fields: Any) -> LlamaConfig:
    """Two layers, so that a wrong cache shows in the values too; otherwise as the other tests' tiny models."""
    sizes = SIZES | {"num_hidden_layers": 2} | ({"max_position_embeddings": 18} if rope == "dynamic" else {}) | fields
    return LlamaConfig(**sizes, rope_parameters=dict(ROPE_TYPES[rope]))


def load(backend: str = "jax", rope: str = "default", dtype: str = "auto", **fields: Any) -> Llama:
    """The same random weights on any backend, with biases that are not zero and norms that are not one."""
    llm = Llama.load(config(rope, **fields), load_format="dummy", backend=backend, dtype=dtype)
    model: Any = llm.model
    rng = np.random.default_rng(7)
    for parameter in llm.graph.parameters():
        if parameter.role == "bias" or parameter.role == "norm":
            value = rng.uniform(0.5, 1.5, parameter.shape) * (0.2 if parameter.role == "bias" else 1.0)
            value = value.astype(np.float32)
            if backend == "reference":
                model.engine.weights[parameter.name] = value.astype(llm.dtype)
            elif backend == "torch":
                import torch

                model.module.get_parameter(parameter.name).data = torch.tensor(value)
            else:
                model.params[parameter.name] = jnp.asarray(value, llm.dtype)
    return llm


@pytest.fixture(scope="module")
def plain() -> Llama:
    return load()


@pytest.fixture(scope="module")
def reference() -> Llama:
    return load("reference", dtype="float64")


@pytest.fixture(scope="module")
def flax() -> FlaxLlamaForCausalLM:
    return FlaxLlamaForCausalLM(config(num_hidden_layers=1), seed=4)


@pytest.mark.parametrize(("rope", "shape"), CASES)
def test_parity_with_the_reference(rope: str, shape: str) -> None:
    ours = load(rope=rope, **SHAPES[shape])
    truth = load("reference", rope, "float32", **SHAPES[shape])
    wanted = truth.forward(IDS, labels=IDS, output_hidden_states=True, output_attentions=True).numpy()
    found = ours.forward(IDS, labels=IDS, output_hidden_states=True, output_attentions=True).numpy()
    for name in ("logits", "loss"):
        assert relative_error(found[name], wanted[name]) < TOLERANCE
    for name in ("hidden_states", "attentions"):
        assert len(found[name]) == len(wanted[name])
        for one, other in zip(found[name], wanted[name], strict=True):
            assert relative_error(one, other) < 2 * TOLERANCE

    # Padding left, right and inside, then chunks and single tokens from the cache, across the lengths where the
    # frequencies of dynamic and longrope change.
    mask = np.ones((3, 30), int)
    mask[0, :9], mask[1, 3:14] = 0, 0
    mask[2, 10:13] = mask[2, 0] = 0
    cache = other_cache = None
    for start, stop in [(0, 15), (15, 18), (18, 19), (19, 22), (22, 30)]:
        arguments = {"attention_mask": mask[:, :stop], "use_cache": True}
        step = ours.forward(IDS[:, start:stop], past_key_values=cache, **arguments)
        truth_step = truth.forward(IDS[:, start:stop], past_key_values=other_cache, **arguments)
        cache, other_cache = step.past_key_values, truth_step.past_key_values
        attended = mask[:, start:stop].astype(bool)
        assert relative_error(step.numpy()["logits"][attended], truth_step.numpy()["logits"][attended]) < TOLERANCE
    assert cache.length == 30

    picked, other = cache.select_rows([2, 0, 2]), other_cache.select_rows([2, 0, 2])
    found = ours.forward([[5], [6], [7]], past_key_values=picked).numpy()["logits"]
    wanted = truth.forward([[5], [6], [7]], past_key_values=other).numpy()["logits"]
    assert relative_error(found, wanted) < TOLERANCE
    assert (cache.length, picked.length) == (30, 31)


def test_right_padded_rows_equal_solo(plain: Llama) -> None:
    mask = np.ones((2, 30), int)
    mask[1, 13:] = 0
    found = plain.forward(IDS[:2], attention_mask=mask).numpy()["logits"]
    assert relative_error(found[1, :13], plain.forward(IDS[1:2, :13]).numpy()["logits"][0]) < TOLERANCE


@OPTIMIZED
@pytest.mark.filterwarnings("ignore:generated texts stay empty")
@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 0.8, "seed": 3}])
def test_the_same_tokens_as_the_reference(plain: Llama, reference: Llama, sampling: dict[str, Any]) -> None:
    prompts = [[1, 5, 9, 33], [7], [2] * 11]
    options = {"max_new_tokens": 40, "eos_token_id": [], **sampling}
    found, wanted = (
        [g.token_ids for g in llm.generate([list(p) for p in prompts], **options)] for llm in (plain, reference)
    )
    assert found == wanted


@OPTIMIZED
class TestTraces:
    @pytest.fixture
    def llm(self) -> Llama:
        return load(num_hidden_layers=1)

    @pytest.mark.filterwarnings("ignore:.*max_position_embeddings")
    def test_decoding_traces_once_and_once_more_for_each_doubling(self, llm: Llama) -> None:
        model: Any = llm.model
        cache = llm.forward(IDS[:1, :20], use_cache=True, logits_to_keep=1).past_key_values
        assert (model.traces, cache.slots) == (1, 64)
        slots = [cache.slots]
        for _ in range(120):
            llm.forward([[5]], past_key_values=cache, logits_to_keep=1)
            slots.append(cache.slots)
        assert sorted(set(slots)) == [64, 128, 256]
        assert model.traces == 1 + 3
        # What was decoded across two doublings is what one pass gives.
        whole = llm.forward([[*IDS[0, :20].tolist(), *[5] * 121]], logits_to_keep=1).numpy()["logits"]
        step = llm.forward([[5]], past_key_values=cache, logits_to_keep=1).numpy()["logits"]
        assert relative_error(step, whole) < TOLERANCE

    def test_prefills_of_like_lengths_share_a_trace(self, llm: Llama, reference: Llama) -> None:
        model: Any = llm.model
        for length in range(17, 25):
            llm.forward(IDS[:1, :length], logits_to_keep=1)
        assert model.traces == 1

    def test_a_second_request_traces_nothing(self, llm: Llama) -> None:
        model: Any = llm.model
        with pytest.warns(PolyllamaWarning, match="generated texts stay empty"):
            llm.generate([[1, 2, 3], [4, 5]], max_new_tokens=9, eos_token_id=[])
            traces = model.traces
            llm.generate([[3, 2], [1, 2, 3, 4]], max_new_tokens=20, eos_token_id=[])
        assert traces == model.traces == 2

    def test_dynamic_rope_does_not_retrace_per_token(self) -> None:
        llm = load(rope="dynamic", num_hidden_layers=1)
        model: Any = llm.model
        cache = llm.forward(IDS[:1, :20], use_cache=True).past_key_values
        llm.forward([[5]], past_key_values=cache)
        traces = model.traces
        for _ in range(3):
            llm.forward([[5]], past_key_values=cache)
        assert model.traces == traces

    def test_the_cache_is_written_in_place_and_not_copied(self, llm: Llama) -> None:
        model: Any = llm.model
        cache = model.new_cache(2, 700)
        llm.forward(IDS[:2, :20], past_key_values=cache)
        before = {name: [part.unsafe_buffer_pointer() for part in parts] for name, parts in cache.buffers.items()}
        llm.forward([[5], [6]], past_key_values=cache)
        after = {name: [part.unsafe_buffer_pointer() for part in parts] for name, parts in cache.buffers.items()}
        assert before == after and cache.slots == 768
        from polyllama.backends.jax.traced import Inputs, Static

        one = np.ones((2, 1), np.int32)
        inputs = Inputs(one, one, np.ones((2, 768), bool), np.int32(21), np.int32(1))
        program = model._compiled.lower(model.params, inputs, cache.buffers, static=Static()).compile().as_text()
        assert "f32[4,768,8]" in program  # rows times key/value heads, slots, head_dim
        assert not [line for line in program.splitlines() if "= f32[4,768,8]" in line and " copy(" in line]


def test_padding_that_overflows_reaches_nobody() -> None:
    from polyllama.backends.jax.cache import CacheWindow

    window = CacheWindow({"a": (jnp.zeros((1, 8, 2)),) * 2}, jnp.int32(1), jnp.array([True, True, False]))
    values = jnp.ones((1, 1, 3, 2)).at[:, :, 2].set(jnp.inf)
    _, written = window.update("a", jnp.ones((1, 1, 3, 2)), values)
    assert written[0, 0, :, 0].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]


@OPTIMIZED
class TestDtypesAndDevices:
    # Errors of a rounding at every step of two layers add up to some eight units in the last place of the largest.
    @pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 8 * 2**-8), ("float16", 8 * 2**-11)])
    def test_half_precision(self, reference: Llama, dtype: str, bound: float) -> None:
        ours = load(dtype=dtype, num_hidden_layers=2)
        stored = {name: np.asarray(array, np.float32) for name, array in ours.model.params.items()}  # type: ignore[attr-defined]
        truth = load("reference", dtype="float64")
        truth.model.engine.weights.update({k: v.astype(np.float64) for k, v in stored.items()})  # type: ignore[attr-defined]
        y = ours.forward(IDS)
        assert y.logits.dtype == jnp.float32
        assert relative_error(y.numpy()["logits"], truth.forward(IDS).numpy()["logits"]) < bound
        cache = ours.forward(IDS[:, :29], use_cache=True).past_key_values
        step = ours.forward(IDS[:, 29:], past_key_values=cache).numpy()["logits"]
        assert relative_error(step, truth.forward(IDS).numpy()["logits"][:, 29:]) < bound

    def test_auto_takes_the_stored_dtype_without_a_change_of_bits(self, tmp_path: Path) -> None:
        import ml_dtypes

        stored = load(dtype="bfloat16", num_hidden_layers=1)
        stored.save(tmp_path)
        again = Llama.load(tmp_path, backend="jax")
        assert again.dtype == "bfloat16"
        for name, array in again.model.params.items():  # type: ignore[attr-defined]
            assert array.dtype == jnp.bfloat16
            bits = np.asarray(stored.model.params[name]).view(np.uint16)  # type: ignore[attr-defined]
            assert np.array_equal(np.asarray(array).view(ml_dtypes.bfloat16).view(np.uint16), bits)

    def test_float64_is_refused_in_one_line(self) -> None:
        with pytest.raises(BackendError, match="computes in float32, bfloat16, float16, not in 'float64'"):
            load(dtype="float64")

    def test_devices_are_as_jax_reports_them(self, plain: Llama) -> None:
        assert plain.device == "cpu" and load("jax:cpu", num_hidden_layers=1).device == "cpu"
        assert JaxBackend().availability().devices[-1] == "cpu"
        if not any(device.platform == "tpu" for device in jax.devices()):
            with pytest.raises(BackendUnavailableError, match="'tpu'"):
                load("jax:tpu")
        from polyllama.backends.jax.arrays import find_device

        assert find_device("cpu:0") == jax.devices("cpu")[0]
        with pytest.raises(BackendUnavailableError, match=r"there is no cpu:700: jax sees \d cpu devices"):
            find_device("cpu:700")

    def test_availability_imports_no_jax(self) -> None:
        code = (
            "import sys, polyllama.backends.jax.backend as b\n"
            "found = b.JaxBackend().availability()\n"
            "assert found.usable and 'cpu' in found.devices, found\n"
            "print('jax' in sys.modules, 'numpy' in sys.modules)\n"
        )
        done = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["False", "False"]

    def test_the_documented_names_import_no_jax(self) -> None:
        code = "import sys\nfrom polyllama import FlaxLlamaModel, FlaxLlamaForCausalLM\nprint('jax' in sys.modules)"
        done = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


def test_observers_see_every_node_with_its_values(plain: Llama, reference: Llama) -> None:
    seen: dict[str, dict[str, Any]] = {"ours": {}, "truth": {}}
    for who, llm in (("ours", plain), ("truth", reference)):
        record = seen[who]
        llm.forward(
            IDS[:, :7], observe=lambda node, y, record=record: record.update({getattr(node, "name", "rope"): y})
        )
    assert seen["ours"].keys() == seen["truth"].keys() and "model.layers.1.mlp.down_proj" in seen["ours"]
    for name, value in seen["ours"].items():
        assert relative_error(value, seen["truth"][name]) < TOLERANCE


def test_a_cache_of_another_backend_is_refused(plain: Llama, reference: Llama) -> None:
    cache = reference.forward(IDS, use_cache=True).past_key_values
    with pytest.raises(InputError, match="ConcatenatingCache of another backend"):
        plain.forward(IDS[:, :1], past_key_values=cache)


class TestTransforms:
    """JIT, differentiation, vectorization and parallelization, as the documentation names them."""

    def test_jit(self, flax: FlaxLlamaForCausalLM) -> None:
        mask = np.ones((3, 30), int)
        mask[0, :4] = 0
        compiled = jax.jit(flax)
        y = compiled(jnp.asarray(IDS), attention_mask=jnp.asarray(mask), params=flax.params)
        wanted = flax(IDS, attention_mask=mask)
        assert type(y) is type(wanted)
        assert relative_error(y.logits, wanted.logits) < TOLERANCE
        compiled(jnp.asarray(IDS[::-1]), attention_mask=jnp.asarray(mask), params=flax.params)
        assert compiled._cache_size() == 1

    def test_masks_and_positions_under_jit(self, flax: FlaxLlamaForCausalLM) -> None:
        """Packed sequences by a mask of four dimensions, the same additive, and by positions that start again."""
        allowed = np.zeros((1, 1, 30, 30), bool)
        allowed[..., :12, :12] = np.tril(np.ones((12, 12)))
        allowed[..., 12:, 12:] = np.tril(np.ones((18, 18)))
        positions = np.array([[*range(12), *range(18)]])
        solo = flax(IDS[:, 12:]).logits
        compiled = jax.jit(lambda m, p: flax(IDS, attention_mask=m, position_ids=p).logits)
        for mask in (allowed, np.where(allowed, 0.0, -np.inf).astype(np.float32), None):
            given = None if mask is None else jnp.asarray(mask)
            assert relative_error(compiled(given, jnp.asarray(positions))[:, 12:], solo) < TOLERANCE
            called = flax(IDS, attention_mask=mask, position_ids=positions).logits
            assert relative_error(called[:, 12:], solo) < TOLERANCE
        with pytest.raises(InputError, match=r"attention_mask has shape \[3, 29\], wanted \[3, 30\]"):
            compiled(jnp.ones((3, 29), int), jnp.asarray(positions))

    def test_vmap(self, flax: FlaxLlamaForCausalLM) -> None:
        y = jax.jit(jax.vmap(lambda row: flax(row[None]).logits[0]))(jnp.asarray(IDS))
        assert relative_error(y, flax(IDS).logits) < TOLERANCE
        one_token = jax.jit(jax.vmap(lambda row: flax(row[None]).logits[0]))(jnp.asarray(IDS[:, :1]))
        assert relative_error(one_token, flax(IDS[:, :1]).logits) < TOLERANCE
        # over the weights too: two models at once
        both = jax.tree.map(lambda w: jnp.stack([w, 2 * w]), flax.params)
        y = jax.jit(jax.vmap(lambda params: flax(IDS, params=params).logits))(both)
        doubled = flax(IDS, params=jax.tree.map(lambda w: 2 * w, flax.params)).logits
        assert relative_error(y[1], doubled) < TOLERANCE

    def test_gradients_are_those_of_the_torch_backend(self) -> None:
        torch = pytest.importorskip("torch")
        labels, mask = IDS.copy(), np.ones((3, 30), int)
        mask[1, :6], labels[1, :6] = 0, -100
        ours = load(num_hidden_layers=2, attention_bias=True, tie_word_embeddings=True)
        model: Any = ours.model
        loss, gradients = jax.jit(
            jax.value_and_grad(lambda p: model.apply(p, IDS, attention_mask=mask, labels=labels).loss)
        )(model.params)
        module = load("torch", num_hidden_layers=2, attention_bias=True, tie_word_embeddings=True).module.train()
        wanted = module(torch.tensor(IDS), attention_mask=torch.tensor(mask), labels=torch.tensor(labels)).loss
        wanted.backward()
        assert float(loss) == pytest.approx(wanted.item(), rel=1e-5)
        assert float(loss) == pytest.approx(float(ours.forward(IDS, attention_mask=mask, labels=labels).loss), rel=1e-5)
        # The softmax ignores what all keys share, so the gradient of their bias is zero, and only rounding is left.
        others = {n: p for n, p in module.named_parameters() if not n.endswith("k_proj.bias")}
        assert set(others) <= set(gradients)
        for name, parameter in others.items():
            assert relative_error(gradients[name], parameter.grad) < 1e-4, name

    def test_gradients_are_the_slopes_of_the_reference(self) -> None:
        ours, truth = load(num_hidden_layers=1), load("reference", dtype="float64", num_hidden_layers=1)
        model: Any = ours.model
        weights: Any = truth.model.engine.weights  # type: ignore[attr-defined]
        weights.update({name: np.asarray(value, np.float64) for name, value in model.params.items()})
        gradients = jax.jit(jax.grad(lambda p: model.apply(p, IDS, labels=IDS).loss))(model.params)
        rng = np.random.default_rng(1)
        for name, gradient in gradients.items():
            start, way = weights[name], rng.standard_normal(weights[name].shape)
            slopes = []
            for step in (1e-5, -1e-5):
                weights[name] = start + step * way
                # The loss as the output holds it, in float64: a difference of float32 numbers would be noise.
                slopes.append(float(truth.forward(IDS, labels=IDS).loss))
            weights[name] = start
            slope = (slopes[0] - slopes[1]) / 2e-5
            assert float((np.asarray(gradient, np.float64) * way).sum()) == pytest.approx(slope, rel=1e-3, abs=1e-5), (
                name
            )

    def test_length_dependent_rope_in_a_transform(self) -> None:
        flax = FlaxLlamaForCausalLM(config("dynamic", num_hidden_layers=1))
        mask = np.ones((3, 30), int)
        mask[0, :14] = 0
        wanted = flax(IDS, attention_mask=mask).logits
        found = jax.jit(lambda ids: flax(ids, attention_mask=mask).logits)(jnp.asarray(IDS))
        assert (
            relative_error(found[0, 14:], wanted[0, 14:]) < TOLERANCE and relative_error(found[1:], wanted[1:]) < 1e-5
        )
        with pytest.raises(InputError, match="dynamic RoPE depends on how long each row is, and that is being traced"):
            jax.jit(lambda m: flax(IDS, attention_mask=m).logits)(jnp.asarray(mask))

    def test_parallel_over_eight_devices(self, tmp_path: Path) -> None:
        program = """
        import jax, numpy as np, sys, warnings
        from jax.sharding import PartitionSpec as P
        from polyllama import FlaxLlamaForCausalLM, LlamaConfig, PolyllamaWarning
        from polyllama.backends.jax.sharding import partition_specs, shard

        assert len(jax.devices()) == 8
        sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=8,
                     num_key_value_heads=8, initializer_range=0.15, attention_bias=True)
        ids = np.random.default_rng(0).integers(0, 96, (2, 12))
        model = FlaxLlamaForCausalLM(LlamaConfig(vocab_size=96, **sizes))
        wanted = np.asarray(model(ids).logits)
        whole = model.params
        mesh = jax.make_mesh((8,), ("model",))
        model.params = shard(whole, model.llama.graph, mesh)
        pieces = {name: array.addressable_shards[0].data.shape for name, array in model.params.items()}
        layer = "model.layers.0."
        assert pieces[layer + "self_attn.q_proj.weight"] == (8, 64), pieces
        assert pieces[layer + "self_attn.q_proj.bias"] == (8,)
        assert pieces[layer + "self_attn.o_proj.weight"] == (64, 8)
        assert pieces[layer + "self_attn.o_proj.bias"] == (64,)
        assert pieces[layer + "mlp.down_proj.weight"] == (64, 16)
        assert pieces[layer + "input_layernorm.weight"] == (64,)
        assert pieces["lm_head.weight"] == (12, 64)
        y = model(ids)
        scale = np.abs(wanted).max()
        assert np.abs(np.asarray(y.logits) - wanted).max() < 1e-5 * scale
        traced = jax.jit(lambda p, x: model(x, params=p).logits)
        compiled = traced.lower(model.params, ids).compile()
        assert "all-reduce" in compiled.as_text()  # the devices do share the work
        assert np.abs(np.asarray(traced(model.params, ids)) - wanted).max() < 1e-5 * scale
        cache = model.init_cache(2, 40)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(ids[:, :10], past_key_values=cache)
            for at in (10, 11):
                step = model(ids[:, at:at + 1], past_key_values=cache).logits
        assert np.abs(np.asarray(step)[:, 0] - wanted[:, 11]).max() < 1e-5 * scale
        odd = FlaxLlamaForCausalLM(LlamaConfig(vocab_size=97, **sizes))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            shard(odd.params, odd.llama.graph, mesh)
        assert any("lm_head.weight [97, 64]" in str(one.message) for one in said)
        print("equal")
        """
        environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
        done = run_process(
            [sys.executable, "-c", textwrap.dedent(program)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.stdout.strip() == "equal", done.stderr

    def test_a_mesh_without_the_axis_is_refused(self, flax: FlaxLlamaForCausalLM) -> None:
        from polyllama.backends.jax.sharding import shard

        with pytest.raises(BackendError, match="the mesh has no axis 'model', only data"):
            shard(flax.params, flax.llama.graph, jax.make_mesh((1,), ("data",)))


class TestFlaxNames:
    def test_call_from_pretrained_and_save(self, plain: Llama, tmp_path: Path) -> None:
        plain.save(tmp_path / "a")
        model = FlaxLlamaForCausalLM.from_pretrained(tmp_path / "a", dtype=jnp.float32)
        y = model(IDS, output_attentions=True, output_hidden_states=True)
        assert relative_error(y.logits, plain.forward(IDS).logits) < 1e-6
        assert len(y.hidden_states) == 3 and y.attentions[0].shape == (3, 6, 30, 30)
        plain_tuple = model(IDS, return_dict=False)
        assert isinstance(plain_tuple, tuple) and plain_tuple[0].shape == (3, 30, 97)
        model.params = jax.tree.map(lambda w: w * 0.5, model.params)
        model.save_pretrained(tmp_path / "b")
        again = FlaxLlamaForCausalLM.from_pretrained(tmp_path / "b")
        assert relative_error(again(IDS).logits, model(IDS).logits) < 1e-6
        assert relative_error(again(IDS).logits, y.logits) > 1e-2
        with pytest.warns(PolyllamaWarning, match=r"lm_head\.weight"):
            trunk = FlaxLlamaModel.from_pretrained(tmp_path / "a")
        assert relative_error(trunk(IDS).last_hidden_state, y.hidden_states[-1]) < TOLERANCE

    def test_cached_calls(self) -> None:
        model = FlaxLlamaModel(config(num_hidden_layers=1))
        wanted = model(IDS).last_hidden_state
        cache = model.init_cache(3, 30)
        mask = jnp.ones((3, 30), int)  # as long as the cache, as the documentation's generation has it
        first = model(IDS[:, :20], attention_mask=mask, past_key_values=cache)
        assert first.past_key_values is cache and cache.length == 20
        positions = np.broadcast_to(np.arange(20, 30), (3, 10))
        second = model(IDS[:, 20:], attention_mask=mask, position_ids=positions, past_key_values=cache)
        assert relative_error(second.last_hidden_state, wanted[:, 20:]) < TOLERANCE
        with pytest.raises(InputError, match="past_key_values cannot go through a JAX transform"):
            jax.jit(lambda ids: model(ids, past_key_values=cache).last_hidden_state)(jnp.asarray(IDS[:, :1]))

    def test_parameters_are_a_pytree_that_may_be_given_and_replaced(self) -> None:
        model = FlaxLlamaForCausalLM(config(num_hidden_layers=1), seed=1)
        other = FlaxLlamaForCausalLM(config(num_hidden_layers=1), input_shape=(2, 5), seed=2)
        assert relative_error(model(IDS).logits, other(IDS).logits) > 1e-2
        assert relative_error(model(IDS, params={"params": other.params}).logits, other(IDS).logits) < 1e-6
        model.params = {"params": other.params}
        assert relative_error(model(IDS).logits, other(IDS).logits) < 1e-6
        wrong = {**other.params, "lm_head.bias": jnp.zeros(97), "model.norm.weight": jnp.zeros(3)}
        with pytest.raises(
            InputError, match=r"lm_head\.bias is not known; model\.norm\.weight has shape \[3\], wanted"
        ):
            model.params = wrong

    def test_dropout(self) -> None:
        model = FlaxLlamaForCausalLM(config(num_hidden_layers=1, attention_dropout=0.3))
        keys = jax.random.key(0), jax.random.key(1)
        still = model(IDS).logits
        first, again, second = (model(IDS, train=True, dropout_rng=k).logits for k in (keys[0], *keys))
        assert np.array_equal(first, again) and relative_error(first, second) > 1e-3
        assert relative_error(first, still) > 1e-3
        # A single token's attention is 1: dropped, or scaled by 1 / 0.7 in each head.
        traced = jax.jit(lambda k: model(IDS, train=True, dropout_rng=k).logits)(keys[0])
        assert relative_error(traced, first) < TOLERANCE
        with pytest.raises(InputError, match=r"train=True with attention_dropout 0\.3 needs a random key"):
            model(IDS, train=True)
        with pytest.warns(PolyllamaWarning, match="dropout_rng does nothing without train=True"):
            assert np.array_equal(model(IDS, dropout_rng=keys[0]).logits, still)

    def test_dropout_keeps_the_mean(self) -> None:
        from polyllama.backends.jax.nodes import JaxContext

        ctx = JaxContext(jnp, {}, None, lambda rope: None, dropout_rng=jax.random.key(0))
        ones = jnp.ones((100, 100))
        once, twice = ctx.dropout(ones, 0.3), ctx.dropout(ones, 0.3)
        assert float((once == 0).mean()) == pytest.approx(0.3, abs=0.02)
        assert float(once.mean()) == pytest.approx(1.0, abs=0.03)
        assert not np.array_equal(once, twice)

    def test_what_does_not_fit_is_refused_in_one_line(self) -> None:
        with pytest.raises(InputError, match="these classes are of the jax backend"):
            FlaxLlamaModel.from_pretrained("tiny", backend="torch")
        with pytest.raises(InputError, match="is not a dtype"):
            FlaxLlamaModel(config(), dtype=object())
        model = FlaxLlamaModel(config(num_hidden_layers=1))
        with pytest.raises(InputError, match="outside the vocabulary of 97"):
            model([[97]])
        with pytest.raises(InputError, match="outside the vocabulary of 97"):
            jax.grad(lambda p: model([[97]], params=p).last_hidden_state.sum())(model.params)
