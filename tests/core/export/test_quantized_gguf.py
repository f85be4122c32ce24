"""Quantized matrices in GGUF: what asks for them, what they hold, and what GGUF has no type for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from checkpoint_models import our_logits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from polyllama import convert
from polyllama.cli.main import main
from polyllama.core.checkpoint.gguf.quantizing import gguf_quantizing
from polyllama.core.checkpoint.huggingface.safetensors import SafetensorsFile
from polyllama.core.checkpoint.huggingface.save_safetensors import save_safetensors
from polyllama.core.checkpoint.opening import open_checkpoint
from polyllama.core.errors import CheckpointError, PolyllamaWarning, UnsupportedError
from polyllama.core.quantization.affine import dequantize, quantize_symmetric
from tiny_models import TinyModels

SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
pytestmark = pytest.mark.filterwarnings("ignore:converted without a tokenizer", "ignore:the format cannot say")


def stored(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Type and values of each tensor of a file, by the gguf package."""
    found = gguf.GGUFReader(path).tensors
    return {t.name: (t.tensor_type.name, gguf.quants.dequantize(t.data, t.tensor_type)) for t in found}


@pytest.mark.parametrize(
    ("asked", "kind", "bits"), [("int8-g32", "Q8_0", 8), ("int8", "Q8_0", 8), ("int4-g32", "Q4_1", 4)]
)
def test_what_is_asked_for_is_written(
    tiny_models: TinyModels, tmp_path: Path, capsys: Any, asked: str, kind: str, bits: int
) -> None:
    _, source = tiny_models(**SIZES)
    assert main(("convert", str(source), str(tmp_path / "x.gguf"), "--to", "gguf", "--quantize", asked)) == 0
    capsys.readouterr()
    plain, found = stored(convert(source, tmp_path / "plain.gguf", to="gguf").path), stored(tmp_path / "x.gguf")
    matrices = [name for name, (_, values) in plain.items() if values.ndim == 2]
    assert {found[name][0] for name in matrices} == {kind} and {found[n][0] for n in found if n not in matrices} == {
        "F32"
    }
    for name in matrices:
        groups = plain[name][1].reshape(-1, 32)
        span = np.abs(groups).max(1) * 2 if bits == 8 else groups.max(1) - groups.min(1)
        off = np.abs(found[name][1].reshape(-1, 32) - groups)
        assert (off <= (1.1 * span / (2**bits - 2))[:, None]).all(), name
    opened = open_checkpoint(tmp_path / "x.gguf", "gguf", [_Gguf()])
    packed = [opened.read(f"model.layers.0.mlp.down_proj.{part}") for part in ("weight", "scales", "biases")]
    assert np.array_equal(dequantize(*packed, bits=bits), found["blk.0.ffn_down.weight"][1])
    made = convert(source, tmp_path / "y.gguf", to="gguf", quantize=asked)
    assert made.types == {kind: len(matrices), "F32": len(plain) - len(matrices)}
    assert made.path.read_bytes() == (tmp_path / "x.gguf").read_bytes()


class _Gguf:
    """The reader alone."""

    name = "gguf"

    def load(self) -> Any:
        from polyllama.core.checkpoint.gguf.reader import GgufFormat

        return GgufFormat


def test_the_summary_names_what_is_in_the_file(tiny_models: TinyModels, tmp_path: Path, capsys: Any) -> None:
    _, source = tiny_models(**SIZES)
    for to, more, wanted in (
        ("gguf", ("--quantize", "int8"), r"gguf, Q8_0 (23 tensors) and F32 (7 tensors), 1 file"),
        ("gguf", ("--dtype", "float16"), r"gguf, F16 (23 tensors) and F32 (7 tensors), 1 file"),
        ("mlx", ("--quantize", "int4"), r"mlx, int4-g64 (23 tensors) and float32 (7 tensors), "),
        ("hf", (), r"huggingface, float32 (30 tensors), "),
    ):
        target = tmp_path / f"{to}{len(list(tmp_path.iterdir()))}{'.gguf' * (to == 'gguf')}"
        assert main(("convert", str(source), str(target), "--to", to, *more)) == 0
        assert wanted in capsys.readouterr().out


@pytest.mark.parametrize("asked", ["int8-g64", "int4-g128", "int5", "int2-g32", "int6-g64"])
def test_what_gguf_has_no_type_for_is_refused_before_anything_is_written(
    tiny_models: TinyModels, tmp_path: Path, asked: str
) -> None:
    _, source = tiny_models(**SIZES)
    nearest = {"int8-g64": "use int8-g32 (Q8_0)", "int4-g128": "use int4-g32 (Q4_1)"}
    nearest |= {"int6-g64": "use int8-g32 (Q8_0) or int4-g32 (Q4_1)"}
    with pytest.raises(UnsupportedError) as caught:
        convert(source, tmp_path / "x.gguf", to="gguf", quantize=asked)
    assert nearest.get(asked, "use int4-g32 (Q4_1) or int8-g32 (Q8_0)") == caught.value.hint
    assert f"quantize={asked!r}: GGUF has no type of {asked[3]} bits" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_weights_keep_their_bits(tiny_models: TinyModels, tmp_path: Path, group: int, symmetric: bool) -> None:
    _, source = tiny_models(**SIZES)
    folder = tmp_path / "mlx"
    convert(source, folder, to="mlx", quantize=f"int4-g{group}", dtype="float16")
    file = SafetensorsFile(folder / "model.safetensors")
    tensors = {name: np.array(file.read(name)) for name in file.tensors()}
    for name in [name for name in tensors if name.endswith(".biases") and symmetric]:
        tensors[name] = tensors[name.replace(".biases", ".scales")] * np.float16(-8)
    save_safetensors(folder, tensors)
    made = convert(folder, tmp_path / "x.gguf", to="gguf")
    assert made.types == {"Q4_0" if symmetric else "Q4_1": 23, "F32": 7}
    parts = [tensors[f"model.layers.1.mlp.down_proj.{part}"] for part in ("weight", "scales", "biases")]
    assert np.array_equal(dequantize(*parts, bits=4), stored(made.path)["blk.1.ffn_down.weight"][1])
    assert np.array_equal(our_logits(folder), our_logits(made.path))


@pytest.mark.parametrize(("packed", "nearest"), [("int8-g32", "int8-g32"), ("int2-g32", "int4-g32")])
def test_packed_weights_that_no_type_holds_are_refused_unless_a_dtype_is_given(
    tiny_models: TinyModels, tmp_path: Path, packed: str, nearest: str
) -> None:
    _, source = tiny_models(**SIZES)
    convert(source, tmp_path / "mlx", to="mlx", quantize=packed, dtype="float16")
    said = f"no type of GGUF holds its groups of {packed} exactly.*give a dtype.*original with quantize='{nearest}'"
    with pytest.raises(UnsupportedError, match=said):
        convert(tmp_path / "mlx", tmp_path / "x.gguf", to="gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["mlx"]
    made = convert(tmp_path / "mlx", tmp_path / "x.gguf", to="gguf", dtype="float16")
    assert made.types == {"F16": 23, "F32": 7}


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, (3, 64), elements=st.floats(-60000, 60000, width=32)))
def test_symmetric_groups_are_those_of_llama_cpp(matrix: np.ndarray) -> None:
    """Scales to the bit; integers are nearest to what is stored, so they may be one off where d is rounded."""
    theirs = gguf.quants.quantize(matrix, gguf.GGMLQuantizationType.Q8_0).reshape(-1, 34)
    made = gguf_quantizing("int8")[1](matrix, "w")
    assert made.scales.dtype == made.biases.dtype == np.float16
    scales = np.ascontiguousarray(theirs[:, :2]).view(np.float16).reshape(3, 2)
    assert np.array_equal(made.scales, scales)
    ours = made.weight.view(np.uint8).reshape(-1, 32).astype(int) - 128
    assert (np.abs(ours - theirs[:, 2:].view(np.int8))[made.scales.reshape(-1) > 1e-3] <= 1).all()
    off = np.abs(dequantize(*made, bits=8) - matrix).reshape(3, 2, 32)
    wide = made.scales.astype(np.float32)[..., None]
    top = np.abs(matrix).reshape(3, 2, 32).max(-1, keepdims=True)
    assert (off <= np.maximum(wide * 0.501, top - 127 * wide) + 1e-6).all()


def test_values_that_half_precision_has_no_scale_for() -> None:
    with pytest.raises(CheckpointError, match="w holds values that are too large for scales in float16"):
        gguf_quantizing("int8")[1](np.full((1, 32), 1e8, np.float32), "w")
    exact = quantize_symmetric(np.full((1, 32), 1e8, np.float32))
    assert np.allclose(dequantize(*exact, bits=8), 1e8, rtol=1e-6)


def test_inputs_that_groups_do_not_divide_stay_as_they_are(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, source = tiny_models(**SIZES | {"intermediate_size": 100})
    with pytest.warns(
        PolyllamaWarning, match=r"layers\.0\.mlp\.down_proj, .* not quantized: groups of 32 do not divide"
    ):
        made = convert(source, tmp_path / "x.gguf", to="gguf", quantize="int8-g32")
    found = stored(made.path)
    assert found["blk.0.ffn_up.weight"][0] == "Q8_0"
    down = model.state_dict()["model.layers.0.mlp.down_proj.weight"].float().numpy()
    assert np.array_equal(found["blk.0.ffn_down.weight"][1], down)
    ours, theirs = our_logits(made.path), our_logits(source)
    assert np.abs(ours - theirs).max() <= 0.1 * np.abs(theirs).max()
    _, none = tiny_models(**SIZES | {"hidden_size": 40, "intermediate_size": 100})
    with pytest.raises(UnsupportedError, match="no module has inputs that divide into groups of 32"):
        convert(none, tmp_path / "y.gguf", to="gguf", quantize="int8")
