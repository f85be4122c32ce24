"""An adapter matched to a graph: pairs of small matrices, and tensors that replace the model's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoint.protocol import TensorInfo
from ...checkpoint.tensor_names import HEADS, head_of, spellings
from ...errors import CheckpointError, UnsupportedError, warn
from ...graph.graph import Graph
from ...graph.node import Parameter
from ...graph.nodes import Embedding, Linear
from ...graph.quantized import QuantizedLinear
from ...messages import counted, few, mention
from .adapter_config import CONFIG_NAME
from .adapter_file import AdapterFile
from .whole_tensors import with_whole

if TYPE_CHECKING:
    import numpy as np

    from ...config.schema import LlamaConfig

    Array = np.ndarray[Any, Any]

_PARTS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_B.bias": "b_bias",
    "lora_embedding_A": "a",
    "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}


@dataclass(frozen=True)
class Pair:
    """What an adapter adds to one layer; fields are names of its tensors.

    Attributes:
        a: ``[rank, in]``; b: ``[out, rank]``; b_bias: ``[out]``; magnitude: ``[out]`` (DoRA). `in` of an embedding is
            its number of tokens.
        scale: what the product of the two is multiplied by.
        turned: the two are an embedding's, of which this is the tied head: each takes the other's place, transposed.
    """

    module: str
    rank: int
    scale: float
    a: str
    b: str
    b_bias: str | None = None
    magnitude: str | None = None
    turned: bool = False


class Adapter:
    """A LoRA folder that PEFT or mlx-lm saved, checked against a graph.

    Args:
        path: the folder with adapter_config.json and adapter_model.safetensors, adapter_model.bin or
            adapters.safetensors; or such a file of weights.
        graph: the model it is for; its layers may be quantized.

    Attributes:
        pairs: by module of the graph.
        replaced: parameter of the graph -> tensor of the adapter that takes its place (``modules_to_save``, biases).
        copied: parameter of :attr:`graph` -> the model's own parameter whose values it has.
        graph: the model's with a head of its own, or another vocabulary, where the adapter brings these.
        untied: whether a head that is tied in the model is a matrix of its own with the adapter.

    Raises:
        CheckpointError: files are missing or damaged, tensors are of no module of the graph or of the wrong shape.
        UnsupportedError: something that is not done here; named.

    Warns:
        PolyllamaWarning: something in it has no use here, or is missing.
    """

    def __init__(self, path: str | Path, graph: Graph) -> None:
        self._file = AdapterFile(path)
        self.path, self.settings = self._file.folder, self._file.settings
        self._modules = {node.path: node for node in graph.walk() if node.path}
        self._headless = not any(p.of_head for p in graph.parameters()) and not _is_tied(graph)
        self._trained: dict[str, str] = {}
        parts, others, strangers = self._sorted()
        self.replaced = self._replacements(graph, others, strangers)
        self.graph, self.copied = with_whole(graph, self.replaced, self._file)
        self.untied = _is_tied(graph) and not _is_tied(self.graph)
        self._check_replaced()
        self._modules = {node.path: node for node in self.graph.walk() if node.path}
        self.pairs = {module: self._pair(module, found) for module, found in parts.items()}
        self._adapt_tied_heads()
        if not self.pairs and not self.replaced:
            raise CheckpointError(f"{self._file.path}: holds no tensors of an adapter")
        self._check_targets()
        self._check_patterns()

    def config(self, config: LlamaConfig) -> LlamaConfig:
        """The config that goes with :attr:`graph`."""
        rows: int = self.graph.decoder.embed.num_embeddings
        if self.untied:
            config = config.replace(tie_word_embeddings=False)
        return config if rows == config.vocab_size else config.replace(vocab_size=rows)

    def read(self, name: str) -> Array:
        """One of its tensors."""
        return self._file.read(name)

    def matrices(self, pair: Pair) -> tuple[Array, Array]:
        """A pair's ``a`` ``[rank, in]`` and ``b`` ``[out, rank]``."""
        a, b = self.read(pair.a), self.read(pair.b)
        return (b.T, a.T) if pair.turned else (a, b)

    def info(self, name: str) -> TensorInfo:
        """Dtype and shape of one of its tensors."""
        return self._file.tensors()[name]

    def _sorted(self) -> tuple[dict[str, dict[str, str]], list[str], list[str]]:
        """Module of the graph -> part -> tensor; the names of what is no part; those of parts of no module."""
        parts: dict[str, dict[str, str]] = {}
        others: list[str] = []
        strangers = []
        for name in self._file.tensors():
            match = re.fullmatch(r"(.+)\.(lora_\w+(?:\.\w+)?)", name)
            if match is None:
                others.append(name)
                continue
            part, module = _PARTS.get(match[2]), self._in_graph(match[1])
            if part is None or module is None:
                strangers.append(name)
                continue
            self._trained[module] = match[1]
            parts.setdefault(module, {})[part] = name
        return parts, others, strangers

    def _in_graph(self, module: str) -> str | None:
        """A module's name in the graph, whatever prefix the trunk has there."""
        return next((spelling for spelling in spellings(module) if spelling in self._modules), None)

    def _refuse(self, strangers: Iterable[str]) -> None:
        """Say what has no place in the model: of another task's head in a warning, where the model has none."""
        names = list(strangers)
        heads = [name for name in names if self._headless and head_of(name) is not None]
        rest = [name for name in names if name not in heads]
        if rest:
            hint = "the adapter was made for another model"
            tasks = {HEADS[head] for name in rest if (head := head_of(name)) is not None}
            if tasks:
                hint = f"the adapter has a head for {' or '.join(sorted(tasks))}: load it with that task"
            elif self._modules:
                hint += f"; this one's modules are such as {self._example()}"
            raise CheckpointError(
                f"{self._file.path}: {counted(len(rest), 'tensor is', 'tensors are')} of no module of this model: "
                + few(rest, 3),
                hint=hint,
            )
        if heads:
            warn(f"{self._file.path}: {few(heads, 3)} not used: of a head, which this task has not")

    def _example(self) -> str:
        return next((name for name, node in self._modules.items() if isinstance(node, (Linear, QuantizedLinear))), "")

    def _pair(self, module: str, found: Mapping[str, str]) -> Pair:
        node = self._modules[module]
        where = f"{self._file.path}: {module}"
        if isinstance(node, (Linear, QuantizedLinear)):
            wide, out = node.in_features, node.out_features
        elif isinstance(node, Embedding):
            wide, out = node.num_embeddings, node.dim
        else:
            raise UnsupportedError(f"{where} is a {type(node).__name__}; LoRA is done on linear layers and embeddings")
        missing = [part for part in ("a", "b") if part not in found]
        if missing:
            raise CheckpointError(f"{where} has no lora_{missing[0].upper()}", hint="save the adapter again")
        if self.settings.dora != ("magnitude" in found):
            raise CheckpointError(f"{where}: use_dora={self.settings.dora}, but its tensors say otherwise")
        if isinstance(node, Embedding) and ("magnitude" in found or "b_bias" in found):
            what = "DoRA" if "magnitude" in found else "lora_bias"
            raise UnsupportedError(f"{where}: {what} on an embedding is not done here", hint="merge it with peft")
        trained = self._trained[module]
        rank = self.settings.rank_of(trained)
        shapes = {"a": (rank, wide), "b": (out, rank), "b_bias": (out,), "magnitude": (out,)}
        for part, name in found.items():
            if self.info(name).shape != shapes[part]:
                raise CheckpointError(
                    f"{self._file.path}: {name} has shape {list(self.info(name).shape)}, wanted "
                    f"{list(shapes[part])} for rank {rank}",
                    hint=f"the adapter was made for another model, or r or rank_pattern in {CONFIG_NAME} is wrong",
                )
        return Pair(
            module,
            rank,
            self.settings.scale_of(trained),
            found["a"],
            found["b"],
            found.get("b_bias"),
            found.get("magnitude"),
        )

    def _adapt_tied_heads(self) -> None:
        """mlx-lm reads a tied head from the adapted embedding; PEFT leaves it as it was, or stores a pair for it."""
        for node in self.graph.walk() if self.settings.mlx else ():
            pair = self.pairs.get(node.shares_with or "")
            if pair is not None and node.path not in self.pairs:
                self.pairs[node.path] = replace(pair, module=node.path, turned=True)

    def _replacements(self, graph: Graph, others: Iterable[str], strangers: list[str]) -> dict[str, str]:
        parameters = {p.name for p in graph.parameters()}
        parameters |= {f"{node.path}.weight" for node in graph.walk() if node.shares_with}
        found: dict[str, str] = {}
        for name in others:
            wanted = next((spelling for spelling in spellings(name) if spelling in parameters), None)
            if wanted is None:
                strangers.append(name)
            else:
                found[wanted] = name
        self._refuse(strangers)
        return found

    def _check_replaced(self) -> None:
        parameters = {p.name: p for p in self.graph.parameters()}
        for wanted, name in self.replaced.items():
            parameter: Parameter = parameters[wanted]
            if parameter.bits is not None or parameter.purpose == "quantization":
                raise UnsupportedError(
                    f"{self._file.path}: replaces {name}, whose weights are packed", hint="load unquantized weights"
                )
            found = self.info(name).shape
            if _differ_in_labels(parameter, found):
                raise CheckpointError(
                    f"{self._file.path}: {name} is of a head for {counted(found[0], 'label')}, the model has "
                    f"{parameter.shape[0]}",
                    hint="load with " + mention("num_labels", found[0]),
                )
            if found != parameter.shape:
                raise CheckpointError(
                    f"{self._file.path}: {name} has shape {list(found)}, the model's is {list(parameter.shape)}",
                    hint="the adapter was made for another model, or its vocabulary was resized and the embedding "
                    "not saved with it (save_embedding_layers=True)",
                )

    def _check_targets(self) -> None:
        """Modules that the settings name: one of them is here, and those that are here have been adapted."""
        targets = self.settings.targets
        if isinstance(targets, str) or not targets:
            return  # a regular expression, or "all-linear"
        meant = [m for m in self._modules if any(_is_end(name, m) for name in targets)]
        if not meant:
            raise CheckpointError(
                f"{self.settings.file}: target_modules names {few(list(targets), 3)}, which no module of this model is "
                "called",
                hint=f"the adapter was made for another model; this one's modules are such as {self._example()}",
            )
        missing = [module for module in meant if module not in self.pairs]
        if missing and not self.settings.partial:
            warn(f"{self._file.path}: has no tensors for {few(missing, 3)}, which target_modules names: not adapted")

    def _check_patterns(self) -> None:
        unused = self.settings.unused_patterns(self._trained.values())
        if unused:
            warn(f"{self.settings.file}: {few(unused, 3)} is the name of no adapted module: not used")


def _is_tied(graph: Graph) -> bool:
    return any(node.shares_with for node in graph.walk())


def _is_end(name: str, module: str) -> bool:
    return any(spelling == name or spelling.endswith(f".{name}") for spelling in spellings(module))


def _differ_in_labels(parameter: Parameter, shape: tuple[int, ...]) -> bool:
    """Whether a stored tensor would fit a task's head of another number of labels."""
    wanted = tuple(parameter.shape)
    of_task = head_of(parameter.name) not in (None, "lm_head", "qa_outputs")
    return of_task and len(shape) == len(wanted) > 0 and shape[0] != wanted[0] and shape[1:] == wanted[1:]
