"""The torch backend: CUDA, CPU and MPS, as an ``nn.Module`` whose ``state_dict`` is the checkpoint.

Importing this module does not import torch.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...core.backend.protocol import Availability, RealizeOptions
from ...core.plugin_system.entry_points import installed_version

if TYPE_CHECKING:
    import numpy as np

    from ...core.config.schema import LlamaConfig
    from ...core.graph.graph import Graph
    from ...core.memory.estimate import MemoryEstimate, Workload
    from ...core.tasks.task import Task
    from .model import TorchModel


class TorchBackend:
    """PyTorch on whichever device it has."""

    name = "torch"
    dtypes = ("float32", "bfloat16", "float16", "float64")
    trains = True
    attn_implementations = ("sdpa", "eager")

    def availability(self) -> Availability:
        """From the installed version and the drivers present; torch itself is not imported."""
        return _availability()

    def memory(self, workload: Workload) -> MemoryEstimate:
        """What `workload` takes; nothing is imported for it."""
        from .memory import estimate

        return estimate(workload)

    def realize(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        options: RealizeOptions,
        *,
        config: LlamaConfig,
        task: Task,
    ) -> TorchModel:
        """Build the module and hand it the weights, without copying where dtype and device allow."""
        from .realize import realize

        return realize(graph, weights, options, config=config, task=task)


def build_module(config: LlamaConfig, task: str | Task = "causal-lm", *, dtype: Any = "float32", seed: int = 0) -> Any:
    """A freshly initialized ``nn.Module`` to train; see :func:`polyllama.backends.torch.realize.build_module`."""
    from .realize import build_module as build

    if isinstance(task, str):
        from ...core.loading.tasks import find_task
        from ...core.plugin_system.manager import plugin_manager

        task = find_task(plugin_manager(), task, config)
    return build(config, task, dtype=dtype, seed=seed)


@functools.cache
def _availability() -> Availability:
    if importlib.util.find_spec("torch") is None:
        return Availability(False, "torch is not installed; pip install 'polyllama[torch]'")
    version = installed_version("torch") or "of unknown version"
    devices = ["cpu"]
    reason = None
    if sys.platform == "darwin" and platform.machine() == "arm64":
        devices.insert(0, "mps")
    elif "+cpu" in version:
        reason = f"torch {version} is a build without CUDA"
    elif _nvidia_driver():
        devices.insert(0, "cuda")
    else:
        reason = "no NVIDIA driver found"
    return Availability(True, reason, tuple(devices))


def _nvidia_driver() -> bool:
    """Whether an NVIDIA driver is loaded, from the file system alone."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(os.path.exists(path) for path in ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")) or bool(
        sys.platform == "win32" and os.path.exists(r"C:\Windows\System32\nvcuda.dll")
    )
