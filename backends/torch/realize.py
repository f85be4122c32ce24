"""Realizing a graph on torch: the module, and each tensor where and as it is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...core.backend.protocol import RealizeOptions
from ...core.checkpoint.weights import release
from ...core.dtypes import name_of
from ...core.errors import BackendUnavailableError
from ...core.graph.from_config import build_graph
from ...core.messages import mention
from .model import TorchModel
from .pretrained import LlamaPreTrainedModel, make_module
from .tensors import dtype_of, from_numpy

if TYPE_CHECKING:
    import numpy as np

    from ...core.config.schema import LlamaConfig
    from ...core.graph.graph import Graph
    from ...core.tasks.task import Task


def realize(
    graph: Graph,
    weights: Mapping[str, np.ndarray],
    options: RealizeOptions,
    *,
    config: LlamaConfig,
    task: Task,
) -> TorchModel:
    """Build the module on no device at all, then hand it each tensor where and as it is wanted."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)  # the process's, as torch has no other
    device = torch.device(options.device or _best_device())
    _check_device(device)
    dtype = None if options.dtype == "auto" else dtype_of(options.dtype)
    if dtype is None:
        stored = getattr(weights, "dtype", None) or "float32"
        dtype = dtype_of(config.dtype or stored)
    module = make_module(graph, config, task, options.attn_implementation or "sdpa")
    for parameter in graph.parameters():
        # Packed words stay what they are; torch knows no uint32 by the name the graph has for it.
        held = None if parameter.bits is not None else dtype
        read = from_numpy(weights[parameter.name])
        tensor = read.to(device=device, dtype=held)
        if tensor is not read:  # else it is the mapped file itself
            release(weights, parameter.name)
        trained = parameter.bits is None and parameter.purpose != "quantization"
        path, _, leaf = parameter.name.rpartition(".")
        setattr(module.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=trained))
    module._tie()
    _place_what_is_not_the_graphs(module, graph, device, dtype)
    return TorchModel(module.eval())


def _place_what_is_not_the_graphs(module: nn.Module, graph: Graph, device: torch.device, dtype: torch.dtype) -> None:
    """Parameters that a class of the user's own adds, where and in what the others are."""
    known = {parameter.name for parameter in graph.parameters()}
    for name, parameter in module.named_parameters():
        if name not in known:
            parameter.data = parameter.data.to(device, dtype if parameter.is_floating_point() else None)
    for buffer in module.buffers():
        buffer.data = buffer.data.to(device)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_device(device: torch.device) -> None:
    """What the cheap look before importing torch could not know."""
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError(
            f"torch {torch.__version__} sees no CUDA device",
            hint="use " + mention("device", "cpu") + ", or install a CUDA build and driver",
        )
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise BackendUnavailableError(f"there is no {device}: torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise BackendUnavailableError("torch sees no MPS device", hint="use " + mention("device", "cpu"))


def build_module(config: LlamaConfig, task: Task, *, dtype: Any = "float32", seed: int = 0) -> LlamaPreTrainedModel:
    """A freshly initialized module to train: normal weights of ``config.initializer_range``, norms one, biases zero.

    >>> from polyllama import LlamaConfig
    >>> from polyllama.plugins.tasks.causal_lm import CausalLM
    >>> config = LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
    ...                      num_attention_heads=2)
    >>> module = build_module(config, CausalLM())
    >>> module(input_ids=torch.tensor([[1, 2, 3]])).logits.shape
    torch.Size([1, 3, 32])
    """
    graph = build_graph(config, task)
    module = make_module(graph, config, task).to_empty(device="cpu").to(dtype_of(name_of(dtype)))
    module._tie()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for spec in graph.parameters():
            parameter = module.get_parameter(spec.name)
            if spec.purpose == "norm":
                parameter.fill_(1.0)
            elif spec.purpose == "bias":
                parameter.zero_()
            else:
                parameter.normal_(0.0, config.initializer_range, generator=generator)
    return module
