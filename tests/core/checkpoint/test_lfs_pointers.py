"""Files that git left as pointers of Git LFS are called by their name, wherever one may lie."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from polyllama import Llama, LlamaConfig
from polyllama.core.errors import PolyllamaError
from polyllama.core.generation.defaults import GenerationDefaults

TINY = Path(__file__).parents[3] / "models" / "tiny"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 499723\n"


def _refused(path: Path, name: str) -> None:
    with pytest.raises(PolyllamaError, match=rf"/{re.escape(name)} is a Git LFS pointer.*`git lfs pull`"):
        Llama.load(path, backend="reference")


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "consolidated.00.pth",
        "model.gguf",
        "model.bin",
        "weights.pt",
    ],
)
def test_in_a_models_folder_and_alone(name: str, tmp_path: Path) -> None:
    for file in TINY.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    if name == "config.json":
        shutil.copy(TINY / "model.safetensors", tmp_path)
    (tmp_path / name).write_text(POINTER)
    _refused(tmp_path, name)
    if not name.endswith(".json") or "index" in name:
        _refused(tmp_path / name, name)


@pytest.mark.parametrize("name", ["params.json", "generation_config.json"])
def test_of_what_lies_beside(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(POINTER)
    read = LlamaConfig if name == "params.json" else GenerationDefaults
    with pytest.raises(PolyllamaError, match=rf"/{name} is a Git LFS pointer.*`git lfs pull`"):
        read.from_pretrained(tmp_path)


def test_of_adapters(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(POINTER)
    (tmp_path / "adapter_model.safetensors").write_text(POINTER)
    with pytest.raises(PolyllamaError, match=r"/adapter_config\.json is a Git LFS pointer.*`git lfs pull`"):
        Llama.load(TINY, backend="reference", adapter=tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        (tmp_path / name).write_text(POINTER)
        with pytest.raises(PolyllamaError, match=rf"/{name} is a Git LFS pointer.*`git lfs pull`"):
            Llama.load(TINY, backend="reference", adapter=tmp_path)
        (tmp_path / name).unlink()
