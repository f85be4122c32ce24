"""OpenVINO as a contender: models written for it compute what the checkpoint does, in the plugin's fused operations."""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaConfig
from polyllama.core.errors import UnsupportedError
from polyllama.core.export.quantize_checkpoint import quantize_checkpoint
from polyllama.plugins.bench.openvino_model import options, write_openvino
from polyllama.plugins.bench.random_models import write_checkpoint
from polyllama.plugins.bench.worker import OpenVino
from safetensors.numpy import load_file, save_file
from support_processes import run_process
from tiny_models import ROPE_TYPES, TinyModels, peer, relative_error

openvino = peer("openvino", "openvino")

pytestmark = pytest.mark.peers

TINY = Path(__file__).resolve().parents[3] / "models" / "tiny"
SIZES = {"vocab_size": 256, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
IDS = np.random.default_rng(5).integers(0, 90, (3, 30))
PIECES = ((0, 10), (10, 17), (17, 18), (18, 19), (19, 30))
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
FIELDS: dict[str, dict[str, Any]] = {
    "one key for all": {"num_key_value_heads": 1},
    "a key for each": {"num_key_value_heads": 6},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "head_dim": {"head_dim": 16},
    "gelu": {"hidden_act": "gelu"},
    "gelu_tanh": {"hidden_act": "gelu_pytorch_tanh"},
    "relu": {"hidden_act": "relu"},
    "epsilon": {"rms_norm_eps": 0.1},
}


def compiled(folder: Path, path: Path, **settings: str) -> Any:
    write_openvino(folder, path)
    return openvino.Core().compile_model(str(path), "CPU", settings | {"INFERENCE_NUM_THREADS": "1"})


def check(folder: Path, path: Path) -> None:
    """The last logits of every piece, each after those before it, are the reference's."""
    wanted = reference(folder)
    request = compiled(folder, path, **EXACT).create_infer_request()
    for start, stop in PIECES:
        places = np.tile(np.arange(start, stop), (len(IDS), 1))
        inputs = {"input_ids": IDS[:, start:stop], "position_ids": places, "beam_idx": np.arange(3, dtype=np.int32)}
        assert relative_error(request.infer(inputs)["logits"][:, 0], wanted[:, stop - 1]) < 1e-5


def reference(folder: Path) -> np.ndarray:
    return Llama.load(folder, backend="reference").forward(IDS).numpy()["logits"]


def random_model(folder: Path, kind: str) -> Path:
    write_checkpoint(folder, LlamaConfig(**SIZES, **HEADS), kind, pack=False)
    return folder


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16", "int4", "int4-g32", "int8", "int8-g128"])
def test_the_same_logits_from_the_same_weights(tmp_path: Path, kind: str) -> None:
    check(random_model(tmp_path / "model", kind), tmp_path / "model.xml")


@pytest.mark.parametrize("name", FIELDS)
def test_every_field(tiny_models: TinyModels, tmp_path: Path, name: str) -> None:
    check(tiny_models(**FIELDS[name])[1], tmp_path / "model.xml")


@pytest.mark.parametrize("name", ["linear", "llama3", "yarn", "partial"])
def test_every_rope(tiny_models: TinyModels, tmp_path: Path, name: str) -> None:
    if name == "partial":
        source = tiny_models()[1]
        folder = tmp_path / "partial"
        folder.mkdir()
        raw = json.loads((source / "config.json").read_text())
        raw["rope_parameters"]["partial_rotary_factor"] = 0.5
        (folder / "config.json").write_text(json.dumps(raw))
        (folder / "model.safetensors").symlink_to(source / "model.safetensors")
    else:
        folder = tiny_models(ROPE_TYPES[name])[1]
    check(folder, tmp_path / "model.xml")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the plugin fuses otherwise elsewhere")
@pytest.mark.parametrize("kind", ["bfloat16", "int4"])
def test_the_plugin_fuses_what_it_can(tmp_path: Path, kind: str) -> None:
    """Else its figures would not be its own."""
    found = compiled(random_model(tmp_path / "model", kind), tmp_path / "model.xml").get_runtime_model().get_ops()
    count = Counter(node.get_rt_info()["layerType"].astype(str) for node in found)
    layers = SIZES["num_hidden_layers"]
    assert count["ScaledDotProductAttention"] == layers and count["RoPE"] == 2 * layers
    assert count["RMS"] == 2 * layers + 1 and count["FullyConnected"] == 7 * layers + 1
    precisions = Counter(
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in found
        if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    )
    assert set(precisions) <= ({"i4"} if kind == "int4" else {"bf16", "f32"})


@pytest.mark.parametrize("kind", ["float32", "int4"])
def test_the_contender_as_it_is_measured(tmp_path: Path, kind: str) -> None:
    """With the plugin's own roundings; and its cache begins anew, for another number of rows."""
    wanted = reference(random_model(tmp_path / "model", kind))
    write_openvino(tmp_path / "model", tmp_path / "model.xml")
    contender = OpenVino(tmp_path / "model.xml", 1, "")
    for rows in (3, 1):
        contender.start(rows, 30)
        for start, stop in PIECES:
            contender.feed(IDS[:rows, start:stop].tolist())
            assert relative_error(contender.logits[:, 0], wanted[:rows, stop - 1]) < 0.05


def test_what_the_plugin_is_told(tmp_path: Path) -> None:
    wanted = {
        "float32": {"INFERENCE_PRECISION_HINT": "f32"},
        "bfloat16": {},
        "int4-g32": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "32"},
    }
    for kind, expected in wanted.items():
        write_openvino(random_model(tmp_path / kind, kind), tmp_path / "model.xml")
        assert options(openvino.Core().read_model(str(tmp_path / "model.xml"))) == expected


def test_half_precision_weights_are_marked(tmp_path: Path) -> None:
    """Else the plugin widens them all while loading, and that would be measured."""
    for kind, weights in (("bfloat16", 9 * SIZES["num_hidden_layers"] + 3), ("float32", 0)):
        write_openvino(random_model(tmp_path / kind, kind), tmp_path / "model.xml")
        layers = (tmp_path / "model.xml").read_text().split("<layer ")
        assert sum('type="Convert"' in layer and "decompression" in layer for layer in layers) == weights


def test_weights_with_biases_of_their_own_are_refused(tmp_path: Path) -> None:
    quantize_checkpoint(TINY, tmp_path / "packed", bits=4, group_size=32)
    with pytest.raises(UnsupportedError, match="embed_tokens: OpenVINO's models are written with symmetric weights"):
        write_openvino(tmp_path / "packed", tmp_path / "model.xml")


def test_scales_that_half_precision_has_not_are_refused(tmp_path: Path) -> None:
    folder = random_model(tmp_path / "model", "int8")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    for kind in ("scales", "biases"):
        tensors[f"{name}.{kind}"] *= tensors[f"{name}.{kind}"].dtype.type(2**-20)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UnsupportedError, match=f"{name}: its scales are not those of half precision"):
        write_openvino(folder, tmp_path / "model.xml")


def test_a_pass_without_its_logits_is_no_figure(tmp_path: Path) -> None:
    """OpenVINO may return nothing, and no error, which would look fast."""
    ops = openvino.opset13
    ids, places = (ops.parameter([-1, -1], np.int64, name) for name in ("input_ids", "position_ids"))
    beams = ops.parameter([-1], np.int32, "beam_idx")
    every = ops.result(ops.unsqueeze(ops.convert(ops.add(ids, places), "f32"), np.int64(2)))
    for name, node in {"input_ids": ids, "position_ids": places, "beam_idx": beams, "logits": every}.items():
        node.output(0).set_names({name})
    model = openvino.Model([every], [ids, places, beams], "all positions")
    model.set_rt_info("{}", ["polyllama", "options"])
    openvino.save_model(model, str(tmp_path / "model.xml"), compress_to_fp16=False)
    contender = OpenVino(tmp_path / "model.xml", 1, "")
    contender.start(2, 8)
    contender.feed([[1], [2]])
    with pytest.raises(SystemExit, match=r"logits of shape \[2, 3, 1\], wanted \[2, 1, vocab\]"):
        contender.feed([[1, 2, 3], [4, 5, 6]])


def test_a_whole_run(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    command = [sys.executable, "-m", "polyllama", "bench", "tiny", "--weights", "int4-g32,float32", "--rounds", "1"]
    command += ["--threads", "1", "--vs", "openvino", "--json", str(file)]
    done = run_process(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["machine"]["openvino"][0].isdigit()
    for measured in found["kinds"].values():
        for rates in measured["rates"].values():
            assert rates["openvino"][0] > 1
