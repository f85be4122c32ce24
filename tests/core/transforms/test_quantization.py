"""Quantized models on every backend: the same text, products held to the float64 matrix, weights that stay packed."""

from __future__ import annotations

import copy
import importlib.util
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from polyllama import Llama, LlamaConfig, PolyllamaWarning
from polyllama.core.errors import CheckpointError, ConfigError, UnsupportedError
from polyllama.core.export.quantize_checkpoint import quantize_checkpoint
from polyllama.core.quantization.affine import GROUP_SIZES, dequantize, quantize
from polyllama.core.quantization.packing import BITS, pack, unpack
from polyllama.core.quantization.scheme import read_quantization
from tiny_models import relative_error

LIBRARIES = {"reference": "numpy", "torch:cpu": "torch", "mlx:cpu": "mlx", "jax:cpu": "jax"}
BACKENDS = [
    pytest.param(
        name, marks=pytest.mark.skipif(importlib.util.find_spec(library) is None, reason=f"{library} is not installed")
    )
    for name, library in LIBRARIES.items()
]
DOWN = {"*.down_proj": "int{bits}-g32"}  # 352 inputs, which groups of 64 do not divide
IDS = np.array([[1, 40, 50, 60, 70, 300, 500]])


def single(backend: str) -> str:
    """The dtype to compare backends in: float32, and the reference's own float64."""
    return "auto" if backend == "reference" else "float32"


def arrays(llm: Llama) -> dict[str, np.ndarray]:
    """Every tensor of a loaded model, as it would be saved."""
    return {info.name: read() for info, read in llm.model.state()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    """The bundled model, quantized to some bits in groups of some size."""
    made: dict[tuple[int, int], Path] = {}

    def folder(bits: int, group: int) -> Path:
        if (bits, group) not in made:
            target = tmp_path_factory.mktemp("quantized") / f"int{bits}-g{group}"
            patterns = {pattern: how.format(bits=bits) for pattern, how in DOWN.items()}
            quantize_checkpoint("tiny", target, bits=bits, group_size=group, modules=patterns)
            made[bits, group] = target
        return made[bits, group]

    return folder


@pytest.fixture(scope="module")
def loaded(tiny: Any) -> Callable[[int, int, str], Llama]:
    """The same on a backend, loaded once: jax compiles for seconds."""
    models: dict[tuple[int, int, str], Llama] = {}

    def load(bits: int, group: int, backend: str) -> Llama:
        key = bits, group, backend
        if key not in models:
            models[key] = Llama.load(tiny(bits, group), backend=backend, dtype=single(backend))
        return models[key]

    return load


# ---- bits


@pytest.mark.parametrize("bits", BITS)
@given(data=st.data())
@hypothesis_settings(max_examples=15)
def test_packing_comes_back(bits: int, data: st.DataObject) -> None:
    rows, words = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    q = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).integers(0, 1 << bits, (rows, 32 * words))
    packed = pack(q, bits)
    assert packed.dtype == np.uint32 and packed.shape == (rows, words * bits)
    assert np.array_equal(unpack(packed, bits), q)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", GROUP_SIZES)
def test_rounding_gives_the_bits_that_mlx_gives(bits: int, group: int) -> None:
    mx = pytest.importorskip("mlx.core")
    rng = np.random.default_rng(bits * group)
    w = (rng.standard_normal((16, 256)) * 10.0 ** rng.integers(-3, 2, (16, 1))).astype(np.float32)
    w[0], w[1, :128], w[2] = 0, np.abs(w[1, :128]), -np.abs(w[2])  # nothing, one sign only
    w[3, ::2] = 0
    found, wanted = quantize(w, group, bits), mx.quantize(mx.array(w), group_size=group, bits=bits)
    for ours, theirs in zip(found, wanted, strict=True):
        assert np.array_equal(ours, np.array(theirs))
    theirs = np.array(mx.dequantize(*wanted, group_size=group, bits=bits))
    assert relative_error(dequantize(*found, bits=bits), theirs) < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_each_weight_takes_the_nearest_of_the_values_that_are_stored(dtype: str) -> None:
    from polyllama.core.dtypes import numpy_dtype

    w = np.random.default_rng(0).standard_normal((8, 128)).astype(numpy_dtype(dtype))
    for bits in BITS:
        made = quantize(w, 32, bits)
        assert made.scales.dtype == w.dtype
        steps = np.arange(1 << bits)
        levels = made.scales.astype(np.float64)[..., None] * steps + made.biases.astype(np.float64)[..., None]
        off = np.abs(w.astype(np.float64).reshape(8, -1, 32)[..., None] - levels[..., None, :])
        taken = np.take_along_axis(off, unpack(made.weight, bits).reshape(8, -1, 32)[..., None], -1)[..., 0]
        assert np.all(taken <= off.min(axis=-1) + 1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused_by_name(value: float) -> None:
    w = np.ones((2, 64), np.float32)
    w[1, 5] = value
    with pytest.raises(CheckpointError, match=r"lm_head\.weight holds values that are (NaN|infinite)"):
        quantize(w, 32, 4, name="lm_head.weight")


# ---- the same text everywhere


@pytest.mark.parametrize("group", GROUP_SIZES)
@pytest.mark.parametrize("bits", [4, 8])
def test_one_file_tells_the_same_story_on_every_backend(bits: int, group: int, loaded: Any) -> None:
    told = {}
    for backend, library in LIBRARIES.items():
        if importlib.util.find_spec(library) is None:
            continue
        told[backend] = (
            loaded(bits, group, backend).generate("Once upon a time", max_new_tokens=48, temperature=0).token_ids
        )
    assert len(told["reference"]) == 48
    assert all(ids == told["reference"] for ids in told.values()), told


# ---- products


@pytest.fixture(scope="module")
def head() -> LlamaConfig:
    """One small layer and a head of two million weights, which backends take in several tiles."""
    return LlamaConfig(
        vocab_size=4160,
        hidden_size=512,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 2**-7)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("how", ["int4-g128", "int8-g32"])
def test_products_are_those_of_the_float64_matrix(
    backend: str, dtype: str, tolerance: float, how: str, head: LlamaConfig
) -> None:
    if backend == "reference" and dtype == "bfloat16":
        pytest.skip("the reference computes in float64 and float32")
    llm = Llama.load(head.replace(dtype=dtype), load_format="dummy", quantize=how, backend=backend, dtype=dtype)
    stored = arrays(llm)
    parts = (stored[f"lm_head.{kind}"] for kind in ("weight", "scales", "biases"))
    matrix = dequantize(*parts, bits=int(how[3]), dtype=np.float64)
    for rows in (1, 6, 40):  # torch's kernel, a few rows and many take different roads
        ids = np.random.default_rng(rows).integers(0, 4160, (1, rows))
        found = llm.forward(ids, output_hidden_states=True).numpy()
        wanted = found["hidden_states"][-1].astype(np.float64) @ matrix.T
        assert relative_error(found["logits"], wanted) < tolerance, rows


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_tokens_of_several_prompts(backend: str, tiny: Any) -> None:
    """They lie apart in memory, which torch's int4 kernel refused, so that no batch was generated from in bfloat16."""
    llm = Llama.load(tiny(4, 32), backend=backend)
    ids = [[1, 5, 9, 33], [1, 7, 100, 8], [1, 3, 4, 400]]
    whole, last = (llm.forward(ids, logits_to_keep=kept).numpy()["logits"] for kept in (0, 1))
    assert relative_error(last[:, 0], whole[:, -1]) < 2**-6
    texts = llm.generate(["Once upon a time", "The dog", "One day"], max_new_tokens=3, temperature=0)
    assert all(len(text.token_ids) == 3 for text in texts)


# ---- memory


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_are_held_packed(backend: str, loaded: Any) -> None:
    llm = loaded(4, 32, backend)
    llm.generate("Once upon a time", max_new_tokens=2)  # a backend may unpack when it first multiplies
    model: Any = llm.model
    held: dict[str, Any] = {
        "reference": lambda: model.engine.weights,
        "torch:cpu": lambda: dict(model.module.named_parameters()),
        "mlx:cpu": lambda: dict(__import__("mlx.utils").utils.tree_flatten(model.module.parameters())),
        "jax:cpu": lambda: model.params,
    }[backend]()
    assert {p.name for p in llm.graph.parameters()} <= set(held)
    packed = [p for p in llm.graph.parameters() if p.bits]
    assert sum(held[p.name].nbytes for p in packed) * 8 == 4 * sum(p.size for p in packed)
    numbers = 8 if backend == "reference" else 4
    rest = sum(held[p.name].nbytes for p in llm.graph.parameters() if not p.bits)
    assert rest == numbers * sum(p.size for p in llm.graph.parameters() if not p.bits)


# ---- saving


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("origin", ["file", "argument"])
def test_what_is_saved_is_what_was_loaded(backend: str, origin: str, tiny: Any, tmp_path: Path) -> None:
    if origin == "file":
        llm = Llama.load(tiny(4, 64), backend=backend)
    else:
        with pytest.warns(PolyllamaWarning, match="groups of 64 do not divide"):
            llm = Llama.load("tiny", quantize="int4", backend=backend)
    again = Llama.load(llm.save(tmp_path / "saved"), backend=backend)
    assert again.config.quantization == llm.config.quantization and again.dtype == llm.dtype
    before, after = arrays(llm), arrays(again)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert array.dtype == after[name].dtype and np.array_equal(array.view("u1"), after[name].view("u1")), name
    if backend != "jax:cpu":  # which compiles for seconds to say the same
        assert np.array_equal(llm.forward(IDS).numpy()["logits"], again.forward(IDS).numpy()["logits"])


def test_loading_and_the_command_quantize_alike(tiny: Any, tmp_path: Path) -> None:
    with pytest.warns(PolyllamaWarning, match="groups of 64 do not divide"):
        at_load = Llama.load("tiny", quantize="int4", backend="reference")
    from_file = Llama.load(tiny(4, 64), backend="reference")
    assert all(np.array_equal(array, arrays(from_file)[name]) for name, array in arrays(at_load).items())


# ---- torch's own


def test_torch_gradients_go_through_packed_weights_to_what_lies_below(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("polyllama.backends.torch.quantized.TILE", 1 << 13)  # so that there are several
    packed = Llama.load(tiny(4, 32), backend="torch:cpu", dtype="float32").model.module
    plain = Llama.load("tiny", backend="torch:cpu", dtype="float32").model.module
    names = [name.removesuffix(".scales") for name, _ in packed.named_parameters() if name.endswith(".scales")]
    with torch.no_grad():
        for name in names:
            parts = (packed.get_parameter(f"{name}.{kind}").detach().numpy() for kind in ("weight", "scales", "biases"))
            plain.get_parameter(f"{name}.weight").copy_(torch.from_numpy(dequantize(*parts, bits=4)))
    gradients = []
    for module in (packed, plain):
        embeds = plain.get_input_embeddings()(torch.tensor(IDS)).detach().requires_grad_()
        module(inputs_embeds=embeds, labels=torch.tensor(IDS)).loss.backward()
        gradients.append((embeds.grad, module.get_parameter("model.norm.weight").grad))
    for found, wanted in zip(*gradients, strict=True):
        assert relative_error(found, wanted) < 1e-4
    assert all(packed.get_parameter(f"{name}.scales").grad is None for name in names)


def test_torch_int4_kernel_loses_nothing_of_large_zeros() -> None:
    torch = pytest.importorskip("torch")
    from polyllama.backends.torch.quantized import Int4Kernel, Linear

    rng = np.random.default_rng(0)
    made = quantize((1 + 0.05 * rng.standard_normal((64, 512))).astype(_bfloat16()), 64, 4)
    module = Linear(64, 512, 64, 4, bias=False)
    module.weight.data = torch.from_numpy(made.weight)
    for name in ("scales", "biases"):
        getattr(module, name).data = torch.from_numpy(getattr(made, name).astype(np.float32)).bfloat16()
    x = np.repeat([1.0, -1.0] * 4, 64)  # groups cancel, what is lost of each zero does not
    native = torch.from_numpy(x).bfloat16()[None]
    if not Int4Kernel.fits(module, native):
        pytest.skip("this processor has no such kernel")
    wanted = x @ dequantize(*made, bits=4, dtype=np.float64).T
    with torch.no_grad():
        assert relative_error(module(native)[0].float().numpy(), wanted) < 0.02


def _bfloat16() -> Any:
    from polyllama.core.dtypes import numpy_dtype

    return numpy_dtype("bfloat16")


def test_torch_multiplies_by_what_the_tensors_hold_now(head: LlamaConfig) -> None:
    torch = pytest.importorskip("torch")
    config = head.replace(dtype="bfloat16")
    llm = Llama.load(config, load_format="dummy", quantize="int4", backend="torch:cpu")
    ids = np.array([[5]])
    before = llm.forward(ids).numpy()["logits"]
    copies = copy.deepcopy(llm.model.module), pickle.loads(pickle.dumps(llm.model.module))
    for copied in copies:
        with torch.no_grad():
            assert np.array_equal(copied(torch.tensor(ids)).logits.float().numpy(), before)
    with torch.no_grad():
        llm.model.module.get_parameter("lm_head.scales").mul_(2)
        llm.model.module.get_parameter("lm_head.biases").mul_(2)
    assert relative_error(llm.forward(ids).numpy()["logits"], 2 * before) < 2**-7


# ---- with mlx-lm


@pytest.fixture(scope="module")
def mlx_lm() -> Any:
    pytest.importorskip("mlx_lm")
    from mlx_lm import convert, utils

    def logits(folder: Path) -> np.ndarray:
        import mlx.core as mx

        model, _ = utils.load_model(folder)
        model.set_dtype(mx.float32)
        return np.array(model(mx.array(IDS)))

    return convert.convert if hasattr(convert, "convert") else convert, logits


THEIRS: dict[str, dict[str, Any]] = {
    "int4": {"q_group_size": 32, "q_bits": 4},
    "left out without a word": {"q_group_size": 64, "q_bits": 4},
    "mixed": {"q_group_size": 32, "q_bits": 4, "quant_predicate": "mixed_3_6"},
}


@pytest.mark.parametrize("case", THEIRS)
def test_checkpoints_that_mlx_lm_quantized_are_read(case: str, mlx_lm: Any, tmp_path: Path) -> None:
    convert, logits = mlx_lm
    source = Path(__file__).parents[3] / "models" / "tiny"
    convert(str(source), str(tmp_path / "theirs"), quantize=True, **THEIRS[case])
    wanted = logits(tmp_path / "theirs")
    for backend, library in LIBRARIES.items():
        if backend == "jax:cpu" or importlib.util.find_spec(library) is None:  # jax compiles for as long as the rest
            continue
        llm = Llama.load(tmp_path / "theirs", backend=backend, dtype=single(backend))
        assert any(p.bits for p in llm.graph.parameters())
        assert relative_error(llm.forward(IDS).numpy()["logits"], wanted) < 1e-5, backend
    if case == "left out without a word":
        assert next(p for p in llm.graph.parameters() if "down_proj" in p.name).bits is None


def test_mlx_lm_reads_what_is_written_here(mlx_lm: Any, tmp_path: Path) -> None:
    _, logits = mlx_lm
    modules = {"*.down_proj": "int8-g32", "*.v_proj": "int3-g128", "*.0.*.o_proj": "none"}
    quantize_checkpoint("tiny", tmp_path / "ours", group_size=64, modules=modules, max_shard_size="300KB")
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    wanted = Llama.load(tmp_path / "ours", backend="reference").forward(IDS).numpy()["logits"]
    assert relative_error(logits(tmp_path / "ours"), wanted) < 1e-5


# ---- what a config may say, and what is refused


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"group_size": 64, "bits": 7}, "bits=7: must be 2, 3, 4, 5, 6 or 8"),
        ({"group_size": 48, "bits": 4}, "group_size=48: must be 32, 64 or 128"),
        ({"bits": 4}, "group_size: Field required"),
        ({"group_size": 64, "bits": "4"}, "bits='4'"),
        ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, "mode 'mxfp4' is not read here"),
        ({"quant_method": "gptq", "bits": 4}, "quantized by gptq, which is not read here"),
        ({"load_in_4bit": True}, "quantized by bitsandbytes, which is not read here"),
        ({"group_size": 64, "bits": 4, "lm_head": 3}, "'lm_head' must be false, true or an object"),
        ({"group_size": 64, "bits": 4, "lm_head": {"bits": 4}}, "lm_head.group_size"),
        ("int4", "must be an object"),
    ],
)
def test_configs_that_cannot_be_read_say_why(block: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_quantization(block)
    with pytest.raises(ConfigError, match=r"config\.json"):
        LlamaConfig.from_dict({"quantization": block}, source="config.json")


def test_a_config_comes_back_as_it_was() -> None:
    block = {"group_size": 64, "bits": 4, "mode": "affine", "lm_head": False}
    block["model.embed_tokens"] = {"group_size": 32, "bits": 8, "mode": "affine"}
    config = LlamaConfig.from_dict({"quantization": block, "quantization_config": block}, source="config.json")
    assert config.to_dict()["quantization"] == config.to_dict()["quantization_config"] == block
    with pytest.raises(ConfigError, match="quantization"):
        LlamaConfig.from_dict(
            {"quantization": block, "quantization_config": {**block, "bits": 8}}, source="config.json"
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 8}, "packed with 4 bits, the config says bits=8"),
        ({"group_size": 64}, "groups of 64, which do not divide its 352 inputs; correct quantization in config.json"),
        (
            {"group_size": 64, **{f"model.layers.{i}.mlp.down_proj": {"group_size": 32, "bits": 4} for i in range(5)}},
            "quantized in groups of 32, the config says otherwise",
        ),
        (None, "the config does not say how"),
    ],
)
def test_a_config_that_does_not_fit_the_weights(change: Any, message: str, tiny: Any, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(tiny(4, 32), tmp_path / "wrong"))
    raw = json.loads((folder / "config.json").read_text())
    for key in ("quantization", "quantization_config"):
        if change is None:
            del raw[key]
        else:
            raw[key] = {name: value for name, value in raw[key].items() if not isinstance(value, dict)} | change
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=message):
        Llama.load(folder, backend="reference")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("int4-g64", "down_proj has 352 inputs, which do not divide into groups of 64; use int4-g32, or leave it out"),
        ("int7", "quantize='int7' is not known; use int4, int8"),
        ("q4", "quantize='q4' is not known"),
        (4, "quantize=4 is not known"),
    ],
)
def test_asking_for_what_is_not_there(how: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        Llama.load("tiny", quantize=how, backend="reference")


def test_quantized_weights_are_not_quantized_again(tiny: Any) -> None:
    with pytest.raises(UnsupportedError, match="the weights are quantized already"):
        Llama.load(tiny(4, 32), quantize="int8", backend="reference")


def test_a_fresh_head_on_quantized_weights_is_plain(tiny: Any) -> None:
    options: dict[str, Any] = {"task": "sequence-classification", "num_labels": 3, "pad_token_id": 0}
    with pytest.warns(PolyllamaWarning, match=r"score\.weight not stored, starting from random values"):
        llm = Llama.load(tiny(4, 32), fresh_head=True, backend="reference", **options)
    assert {p.name: p.bits for p in llm.graph.parameters() if p.role.startswith("head")} == {"score.weight": None}
