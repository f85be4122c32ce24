"""Weights packed ahead for the cpu backend: mapped as they are, and not used beside other weights."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaConfig, PolyllamaError, PolyllamaWarning
from polyllama.backends.cpu.backend import CpuBackend
from polyllama.core.checkpoint.huggingface.safetensors import SafetensorsFile
from support_processes import run_process
from tiny_models import SIZES

if importlib.util.find_spec("polyllama.backends.cpu._kernels") is None:
    pytest.skip("the native kernels were not built", allow_module_level=True)


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "tiny-int4"
    command = ["quantize", "tiny", str(folder), "--group-size", "32", "--pack", "cpu", "--json"]
    done = run_process([sys.executable, "-m", "polyllama", *command], capture_output=True, text=True, check=True)
    assert str(folder / "polyllama-cpu.packed") in done.stdout
    return folder


def copied(folder: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, to / "model"))


def test_a_packed_file_is_mapped_and_gives_the_same_tokens(packed_folder: Path, tmp_path: Path) -> None:
    plain = copied(packed_folder, tmp_path)
    (plain / "polyllama-cpu.packed").unlink()
    ours, theirs = (Llama.load(folder, backend="cpu") for folder in (packed_folder, plain))
    model, other = (llm.model for llm in (ours, theirs))
    for name, packed in model.weights.packed.items():  # type: ignore[attr-defined]
        base = packed.data
        while isinstance(base, np.ndarray):
            base = base.base
        assert type(base).__name__ in ("mmap", "memoryview"), name
        np.testing.assert_array_equal(packed.data, other.weights.packed[name].data)  # type: ignore[attr-defined]
    prompt = ours.tokenizer.encode("Once upon a time")
    first, second = (llm.forward([prompt]).logits for llm in (ours, theirs))
    np.testing.assert_array_equal(first, second)


def test_a_packed_file_of_other_weights_is_said_and_not_used(packed_folder: Path, tmp_path: Path) -> None:
    folder = copied(packed_folder, tmp_path)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000:] = bytes(1000)
    weights.write_bytes(bytes(content))
    with pytest.warns(PolyllamaWarning, match=r"polyllama-cpu.packed is not used \(it was made from other weights\)"):
        Llama.load(folder, backend="cpu")


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("cut", "tensor .* ends at byte"),
        ("zeros", "it is damaged"),
        ("layout", "it is damaged"),
        ("version", "it is of another version"),
        ("nothing", "is empty"),
    ],
)
def test_a_broken_packed_file_is_said_and_not_used(what: str, reason: str, packed_folder: Path, tmp_path: Path) -> None:
    folder = copied(packed_folder, tmp_path)
    packed = folder / "polyllama-cpu.packed"
    content = packed.read_bytes()
    half = len(content) // 2
    changed = {
        "cut": content[:-64],
        "zeros": content[:half] + bytes(20_000) + content[half + 20_000 :],
        # Scales of another kind and as many bytes: without the seal they would be taken for what they are not.
        "layout": content.replace(b'\\"scale\\": \\"bfloat16\\"', b'\\"scale\\": \\"float16\\" '),
        "version": content.replace(b'"version": "3"', b'"version": "9"'),
        "nothing": b"",
    }[what]
    assert changed != content
    packed.write_bytes(changed)
    with pytest.warns(PolyllamaWarning, match=rf"polyllama-cpu.packed is not used \({reason}") as said:
        llm = Llama.load(folder, backend="cpu")
    assert str(said[0].message).count(str(folder)) == 1 and "download" not in str(said[0].message)
    prompt = [[5, 6, 7]]
    np.testing.assert_array_equal(
        llm.forward(prompt).logits, Llama.load(packed_folder, backend="cpu").forward(prompt).logits
    )


def test_a_packed_folder_is_overwritten_as_warnings_advise(packed_folder: Path, tmp_path: Path) -> None:
    folder = copied(packed_folder, tmp_path)
    packed = folder / "polyllama-cpu.packed"
    before = packed.read_bytes()
    command = [sys.executable, "-m", "polyllama", "quantize", "tiny", str(folder), "--bits", "8", "--group-size", "32"]
    done = run_process([*command, "--pack", "cpu", "--overwrite"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert packed.read_bytes() != before and Llama.load(folder, backend="cpu").generate("Once", max_new_tokens=3).text
    done = run_process([*command, "--overwrite"], capture_output=True, text=True)
    assert done.returncode == 0 and not packed.exists(), done.stderr  # it would be of other weights


def test_a_folder_is_packed_where_it_lies(packed_folder: Path, tmp_path: Path) -> None:
    """Quantized already, with a file of other weights beside it; and not quantized at all."""

    def pack(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_process(
            [sys.executable, "-m", "polyllama", "pack", *arguments], capture_output=True, text=True, check=False
        )

    folder = copied(packed_folder, tmp_path)
    (folder / "polyllama-cpu.packed").write_bytes(b"of other weights")
    done = pack(str(folder))
    assert (done.returncode, done.stderr) == (0, "") and "polyllama-cpu.packed" in done.stdout
    assert (folder / "polyllama-cpu.packed").read_bytes() == (packed_folder / "polyllama-cpu.packed").read_bytes()
    plain = tmp_path / "plain"
    Llama.load("tiny", backend="cpu").save(plain)
    before = sorted(file.name for file in plain.iterdir())
    said = json.loads(pack(str(plain), "--json").stdout)
    assert said["packed"] == str(plain / "polyllama-cpu.packed") and said["bytes"] > 1e6
    assert sorted(file.name for file in plain.iterdir()) == sorted([*before, "polyllama-cpu.packed"])
    prompt = [[5, 6, 7]]
    logits = [Llama.load(source, backend="cpu").forward(prompt).logits for source in ("tiny", plain)]
    np.testing.assert_array_equal(*logits)
    for arguments, message in (
        ((str(tmp_path / "nowhere"),), "nowhere: is no folder"),
        ((str(tmp_path),), "holds no weights that an installed reader knows"),
        ((str(plain), "--backend", "reference"), "backend 'reference' has no format of its own to pack into"),
    ):
        done = pack(*arguments)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done


def test_a_packed_file_is_for_one_dtype(packed_folder: Path) -> None:
    """In float32 it is not looked at, and nothing needs to be said: the checkpoint is what counts."""
    assert Llama.load(packed_folder, backend="cpu", dtype="float32").dtype == "float32"


def test_only_files_can_be_packed() -> None:
    with pytest.raises(PolyllamaError):
        CpuBackend().pack(Path("no-such-folder"))


def test_a_change_between_the_samples_of_the_weights_is_noticed(tmp_path: Path) -> None:
    """One tensor in the middle of a file of some megabytes, of which samples are looked at, not all."""
    sizes = LlamaConfig(
        **{**SIZES, "hidden_size": 64, "intermediate_size": 2048, "dtype": "bfloat16", "num_attention_heads": 4}
    )
    folder = tmp_path / "model"
    Llama.load(sizes, load_format="dummy", backend="reference").save(folder)
    CpuBackend().pack(folder)
    weights, name = folder / "model.safetensors", "model.layers.1.self_attn.v_proj.weight"
    entry = SafetensorsFile(weights)
    before = Llama.load(folder, backend="cpu").model.weights[name]  # type: ignore[attr-defined]
    content = bytearray(weights.read_bytes())
    start = bytes(content).index(entry.read(name).tobytes())
    content[start + 100 : start + 110] = bytes(10)
    weights.write_bytes(bytes(content))
    with pytest.warns(PolyllamaWarning, match=r"polyllama-cpu.packed is not used \(it was made from other weights\)"):
        after = Llama.load(folder, backend="cpu").model.weights[name]  # type: ignore[attr-defined]
    assert (before != after).sum() == 5


def test_a_copy_of_a_packed_model_is_as_good(packed_folder: Path, tmp_path: Path) -> None:
    """Copying or downloading changes the time of a file and nothing in it."""
    folder = copied(packed_folder, tmp_path)
    os.utime(folder / "model.safetensors", (1e9, 1e9))
    model: Any = Llama.load(folder, backend="cpu").model
    base = next(iter(model.weights.packed.values())).data
    while isinstance(base, np.ndarray):
        base = base.base
    assert type(base).__name__ in ("mmap", "memoryview")
