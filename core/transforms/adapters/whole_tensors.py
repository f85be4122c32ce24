"""What whole tensors of an adapter change of a graph: a head that is no longer tied, another number of tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...errors import CheckpointError, UnsupportedError
from ...graph.graph import Graph
from ...graph.nodes import Embedding, Linear
from ...messages import counted
from .adapter_file import AdapterFile
from .graph_changes import map_nodes


def with_whole(graph: Graph, replaced: Mapping[str, str], file: AdapterFile) -> tuple[Graph, dict[str, str]]:
    """The graph that has room for the tensors that an adapter brings whole.

    A head that is tied to the embedding gets a matrix of its own where the adapter has one, and where it has trained
    the embedding alone: PEFT then leaves the head at the table from before. The vocabulary has as many tokens as the
    adapter's embedding has rows.

    Args:
        replaced: parameter of the graph, or weight of a tied head -> tensor of the adapter.

    Returns:
        The graph; and by name those of its parameters that start from another one's values in the model.

    Raises:
        UnsupportedError: the vocabulary has another size, and the adapter has no head to go with it.
        CheckpointError: the adapter's embedding is no matrix.
    """
    embed = graph.decoder.embed
    table = f"{embed.name}.weight"
    stored = replaced.get(table)
    trained_alone = stored is not None and stored not in file.bases and not file.settings.mlx
    rows = embed.num_embeddings
    if stored is not None:
        shape = file.tensors()[stored].shape
        if len(shape) != 2:
            raise CheckpointError(
                f"{file.path}: {stored} has shape {list(shape)}, wanted [tokens, {embed.dim}]",
                hint="the adapter was made for another model",
            )
        rows = shape[0]
    copied: dict[str, str] = {}

    def resized(node: Any) -> Any:
        if node is embed:
            return node if rows == embed.num_embeddings or type(node) is not Embedding else _of_rows(node, rows)
        own = f"{node.path}.weight"
        if node.shares_with == embed.name and (own in replaced or trained_alone):
            if own not in replaced:
                copied[own] = table
            node = Linear(node.name, node.in_features, node.out_features, node.bias, node.partition, None, node.role)
        if rows != embed.num_embeddings and getattr(node, "out_features", None) == embed.num_embeddings:
            if own not in replaced and node.shares_with is None and getattr(node, "of_head", False):
                raise UnsupportedError(
                    f"{file.path}: brings an embedding of {counted(rows, 'token')} for a model of "
                    f"{embed.num_embeddings}, and no {own} of as many",
                    hint="save it again with save_embedding_layers=True, which stores the head too",
                )
            if getattr(node, "of_head", False) and type(node) is Linear:
                return dataclasses.replace(node, out_features=rows)
        return node

    return map_nodes(graph, resized), copied


def _of_rows(embed: Embedding, rows: int) -> Embedding:
    return dataclasses.replace(embed, num_embeddings=rows)
