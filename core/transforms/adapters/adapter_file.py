"""An adapter's folder: its settings, and its tensors under one set of names, whoever saved it.

Names are PEFT's without the prefix that it adds: ``model.layers.0.self_attn.q_proj.lora_A.weight``. Whole tensors that
take the place of the model's are called as the model calls them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoint.huggingface.safetensors import SafetensorsFile
from ...checkpoint.protocol import TensorInfo
from ...checkpoint.tensor_names import without_wrappers
from ...dtypes import is_float
from ...errors import CheckpointError, InputError
from ...messages import subject
from .adapter_config import CONFIG_NAME, read_settings

if TYPE_CHECKING:
    import numpy as np

    from ...checkpoint.pytorch.torch_file import TorchFile

FILE_NAME = "adapter_model.safetensors"
PICKLED_NAME = "adapter_model.bin"
MLX_NAME = "adapters.safetensors"
PREFIX = "base_model.model."

MLX_PARTS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
"""mlx-lm's names of the tensors of a layer, and PEFT's; mlx-lm stores the two matrices the other way round."""


class AdapterFile:
    """The settings and tensors of an adapter.

    Args:
        path: the folder, or a file of weights in it.

    Attributes:
        folder: where its files are; path: the file of its weights.
        bases: tensors that PEFT stored with a layer that it adapted: the model's own, not trained.

    Raises:
        CheckpointError: files are missing or damaged, or two tensors have one name.
        UnsupportedError: another method than LoRA, or a variant that is not done here; named.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder, file = _places(path)
        self.settings = read_settings(self.folder / CONFIG_NAME)
        self.path = file or _weights_file(self.folder, mlx=self.settings.mlx)
        opened: SafetensorsFile | TorchFile
        if self.path.suffix == ".safetensors":
            opened = SafetensorsFile(self.path)
        else:
            from ...checkpoint.pytorch.torch_file import TorchFile as reader

            opened = reader(self.path)
        self._file = opened
        self._stored: dict[str, tuple[str, bool]] = {}
        self._tensors: dict[str, TensorInfo] = {}
        self.bases: set[str] = set()
        # PEFT may store what it saves whole under two names: the shorter is taken.
        for stored, info in sorted(opened.tensors().items(), key=lambda item: ".modules_to_save." in item[0]):
            self._take(stored, info)

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Dtype and shape of each tensor by its name here."""
        return self._tensors

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """One of its tensors."""
        stored, turned = self._stored[name]
        array = self._file.read(stored)
        return array.T if turned else array

    def _take(self, stored: str, info: TensorInfo) -> None:
        if not is_float(info.dtype):
            raise CheckpointError(f"{self.path}: {stored} holds {info.dtype}, wanted floats")
        bare = without_wrappers(stored, adapted=True).removeprefix(PREFIX)
        if ".original_module." in bare:
            return  # what was there before training, beside what took its place
        module, _, part = bare.rpartition(".")
        turned = False
        if self.settings.mlx and part in MLX_PARTS:
            bare, turned = f"{module}.{MLX_PARTS[part]}", part != "m"
        else:
            bare = re.sub(r"\.(lora_\w+)\.default(?=\.|$)", r".\1", bare)
        name = bare.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".")
        if ".base_layer." in name:
            name = name.replace(".base_layer.", ".")
            self.bases.add(name)
        if name in self._tensors:
            if ".modules_to_save." in stored:
                return
            raise CheckpointError(f"{self.path}: {self._stored[name][0]} and {stored} are the same tensor of the model")
        shape = info.shape[::-1] if turned else info.shape
        self._stored[name] = stored, turned
        self._tensors[name] = replace(info, shape=shape)


def folder_of(path: Any) -> Path:
    """The path that an adapter is named by.

    Raises:
        InputError: it is none.
    """
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise InputError(subject("adapter", path) + f" is {path!r}", hint="give the folder that peft saved it in")
    return Path(path).expanduser()


def _places(path: Any) -> tuple[Path, Path | None]:
    """The folder, and the file of weights where it is one that was named."""
    found = folder_of(path)
    if found.is_file():
        if found.name != CONFIG_NAME and found.suffix not in (".safetensors", ".bin"):
            raise CheckpointError(f"{path}: is no file of an adapter", hint="give the folder that peft saved it in")
        return found.parent, None if found.name == CONFIG_NAME else found
    if not found.is_dir():
        raise CheckpointError(f"{path}: there is no such folder", hint="an adapter is a folder that peft saved")
    return found, None


def _weights_file(folder: Path, *, mlx: bool) -> Path:
    names = (MLX_NAME,) if mlx else (FILE_NAME, PICKLED_NAME)
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise CheckpointError(f"{folder}: has no {' and no '.join(names)}", hint="save the adapter again")
