"""The JAX backend: the spec's own definitions under ``jit``, on CPU, GPU and TPU.

Importing this module does not import JAX.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.backend.protocol import Availability, RealizeOptions
from ...core.plugin_system.entry_points import installed_version

if TYPE_CHECKING:
    import numpy as np

    from ...core.config.schema import LlamaConfig
    from ...core.graph.graph import Graph
    from ...core.memory.estimate import MemoryEstimate, Workload
    from ...core.tasks.task import Task
    from .model import JaxModel


class JaxBackend:
    """JAX on whichever device its installed plugins reach."""

    name = "jax"
    dtypes = ("float32", "bfloat16", "float16")
    trains = True

    def availability(self) -> Availability:
        """From the installed packages and the drivers present; JAX itself is not imported."""
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
    ) -> JaxModel:
        """Put the weights on the device as a pytree; what runs them is compiled when it is first needed."""
        from .realize import realize

        return realize(graph, weights, options, config=config, task=task)


@functools.cache
def _availability() -> Availability:
    if importlib.util.find_spec("jax") is None:
        return Availability(False, "jax is not installed; pip install 'polyllama[jax]'")
    if importlib.util.find_spec("jaxlib") is None:
        return Availability(False, "jax is installed without jaxlib; pip install 'polyllama[jax]'")
    devices = ["cpu"]
    reason = None
    installed = _distributions()
    if any(name.startswith("libtpu") for name in installed) and _exists("/dev/accel0", "/dev/vfio/0"):
        devices.insert(0, "tpu")
    if any(name.startswith(("jax-cuda", "jax-rocm")) for name in installed):
        if _gpu_driver():
            devices.insert(0, "gpu")
        else:
            reason = "no GPU driver found"
    elif devices == ["cpu"]:
        reason = f"jaxlib {installed_version('jaxlib')} without a GPU plugin; pip install 'jax[cuda12]' brings NVIDIA's"
    return Availability(True, reason, tuple(devices))


def _distributions() -> list[str]:
    """Names of the installed packages that bring JAX to accelerators, looked for one by one."""
    candidates = ("jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm60-plugin", "jax-rocm7-plugin", "libtpu")
    return [name for name in candidates if installed_version(name)]


def _gpu_driver() -> bool:
    """Whether an NVIDIA or AMD driver is loaded, from the file system alone."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return _exists("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def _exists(*paths: str) -> bool:
    return any(Path(path).exists() for path in paths)
