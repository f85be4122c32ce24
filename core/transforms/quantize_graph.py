"""Graph to graph: linear layers and the embedding become quantized ones, as a config's settings say."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection
from typing import Any

from ..errors import CheckpointError, PolyllamaWarning, UnsupportedError
from ..graph.graph import Graph
from ..graph.nodes import Embedding, Linear
from ..graph.quantized import QuantizedEmbedding, QuantizedLinear
from ..quantization.affine import GROUP_SIZES
from ..quantization.settings import ModuleQuantization, Quantization, spellings


def quantizable(graph: Graph) -> dict[str, tuple[int, ...]]:
    """The modules with a matrix of their own that could be quantized, and its shape ``[out, in]``."""
    found: dict[str, tuple[int, ...]] = {}
    for node in graph.walk():
        if type(node) is Embedding:
            found[node.name] = (node.num_embeddings, node.dim)
        elif type(node) is Linear and node.tied_to is None:
            found[node.name] = (node.out_features, node.in_features)
    return found


def plan(graph: Graph, wanted: Quantization, *, group_is_asked_for: bool) -> Quantization:
    """Settings that name every module which `wanted` cannot treat like the others.

    Args:
        group_is_asked_for: a module that the group size does not divide is then an error; else it gets a smaller
            group, which a warning says.

    Raises:
        UnsupportedError: a module that no group divides, with its name and what to do.
    """
    modules, smaller = dict(wanted.modules), {}
    for name, (_, columns) in quantizable(graph).items():
        how = wanted.of(name)
        if how is None or columns % how.group_size == 0:
            continue
        fitting = [size for size in GROUP_SIZES if size < how.group_size and columns % size == 0]
        if not fitting or group_is_asked_for or name in wanted.modules:
            remedy = f"use int{how.bits}-g{fitting[-1]}, or leave" if fitting else "leave"
            pattern = f"*.{name.rpartition('.')[2]}" if "." in name else name
            raise UnsupportedError(
                f"{name} has {columns} inputs, which do not divide into groups of {how.group_size}",
                hint=f"{remedy} it out: polyllama quantize ... --module '{pattern}=none'",
            )
        modules[name] = ModuleQuantization(group_size=fitting[-1], bits=how.bits)
        smaller[name] = fitting[-1]
    if smaller:
        example, size = next(iter(smaller.items()))
        warnings.warn(
            f"{len(smaller)} modules, such as {example}, have inputs that groups of {wanted.group_size} do not divide: "
            f"they get groups of {size}",
            PolyllamaWarning,
            stacklevel=5,
        )
    return Quantization(group_size=wanted.group_size, bits=wanted.bits, modules=modules)


def as_stored(graph: Graph, said: Quantization, stored: Collection[str] | None) -> Quantization:
    """What a checkpoint's settings mean for its own tensors: modules stored as plain floats stay what they are.

    MLX's tools leave out modules that groups do not divide without a word in the config; which they are shows in the
    stored names alone (`stored`; ``None`` where there are no weights to look at).

    Raises:
        CheckpointError: nothing at all is stored as quantized, or in groups that cannot be.
    """
    modules = dict(said.modules)
    packed = 0
    shapes = quantizable(graph)
    heads = {node.name for node in graph.walk() if type(node) is Linear and node.of_head}
    for name, (_, columns) in shapes.items():
        how = said.of(name)
        if how is None:
            continue
        if stored is None:
            plain = columns % how.group_size != 0
        else:
            # A head that is not stored at all is a fresh one, which is plain; anything else is missing.
            plain = not any(f"{s}.scales" in stored for s in spellings(name)) and (
                name in heads or any(f"{s}.weight" in stored for s in spellings(name))
            )
        packed += not plain
        if plain:
            modules[name] = None
        elif columns % how.group_size:
            raise CheckpointError(
                f"the config says that {name} is quantized in groups of {how.group_size}, which do not divide its "
                f"{columns} inputs",
                hint="correct quantization in config.json",
            )
    if shapes and not packed and any(said.of(name) for name in shapes):
        raise CheckpointError(
            f"the config says that the weights are quantized ({said}), but none of them is",
            hint="remove quantization from config.json",
        )
    _warn_of_strangers(said, shapes, graph)
    return Quantization(group_size=said.group_size, bits=said.bits, modules=modules)


def _warn_of_strangers(said: Quantization, shapes: Collection[str], graph: Graph) -> None:
    """Settings of modules that the model does not have; a head's are another task's, or tied away."""
    known = {spelling for name in shapes for spelling in spellings(name)} | {"lm_head"}
    names = {node.path for node in graph.walk()}
    strangers = [name for name in said.modules if name not in known and name not in names and "." in name]
    if strangers:
        warnings.warn(
            f"the config's quantization names modules that the model does not have: {', '.join(strangers[:3])}",
            PolyllamaWarning,
            stacklevel=4,
        )


def quantize_graph(graph: Graph, settings: Quantization) -> Graph:
    """The graph with every linear layer and embedding that `settings` quantizes replaced.

    Raises:
        UnsupportedError: a module that its group size does not divide.
    """
    embed = graph.decoder.embed
    tied = settings.of(embed.name)

    def replaced(node: Any) -> Any:
        if type(node) is Embedding:
            how = settings.of(node.name)
            return node if how is None else _embedding(node, how)
        if type(node) is Linear:
            how = tied if node.tied_to == embed.name else settings.of(node.name)
            return node if how is None else _linear(node, how)
        return node.map_children(replaced)  # ropes stay the same objects

    head = None if graph.head is None else replaced(graph.head)
    return dataclasses.replace(graph, decoder=replaced(graph.decoder), head=head)


def _embedding(node: Embedding, how: ModuleQuantization) -> QuantizedEmbedding:
    _check(node.name, node.dim, how)
    return QuantizedEmbedding(node.name, node.num_embeddings, node.dim, how.group_size, how.bits)


def _linear(node: Linear, how: ModuleQuantization) -> QuantizedLinear:
    _check(node.name, node.in_features, how)
    return QuantizedLinear(
        node.name,
        node.in_features,
        node.out_features,
        how.group_size,
        how.bits,
        node.bias,
        node.partition,
        node.tied_to,
        node.role,
    )


def _check(name: str, columns: int, how: ModuleQuantization) -> None:
    if columns % how.group_size:
        raise UnsupportedError(
            f"{name} has {columns} inputs, which do not divide into groups of {how.group_size}",
            hint="choose a smaller group size, or leave this module out",
        )
