"""``FlaxLlamaModel`` and ``FlaxLlamaForCausalLM`` as programs written from the reference documentation use them."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="jax is not installed")

import jax
import jax.numpy as jnp
from polyllama import FlaxLlamaForCausalLM, FlaxLlamaModel, Llama, LlamaConfig, PolyllamaError, pipeline
from polyllama.core.errors import GenerationError, InputError, PolyllamaWarning, UnsupportedError
from support_processes import run_process
from tiny_models import SIZES, relative_error

IDS = np.random.default_rng(0).integers(1, 97, (2, 6))
KEY = jax.random.PRNGKey(3)


def small(**fields: Any) -> LlamaConfig:
    return LlamaConfig(**{**SIZES, "num_hidden_layers": 1, "initializer_range": 0.15, **fields})


@pytest.fixture(scope="module")
def model() -> FlaxLlamaForCausalLM:
    return FlaxLlamaForCausalLM(small(), seed=3)


@pytest.fixture(scope="module")
def written(model: FlaxLlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flax") / "model"
    model.save_pretrained(save_directory=folder)
    return folder


def test_the_config_is_a_copy_that_knows_its_model(model: FlaxLlamaForCausalLM) -> None:
    given = small()
    made = FlaxLlamaForCausalLM(given, _do_init=False)
    assert made.config is not given and made.config == given
    with pytest.raises(PolyllamaError, match="num_hidden_layers cannot be set: the model is built"):
        made.config.num_hidden_layers = 4
    made.config.output_hidden_states = True
    assert not given.output_hidden_states
    with pytest.warns(PolyllamaWarning, match="num_hidden_layers set on a config that a model was made from"):
        given.num_hidden_layers = 2
    assert made.config.num_hidden_layers == 1


def test_the_device_that_is_asked_for(tmp_path: Path) -> None:
    program = f"""
    import jax, numpy as np
    from polyllama import FlaxLlamaForCausalLM, LlamaConfig

    ids, (first, other) = np.array([[1, 5, 9]]), jax.devices()
    jax.config.update("jax_default_device", other)
    config = LlamaConfig(**{SIZES!r}, attention_bias=True)
    model = FlaxLlamaForCausalLM(config, device="cpu")
    assert model.llama.device == "cpu"
    assert {{place for array in model.params.values() for place in array.devices()}} == {{first}}
    logits = model(ids).logits
    assert logits.devices() == {{first}}

    model.save_pretrained({str(tmp_path / "m")!r})
    bare, params = FlaxLlamaForCausalLM.from_pretrained({str(tmp_path / "m")!r}, device="cpu", _do_init=False)
    for weights in (params, {{name: np.asarray(array) for name, array in params.items()}}):
        found = bare(ids, params=weights).logits
        assert found.devices() == {{first}} and np.allclose(found, logits, atol=1e-5)
        assert bare._with(weights).model.params["model.norm.weight"].devices() == {{first}}
    made = bare.init_weights(jax.random.key(1))
    assert {{place for array in made.values() for place in array.devices()}} == {{first}}

    mesh = jax.make_mesh((2,), ("model",))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    spread = jax.jit(bare.init_weights, out_shardings=whole)(jax.random.key(1))
    assert len(spread["model.norm.weight"].devices()) == 2
    for name in made:
        assert np.allclose(made[name], spread[name], atol=1e-6)
    assert jax.eval_shape(lambda: bare.init_weights(jax.random.key(1))).keys() == made.keys()
    print("there")
    """
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    code = [sys.executable, "-c", textwrap.dedent(program)]
    done = run_process(code, capture_output=True, text=True, env=environment, timeout=600)
    assert done.stdout.strip() == "there", done.stderr


class TestWithoutParameters:
    def test_none_are_made_and_every_call_takes_them(self, model: FlaxLlamaForCausalLM) -> None:
        bare = FlaxLlamaForCausalLM(small(), seed=3, _do_init=False)
        assert bare.model.params == {}
        params = bare.init_weights(KEY, (1, 1))
        assert params.keys() == model.params.keys() == bare.required_params
        assert all(np.array_equal(params[name], model.params[name]) for name in params)
        assert relative_error(bare(IDS, params=params).logits, model(IDS).logits) < 1e-6
        cache = bare.init_cache(2, 6)
        bare(IDS[:, :4], params=params, past_key_values=cache)
        last = bare(IDS[:, 4:], params=params, past_key_values=cache).logits
        assert relative_error(last, model(IDS).logits[:, 4:]) < 1e-5
        found = bare.generate(IDS, max_new_tokens=3, params=params).sequences
        assert np.array_equal(found, model.generate(IDS, max_new_tokens=3).sequences)

    def test_what_needs_them_says_so(self, tmp_path: Path) -> None:
        bare = FlaxLlamaForCausalLM(small(), _do_init=False)
        for use in (
            lambda: bare.params,
            lambda: bare(IDS),
            lambda: bare.generate(IDS),
            lambda: bare.save_pretrained(tmp_path / "a"),
            lambda: setattr(bare, "params", bare.init_weights(KEY)),
        ):
            with pytest.raises(InputError, match="_do_init=False; keep what init_weights or from_pretrained gives"):
                use()
        with pytest.raises(InputError, match="params do not fit this model"):
            bare.llama.forward(IDS)
        assert "parameters=" in repr(bare) and bare.llama.device == "cpu"

    def test_under_transforms(self) -> None:
        bare = FlaxLlamaForCausalLM(small(), _do_init=False)
        shapes = jax.eval_shape(lambda key: bare.init_weights(key, (1, 1)), KEY)
        assert {name: (one.shape, one.dtype) for name, one in shapes.items()} == {
            name: (one.shape, one.dtype) for name, one in bare.params_shape_tree.items()
        }
        params = jax.jit(bare.init_weights, static_argnums=1)(KEY, (1, 1))
        gradients = jax.grad(lambda p: bare(IDS, params=p).logits.astype(jnp.float32).sum())(params)
        assert gradients.keys() == params.keys()

    def test_what_random_weights_are_like(self) -> None:
        bare = FlaxLlamaForCausalLM(small(attention_bias=True), _do_init=False)
        params = bare.init_weights(KEY)
        assert np.all(params["model.norm.weight"] == 1)
        assert np.all(params["model.layers.0.self_attn.q_proj.bias"] == 0)
        matrix = np.asarray(params["model.layers.0.mlp.up_proj.weight"])
        assert matrix.std() == pytest.approx(0.15, rel=0.05) and abs(matrix.mean()) < 0.01
        other = bare.init_weights(jax.random.PRNGKey(4))
        assert not np.array_equal(other["lm_head.weight"], params["lm_head.weight"])
        kept = bare.init_weights(KEY, (1, 1), {"params": {"lm_head.weight": other["lm_head.weight"]}})
        assert kept["lm_head.weight"] is other["lm_head.weight"] and kept.keys() == params.keys()
        with pytest.raises(InputError, match="rng is 3, no random key"):
            bare.init_weights(3)

    def test_loaded(self, written: Path, model: FlaxLlamaForCausalLM) -> None:
        bare, params = FlaxLlamaForCausalLM.from_pretrained(pretrained_model_name_or_path=written, _do_init=False)
        assert bare.model.params == {}
        assert relative_error(bare(IDS, params=params).logits, model(IDS).logits) < 1e-6


class TestWrongArguments:
    @pytest.mark.parametrize("seed", [-1, 2**32, True, "3", 1.0])
    def test_seeds(self, seed: Any) -> None:
        with pytest.raises(InputError, match=r"seed.* is "):
            FlaxLlamaModel(small(), seed=seed, _do_init=False)

    @pytest.mark.parametrize("shape", [5, (0, 1), ("1", "1"), None])
    def test_shapes(self, shape: Any) -> None:
        with pytest.raises(InputError, match=r"input_shape.* wanted a tuple of sizes"):
            FlaxLlamaModel(small(), input_shape=shape, _do_init=False)
        with pytest.raises(InputError, match="input_shape"):
            FlaxLlamaModel(small(), _do_init=False).init_weights(KEY, shape)

    def test_parameters_of_another_framework(self, model: FlaxLlamaForCausalLM) -> None:
        torch = pytest.importorskip("torch")
        given = {name: torch.nn.Parameter(torch.tensor(np.asarray(array))) for name, array in model.params.items()}
        assert np.array_equal(model(IDS, params=given).logits, model(IDS).logits)
        other = FlaxLlamaForCausalLM(small(), seed=4)
        other.params = given
        assert np.array_equal(other(IDS).logits, model(IDS).logits)
        halves = {name: array.bfloat16() for name, array in given.items()}
        assert relative_error(model(IDS, params=halves).logits, model(IDS).logits) < 0.1


class TestCalls:
    def test_arguments_by_position(self, model: FlaxLlamaForCausalLM) -> None:
        mask, positions = np.ones_like(IDS), np.broadcast_to(np.arange(6), (2, 6))
        mask[0, :2] = 0
        other = FlaxLlamaForCausalLM(small(), seed=9).params
        by_name = model(
            input_ids=IDS,
            attention_mask=mask,
            position_ids=positions,
            params=other,
            output_attentions=True,
            output_hidden_states=True,
        )
        found = model(jnp.asarray(IDS), mask, positions, other, None, None, False, True, True, False)
        assert isinstance(found, tuple) and np.array_equal(found[0], by_name.logits)
        assert len(found) == 3 and isinstance(found[0], jax.Array)
        assert len(found[1]) == len(by_name.hidden_states) == 2

    def test_the_configs_flags(self) -> None:
        model = FlaxLlamaModel(small(output_hidden_states=True, output_attentions=True, return_dict=False))
        assert len(model(IDS)) == 3
        output = model(IDS, return_dict=True, output_attentions=False)
        assert output.hidden_states is not None and output.attentions is None

    def test_the_documented_examples(self) -> None:
        inputs = {name: jnp.asarray([value]) for name, value in Llama.load("tiny").tokenizer("Hello, my dog").items()}
        wanted = Llama.load("tiny", backend="reference", dtype="float32").forward(inputs["input_ids"]).numpy()
        outputs = FlaxLlamaForCausalLM.from_pretrained("tiny")(**inputs)
        assert relative_error(outputs.logits[:, -1], wanted["logits"][:, -1]) < 1e-4
        hidden = FlaxLlamaModel.from_pretrained("tiny")(**inputs).last_hidden_state
        assert isinstance(hidden, jax.Array) and hidden.shape == (*inputs["input_ids"].shape, 128)


class TestCasting:
    def test_casting_and_masks(self, model: FlaxLlamaForCausalLM) -> None:
        mask = {name: "norm" not in name for name in model.params}
        narrow = model.to_bf16(model.params, mask)
        assert {str(array.dtype) for name, array in narrow.items() if mask[name]} == {"bfloat16"}
        assert narrow["model.norm.weight"].dtype == model.params["model.norm.weight"].dtype == jnp.float32
        assert {str(array.dtype) for array in model.to_fp16({"params": narrow}).values()} == {"float16"}
        assert {str(array.dtype) for array in model.to_fp32(narrow).values()} == {"float32"}
        with pytest.raises(InputError, match="the mask does not have the names of params"):
            model.to_bf16(model.params, {"x": True})

    def test_saving_other_parameters(self, model: FlaxLlamaForCausalLM, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path / "a", params=model.to_bf16(model.params))
        again = Llama.load(tmp_path / "a", backend="reference")
        assert again.config.dtype == "bfloat16" and model.params["lm_head.weight"].dtype == jnp.float32
        rounded = model.to_fp32(model.to_bf16(model.params))
        assert relative_error(again.forward(IDS).numpy()["logits"], model(IDS, params=rounded).logits) < 1e-5


class TestGenerate:
    def test_sequences_are_those_of_the_other_backends(self, model: FlaxLlamaForCausalLM, written: Path) -> None:
        mask = np.ones_like(IDS)
        mask[1, :3] = 0
        output = model.generate(jnp.asarray(IDS), attention_mask=mask, max_length=14, pad_token_id=0)
        assert isinstance(output.sequences, jax.Array) and output.sequences.shape == (2, 14)
        assert output[0] is output.sequences is output["sequences"]
        assert np.array_equal(output.sequences[:, :6], IDS)
        llm = Llama.load(written, backend="reference")
        with pytest.warns(match="texts stay empty"):
            for row in (0, 1):
                alone = llm.generate([IDS[row][mask[row] == 1].tolist()], max_new_tokens=8)[0].token_ids
                assert output.sequences[row, 6 : 6 + len(alone)].tolist() == alone

    def test_a_row_that_ends_early_is_padded(self, model: FlaxLlamaForCausalLM) -> None:
        whole = np.asarray(model.generate(IDS, max_new_tokens=8, eos_token_id=96).sequences)
        end = int(whole[0, 7])
        found = np.asarray(model.generate(IDS, max_new_tokens=8, eos_token_id=end, pad_token_id=5).sequences)
        place = 6 + whole[0, 6:].tolist().index(end)
        assert found.shape == whole.shape and np.array_equal(found[0, : place + 1], whole[0, : place + 1])
        assert np.all(found[0, place + 1 :] == 5)
        without = np.asarray(model.generate(IDS, max_new_tokens=8, eos_token_id=end).sequences)
        assert np.all(without[0, place + 1 :] == end)  # no padding token is known: the one that ends a text

    def test_sampling_follows_the_key(self, model: FlaxLlamaForCausalLM) -> None:
        def drawn(key: Any) -> np.ndarray:
            options = {"do_sample": True, "top_k": 30, "top_p": 0.9, "temperature": 1.5, "prng_key": key}
            return np.asarray(model.generate(IDS, max_new_tokens=6, **options).sequences)

        assert np.array_equal(drawn(KEY), drawn(KEY)) and np.array_equal(drawn(KEY), drawn(jax.random.key(3)))
        assert not np.array_equal(drawn(KEY), drawn(jax.random.PRNGKey(4)))
        assert np.array_equal(drawn(None), drawn(jax.random.PRNGKey(0)))  # the documented default
        first, second = jnp.array([5, 3], jnp.uint32), jnp.array([0, 3], jnp.uint32)
        assert not np.array_equal(drawn(first), drawn(second))  # both words of a key count

    def test_limits(self, model: FlaxLlamaForCausalLM) -> None:
        assert model.generate(IDS, 9).sequences.shape == model.generate(IDS, max_new_tokens=3).sequences.shape == (2, 9)
        assert model.generate(IDS).sequences.shape[1] <= 6 + 256
        shortest = model.generate(IDS, max_new_tokens=4, min_length=10, num_beams=1, trace=False, early_stopping=False)
        assert shortest.sequences.shape == (2, 10)
        with pytest.raises(InputError, match="the prompts have 6 tokens, max_length=6 counts them too"):
            model.generate(IDS, max_length=6)

    @pytest.mark.parametrize(
        ("options", "kind", "said"),
        [
            ({"num_beams": 2}, UnsupportedError, "num_beams=2: beam search comes with a later release"),
            ({"length_penalty": 2.0}, UnsupportedError, "length_penalty=2.0 is of beam search"),
            ({"forced_eos_token_id": 3}, UnsupportedError, "forced_eos_token_id=3 is not offered"),
            ({"prng_key": 3, "do_sample": True}, InputError, "prng_key is 3, no random key"),
            ({"pad_token_id": 97}, InputError, "pad_token_id is 97, wanted one of the 97 ids"),
            ({"min_length": -1}, InputError, "min_length is -1"),
            ({"trace": 3}, InputError, "trace is 3"),
            ({"max_new_token": 3}, GenerationError, "did you mean 'max_new_tokens'"),
            ({"max_length": 9, "max_new_tokens": 3}, InputError, "max_length and max_new_tokens are two limits"),
        ],
    )
    def test_what_is_refused(
        self, model: FlaxLlamaForCausalLM, options: dict[str, Any], kind: type[Exception], said: str
    ) -> None:
        with pytest.raises(kind, match=said):
            model.generate(IDS, **options)

    def test_inside_a_transform(self, model: FlaxLlamaForCausalLM) -> None:
        with pytest.raises(InputError, match="generate cannot go through a JAX transform"):
            jax.jit(lambda ids: model.generate(ids, max_new_tokens=2).sequences)(jnp.asarray(IDS))

    def test_the_trunk_does_not_generate(self) -> None:
        assert not FlaxLlamaModel.can_generate() and FlaxLlamaForCausalLM.can_generate()
        assert not hasattr(FlaxLlamaModel, "generate")

    def test_in_a_pipeline(self) -> None:
        model = FlaxLlamaForCausalLM.from_pretrained("tiny")
        made = pipeline("text-generation", model=model, max_new_tokens=4)
        assert made.model is model and made.framework == "jax"
        wanted = pipeline("text-generation", model="tiny", backend="reference", max_new_tokens=4)("Once upon a")
        assert made("Once upon a") == wanted


class TestDeviceMaps:
    def test_one_device(self, written: Path) -> None:
        for places in ("auto", "cpu", {"": "cpu"}, None):
            assert FlaxLlamaForCausalLM.from_pretrained(written, device_map=places).llama.device == "cpu"
        for wrong, said in (
            ({"a": "cpu", "b": 0}, "names 2 devices: a model runs on one so far"),
            ("balanced", "spreads a model over several devices, which comes later"),
            (0, "gpu"),
        ):
            with pytest.raises(PolyllamaError, match=said):
                FlaxLlamaForCausalLM.from_pretrained(written, device_map=wrong)
        with pytest.raises(InputError, match="device_map and a device are both given"):
            FlaxLlamaForCausalLM.from_pretrained(written, device_map="auto", device="cpu")

    def test_several_devices_hold_a_part_each(self, tmp_path: Path) -> None:
        program = f"""
        import jax, numpy as np
        from polyllama import FlaxLlamaForCausalLM, LlamaConfig

        sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
                     num_key_value_heads=4, initializer_range=0.15)
        ids = np.random.default_rng(0).integers(0, 96, (2, 7))
        whole = FlaxLlamaForCausalLM(LlamaConfig(vocab_size=96, **sizes))
        whole.save_pretrained({str(tmp_path / "m")!r})
        spread = FlaxLlamaForCausalLM.from_pretrained({str(tmp_path / "m")!r}, device_map="auto")
        matrix = spread.params["model.layers.0.mlp.up_proj.weight"]
        assert len(matrix.devices()) == 4 and matrix.addressable_shards[0].data.shape == (32, 64)
        assert np.allclose(np.asarray(spread(ids).logits), np.asarray(whole(ids).logits), atol=1e-5)
        found = spread.generate(ids, max_new_tokens=3).sequences
        assert np.array_equal(found, whole.generate(ids, max_new_tokens=3).sequences)
        print("equal")
        """
        environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
        code = [sys.executable, "-c", textwrap.dedent(program)]
        done = run_process(code, capture_output=True, text=True, env=environment, timeout=600)
        assert done.stdout.strip() == "equal", done.stderr
