"""What :class:`~polyllama.backends.torch.model.TorchModel` has for training beside the module itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import array_api_compat.torch as xp
import torch
from torch import Tensor, nn

from ...core.backend.training import Measure
from ...core.forward.forward import length_ropes
from ...core.graph.nodes import Embedding, Linear
from .modules import Composite
from .tensors import from_numpy

if TYPE_CHECKING:
    import numpy as np

    from ...core.config.schema import LlamaConfig
    from ...core.forward.arguments import ForwardArguments
    from ...core.graph.graph import Graph
    from .module import LlamaModule


class TrainsModule:
    """Gradients, gradient checkpointing and another vocabulary, all of them the module's."""

    module: LlamaModule
    _differentiating = False

    def value_and_gradients(self, measure: Measure, arguments: ForwardArguments) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`polyllama.extend.Trains`."""
        trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self._differentiating = True
        try:
            with torch.enable_grad():
                value: Tensor = measure(xp, self.forward(arguments))  # type: ignore[attr-defined]
        finally:
            self._differentiating = False
        gradients = torch.autograd.grad(value, list(trained.values()), materialize_grads=True)
        return value.detach(), dict(zip(trained, gradients, strict=True))

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradients compute each layer anew while training."""
        return self.module.is_gradient_checkpointing

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """The module's own."""
        self.module.gradient_checkpointing_enable(gradient_checkpointing_kwargs)

    def gradient_checkpointing_disable(self) -> None:
        """The module's own."""
        self.module.gradient_checkpointing_disable()

    def resize(self, graph: Graph, config: LlamaConfig, changed: Mapping[str, np.ndarray]) -> None:
        """See :class:`polyllama.core.loading.resize.Resizes`."""
        module = self.module
        for name, array in changed.items():
            path, _, leaf = name.rpartition(".")
            old = module.get_parameter(name)
            tensor = from_numpy(array).to(old.device, old.dtype)
            setattr(module.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=old.requires_grad))
        _tell_sizes(module, graph)
        module._tie()
        module.graph, module.config, module._ropes = graph, config, length_ropes(graph)
        module._engine.move_to(module.device)  # frequencies are known by the ropes of the old graph
        self.graph, self.config = graph, config


def _tell_sizes(root: nn.Module, graph: Graph) -> None:
    """Tell the modules of `root` the nodes that they are by now, and so their sizes."""
    for node in graph.walk():
        name = node.path
        if not name:
            continue
        module: Any = root.get_submodule(name)
        composite = isinstance(module, Composite)
        if composite:
            module.node = node
        elif isinstance(node, Embedding):
            module.num_embeddings = node.num_embeddings
        elif isinstance(node, Linear):
            module.out_features = node.out_features
