"""Graph to graph: linear layers and the embedding become quantized ones, as a config's settings say."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ..checkpoint.tensor_names import without_wrappers
from ..errors import CheckpointError, UnsupportedError, warn
from ..graph.graph import Graph
from ..graph.nodes import Embedding, Linear
from ..graph.quantized import QuantizedEmbedding, QuantizedLinear
from ..messages import counted, few, mention
from ..quantization.affine import GROUP_SIZES
from ..quantization.scheme import ModuleQuantization, Quantization, spellings

if TYPE_CHECKING:
    from ..quantization.torchao import TorchAoConfig


def quantizable(graph: Graph) -> dict[str, tuple[int, ...]]:
    """The modules with a matrix of their own that could be quantized, and its shape ``[out, in]``."""
    found: dict[str, tuple[int, ...]] = {}
    for node in graph.walk():
        if type(node) is Embedding:
            found[node.name] = (node.num_embeddings, node.dim)
        elif type(node) is Linear and node.tied_to is None:
            found[node.name] = (node.out_features, node.in_features)
    return found


def plan(graph: Graph, wanted: Quantization, *, group_is_asked_for: bool, only_group: bool = False) -> Quantization:
    """Settings that name every module which `wanted` cannot treat like the others.

    Args:
        group_is_asked_for: a module that the group size does not divide is then an error; else it gets a smaller
            group, which a warning says.
        only_group: there is no other group: a module that it does not divide stays plain, which a warning says.

    Raises:
        UnsupportedError: a module that no group divides, with its name and what to do.
    """
    modules, smaller, plain = dict(wanted.modules), {}, []
    shapes = quantizable(graph)
    for name, (_, columns) in shapes.items():
        how = wanted.of(name)
        if how is None or columns % how.group_size == 0:
            continue
        if only_group:
            modules[name] = None
            plain.append(name)
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
    if plain and all(wanted.of(name) is None or name in plain for name in shapes):
        raise UnsupportedError(
            f"no module has inputs that divide into groups of {wanted.group_size}, the only ones of this format",
            hint="leave " + mention("quantize") + " out",
        )
    if plain:
        warn(f"{few(plain, 3)} not quantized: groups of {wanted.group_size} do not divide the inputs")
    if smaller:
        example, size = next(iter(smaller.items()))
        count = counted(len(smaller), "module")
        have = "has" if len(smaller) == 1 else "have"
        warn(
            f"{count}, such as {example}, {have} inputs that groups of {wanted.group_size} do not divide: "
            f"they get groups of {size}"
        )
    return Quantization(group_size=wanted.group_size, bits=wanted.bits, modules=modules)


def left_plain(graph: Graph, asked: TorchAoConfig) -> dict[str, ModuleQuantization | None]:
    """The modules that torchao's config leaves plain: named ones, and by default the embedding and the head.

    Warns:
        PolyllamaWarning: a name of ``modules_to_not_convert`` that no module has.
    """
    shapes = quantizable(graph)
    ends = {graph.decoder.embed.name, *(node.name for node in graph.walk() if type(node) is Linear and node.of_head)}
    if asked.include_input_output_embeddings:
        ends = set()
    kept = {name for name in shapes if asked.keeps(name)}
    named = asked.modules_to_not_convert or ()
    idle = [one for one in named if not any(f".{one}." in f".{name}." for name in (*shapes, *ends))]
    if idle:
        warn(f"modules_to_not_convert: no module is called {few(idle, 3)}")
    return dict.fromkeys(name for name in shapes if name in kept | ends)


def as_stored(graph: Graph, said: Quantization, stored: Collection[str] | None) -> Quantization | None:
    """What a checkpoint's settings mean for its own tensors: modules stored as plain floats stay what they are.

    MLX's tools leave out modules that groups do not divide without a word in the config; which they are shows in the
    stored names alone (`stored`; ``None`` where there are no weights to look at). Where nothing at all is stored as
    quantized, the settings are left over from what the weights were made of: a warning says so, and there are none.

    Raises:
        CheckpointError: modules are stored in groups that cannot be.
    """
    if stored is not None:
        stored = {*stored, *map(without_wrappers, stored)}
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
        warn(f"the config says that the weights are quantized ({said}), but none of them is: they are read as they are")
        return None
    _warn_of_strangers(said, shapes, graph)
    return Quantization(group_size=said.group_size, bits=said.bits, modules=modules)


def _warn_of_strangers(said: Quantization, shapes: Collection[str], graph: Graph) -> None:
    """Settings of modules that the model does not have; a head's are another task's, or tied away."""
    known = {spelling for name in shapes for spelling in spellings(name)} | {"lm_head"}
    names = {node.path for node in graph.walk()}
    strangers = [name for name in said.modules if name not in known and name not in names and "." in name]
    if strangers:
        warn(f"the config's quantization names modules that the model does not have: {', '.join(strangers[:3])}")


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
