"""The format: a folder of config.json, weights.npz, and tensors.json, which gives each tensor's dtype and shape."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from polyllama.extend import (
    CheckpointError,
    LlamaConfig,
    ModelToWrite,
    TensorInfo,
    numpy_dtype,
    own_config,
    parse_strict_json,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHTS, TENSORS = "weights.npz", "tensors.json"
DAMAGED = "the file is damaged: write it again"


class NpzCheckpoint:
    """An open folder. Weights are read when they are asked for, one at a time."""

    format = "npz"

    def __init__(self, path: Path) -> None:
        self.path = path if path.is_dir() else path.parent
        self._file = self.path / WEIGHTS
        try:
            self._archive = np.load(self._file, allow_pickle=False)
            described = (self.path / TENSORS).read_bytes()
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{self.path}: cannot be opened ({error})", hint=DAMAGED) from None
        self._tensors = {}
        for name, (dtype, shape) in parse_strict_json(described, self.path / TENSORS, "list of tensors").items():
            self._tensors[name] = TensorInfo(name, dtype, tuple(shape), self._file)

    def config(self, **overrides: Any) -> LlamaConfig:
        """The configuration in config.json, with fields overridden."""
        with own_config():
            return LlamaConfig.from_pretrained(self.path, **overrides)

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name, without reading any."""
        return self._tensors

    def read(self, name: str) -> NDArray[Any]:
        """One tensor."""
        if name not in self._tensors:
            raise CheckpointError(f"{self.path}: there is no tensor {name!r}")
        info = self._tensors[name]
        try:
            stored = self._archive[name]
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{self._file}: tensor {name!r} cannot be read ({error})", hint=DAMAGED) from None
        if stored.dtype != np.uint8 or stored.size != info.nbytes:
            raise CheckpointError(f"{self._file}: tensor {name!r} is not what {TENSORS} says", hint=DAMAGED)
        array: NDArray[Any] = stored.view(numpy_dtype(info.dtype)).reshape(info.shape)
        return array


class NpzFormat:
    """Reader and writer."""

    suffix = ""  # a folder, not a single file
    keeps_packed = False
    sharded = False

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether the path is such a folder, or its weights."""
        return (path / WEIGHTS).is_file() if path.is_dir() else path.name == WEIGHTS

    @staticmethod
    def open(path: Path) -> NpzCheckpoint:
        """Open it."""
        return NpzCheckpoint(path)

    @staticmethod
    def write(model: ModelToWrite, target: Path) -> None:
        """Write the model into the folder `target`, one tensor at a time.

        An archive has no bfloat16, so it holds each tensor's bytes.
        """
        infos = {name: model.weights.info(name) for name in model.weights}
        with zipfile.ZipFile(target / WEIGHTS, "w") as archive:
            for name, array in model.weights.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        described = {name: (info.dtype, info.shape) for name, info in infos.items()}
        (target / TENSORS).write_text(json.dumps(described), encoding="utf-8")
        (target / "config.json").write_text(model.config.to_json_string(), encoding="utf-8")
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(target)
