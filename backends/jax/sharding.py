"""Weights spread over several devices, along the spec's ``partition`` marks (Shoeybi et al. 2019, arXiv:1909.08053)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ...core.errors import BackendError, warn
from ...core.graph.graph import Graph
from ...core.graph.nodes import Linear
from ...core.graph.quantized import QuantizedLinear


def partition_specs(graph: Graph, axis: str = "model") -> dict[str, PartitionSpec]:
    """How each parameter is split over the mesh axis called `axis`.

    A ``"column"`` Linear is split by its outputs, bias included, a ``"row"`` one by its inputs; the rest is on every
    device. A tied embedding is split as the head that uses it.
    """
    specs = {parameter.name: _spec() for parameter in graph.parameters()}
    for node in graph.walk():
        if not isinstance(node, Linear | QuantizedLinear) or node.partition is None:
            continue
        column = node.partition == "column"
        held = [node.weight_name] if isinstance(node, Linear) else node.tensor_names
        specs |= dict.fromkeys(held, _spec(axis, None) if column else _spec(None, axis))
        if node.bias and column:
            specs[f"{node.name}.bias"] = _spec(axis)
    return specs


def shard(params: Mapping[str, Any], graph: Graph, mesh: Mesh, axis: str = "model") -> dict[str, Any]:
    """`params` laid out over `mesh`; what runs on them then runs on all of its devices, with the same result.

    A tensor whose split extent is no multiple of the number of devices stays whole on every one, which is said.

    Raises:
        BackendError: the mesh has no such axis.
    """
    if axis not in mesh.shape:
        raise BackendError(f"the mesh has no axis {axis!r}, only {', '.join(map(str, mesh.axis_names))}")
    # Axes that XLA distributes by itself: with explicit ones each product of two split tensors would have to say how.
    mesh = Mesh(mesh.devices, mesh.axis_names)
    count = mesh.shape[axis]
    laid_out, whole = {}, []
    for name, spec in partition_specs(graph, axis).items():
        extents = [size for size, along in zip(params[name].shape, spec, strict=False) if along is not None]
        if any(size % count for size in extents):
            whole.append(f"{name} {list(params[name].shape)}")
            spec = _spec()
        laid_out[name] = jax.device_put(params[name], NamedSharding(mesh, spec))
    if whole:
        warn(f"not split over {count} devices, because its extent is no multiple: {', '.join(whole)}")
    return laid_out


def _spec(*axes: str | None) -> PartitionSpec:
    return PartitionSpec(*axes)  # type: ignore[no-untyped-call]
