"""The tensors of an adapter, matched to a graph: pairs of small matrices, and tensors that replace the model's own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoint.base import TensorInfo
from ...checkpoint.huggingface.safetensors import SafetensorsFile
from ...dtypes import is_float
from ...errors import CheckpointError, InputError, UnsupportedError
from ...graph.graph import Graph
from ...graph.node import Parameter
from ...graph.nodes import Linear
from ...graph.quantized import QuantizedLinear
from ...messages import few, subject
from .adapter_config import CONFIG_NAME, read_settings

if TYPE_CHECKING:
    import numpy as np

FILE_NAME = "adapter_model.safetensors"
PREFIX = "base_model.model."

_PARTS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_B.bias": "b_bias",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}


@dataclass(frozen=True)
class Pair:
    """What an adapter adds to one linear layer; fields are names of its tensors.

    Attributes:
        a: ``[rank, in]``; b: ``[out, rank]``; b_bias: ``[out]``; magnitude: ``[out]`` (DoRA).
        scale: what the product of the two is multiplied by.
    """

    module: str
    rank: int
    scale: float
    a: str
    b: str
    b_bias: str | None = None
    magnitude: str | None = None


class Adapter:
    """A PEFT LoRA folder, checked against a graph.

    Args:
        path: the folder with adapter_config.json and adapter_model.safetensors.
        graph: the model it is for; its linear layers may be quantized.

    Attributes:
        pairs: by module of the graph.
        replaced: parameter of the graph -> tensor of the adapter that takes its place (``modules_to_save``, biases).
        untied: whether it brings a head of its own for a model whose head is tied.

    Raises:
        CheckpointError: files are missing or damaged, tensors are of no module of the graph or of the wrong shape.
        UnsupportedError: something that is not done here; named.
    """

    def __init__(self, path: str | Path, graph: Graph) -> None:
        self.path = folder_of(path)
        if self.path.is_file():
            self.path = self.path.parent
        if not self.path.is_dir():
            raise CheckpointError(f"{path}: there is no such folder", hint="an adapter is a folder that peft saved")
        self.settings = read_settings(self.path / CONFIG_NAME)
        self._file = SafetensorsFile(_weights_file(self.path))
        self.untied = False
        self._modules = {node.path: node for node in graph.walk() if node.path}
        parts, others = self._sorted()
        self.pairs = {module: self._pair(module, found) for module, found in parts.items()}
        self.replaced = self._replacements(graph, others)
        if not self.pairs and not self.replaced:
            raise CheckpointError(f"{self._file.path}: holds no tensors of an adapter")
        self._check_targets()

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """One of its tensors."""
        return self._file.read(name)

    def info(self, name: str) -> TensorInfo:
        """Dtype and shape of one of its tensors."""
        return self._file.tensors()[name]

    def _sorted(self) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
        """Module of the graph -> part -> tensor; and what is left, name in the model -> tensor."""
        parts: dict[str, dict[str, str]] = {}
        others: dict[str, str] = {}
        strangers = []
        for name, info in self._file.tensors().items():
            bare = name.removeprefix(PREFIX)
            if not is_float(info.dtype):
                raise CheckpointError(f"{self._file.path}: {name} holds {info.dtype}, wanted floats")
            match = re.fullmatch(r"(.+)\.(lora_\w+(?:\.\w+)?)", bare)
            if match is None:
                others[bare.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = name
                continue
            part, module = _PARTS.get(match[2]), self._in_graph(match[1])
            if match[2].startswith("lora_embedding"):
                raise UnsupportedError(
                    f"{self._file.path}: {match[1]} is adapted as an embedding, which is not done here",
                    hint="merge the adapter with peft",
                )
            if part is None or module is None:
                strangers.append(bare)
                continue
            parts.setdefault(module, {})[part] = name
        self._refuse(strangers)
        return parts, others

    def _in_graph(self, module: str) -> str | None:
        """A module's name in the graph, whatever prefix the trunk has there."""
        for spelling in (module, module.removeprefix("model."), f"model.{module}"):
            if spelling in self._modules:
                return spelling
        return None

    def _refuse(self, strangers: Iterable[str]) -> None:
        names = list(strangers)
        if names:
            raise CheckpointError(
                f"{self._file.path}: {len(names)} tensors are of no module of this model: {few(names, 3)}",
                hint="the adapter was made for another model"
                + ("" if not self._modules else f"; this one's modules are such as {self._example()}"),
            )

    def _example(self) -> str:
        return next((name for name, node in self._modules.items() if isinstance(node, (Linear, QuantizedLinear))), "")

    def _pair(self, module: str, found: Mapping[str, str]) -> Pair:
        node = self._modules[module]
        where = f"{self._file.path}: {module}"
        if not isinstance(node, (Linear, QuantizedLinear)):
            raise UnsupportedError(f"{where} is a {type(node).__name__}; LoRA is done on linear layers here")
        missing = [part for part in ("a", "b") if part not in found]
        if missing:
            raise CheckpointError(f"{where} has no lora_{missing[0].upper()}", hint="save the adapter again")
        if self.settings.dora != ("magnitude" in found):
            raise CheckpointError(f"{where}: use_dora={self.settings.dora}, but its tensors say otherwise")
        rank = self.settings.rank_of(module)
        shapes = {
            "a": (rank, node.in_features),
            "b": (node.out_features, rank),
            "b_bias": (node.out_features,),
            "magnitude": (node.out_features,),
        }
        for part, name in found.items():
            if self.info(name).shape != shapes[part]:
                raise CheckpointError(
                    f"{self._file.path}: {name.removeprefix(PREFIX)} has shape {list(self.info(name).shape)}, wanted "
                    f"{list(shapes[part])} for rank {rank}",
                    hint=f"the adapter was made for another model, or r or rank_pattern in {CONFIG_NAME} is wrong",
                )
        return Pair(module, rank, self.settings.scale_of(module), **found)

    def _replacements(self, graph: Graph, others: Mapping[str, str]) -> dict[str, str]:
        parameters = {p.name: p for p in graph.parameters()}
        found: dict[str, str] = {}
        strangers = []
        for bare, name in others.items():
            wanted = next((s for s in (bare, bare.removeprefix("model."), f"model.{bare}") if s in parameters), None)
            if wanted is None and self._is_tied_head(graph, bare):
                parameters[bare], wanted, self.untied = self._tied_weight(graph, bare), bare, True
            if wanted is None:
                strangers.append(bare)
                continue
            if parameters[wanted].bits is not None or parameters[wanted].purpose == "quantization":
                raise UnsupportedError(
                    f"{self._file.path}: replaces {bare}, whose weights are packed", hint="load unquantized weights"
                )
            if self.info(name).shape != parameters[wanted].shape:
                raise CheckpointError(
                    f"{self._file.path}: {bare} has shape {list(self.info(name).shape)}, the model's is "
                    f"{list(parameters[wanted].shape)}",
                    hint="the adapter was made for another model, or its vocabulary was resized",
                )
            found[wanted] = name
        self._refuse(strangers)
        embed = f"{graph.decoder.embed.name}.weight"
        if embed in found and not self.untied and any(node.shares_with for node in graph.walk()):
            raise UnsupportedError(
                f"{self._file.path}: replaces the embedding of a model whose head is tied to it",
                hint="merge the adapter with peft",
            )
        return found

    def _is_tied_head(self, graph: Graph, bare: str) -> bool:
        node = graph.head
        return isinstance(node, (Linear, QuantizedLinear)) and bool(node.tied_to) and bare == f"{node.name}.weight"

    def _tied_weight(self, graph: Graph, bare: str) -> Parameter:
        node = graph.head
        assert isinstance(node, (Linear, QuantizedLinear))  # its caller has looked
        return Parameter(bare, (node.out_features, node.in_features), node.role)

    def _check_targets(self) -> None:
        """Modules that the settings name and that nothing here is called."""
        if isinstance(self.settings.targets, str):
            return  # a regular expression, or "all-linear"
        ends = [name for name in self.settings.targets if not any(_is_end(name, module) for module in self._modules)]
        if ends:
            raise CheckpointError(
                f"{self.settings.file}: target_modules names {ends[0]!r}, which no module of this model is called",
                hint=f"the adapter was made for another model; this one's modules are such as {self._example()}",
            )


def folder_of(path: Any) -> Path:
    """The path that an adapter is named by.

    Raises:
        InputError: it is none.
    """
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise InputError(subject("adapter", path) + f" is {path!r}", hint="give the folder that peft saved it in")
    return Path(path).expanduser()


def _is_end(name: str, module: str) -> bool:
    return module == name or module.endswith(f".{name}") or f"model.{module}" == name


def _weights_file(folder: Path) -> Path:
    file = folder / FILE_NAME
    if not file.exists():
        pickled = (folder / "adapter_model.bin").exists()
        raise CheckpointError(
            f"{folder}: has no {FILE_NAME}" + (", only a pickle, which is never opened" if pickled else ""),
            hint="save it again with safe_serialization=True" if pickled else "save the adapter again",
        )
    return file
