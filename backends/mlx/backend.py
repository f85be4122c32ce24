"""The MLX backend: Apple silicon's GPU, and CPUs, as an ``mlx.nn.Module`` whose parameters are the checkpoint.

Importing this module does not import mlx.
"""

from __future__ import annotations

import functools
import importlib.util
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.backend.protocol import Availability, RealizeOptions
from ...core.errors import BackendUnavailableError

if TYPE_CHECKING:
    import numpy as np

    from ...core.config.schema import LlamaConfig
    from ...core.graph.graph import Graph
    from ...core.memory.estimate import MemoryEstimate, Workload
    from ...core.tasks.task import Task
    from .model import MlxModel


class MlxBackend:
    """MLX on the GPU of Apple silicon, or on a CPU."""

    name = "mlx"
    dtypes = ("float32", "bfloat16", "float16")
    trains = True

    def availability(self) -> Availability:
        """From the installed files and the machine; mlx itself is not imported."""
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
    ) -> MlxModel:
        """Build the module and hand it the weights, converted nowhere but where another dtype is asked for.

        Raises:
            BackendUnavailableError: mlx does not import here, or has no such device.
            BackendError: a dtype that MLX does not compute in.
        """
        try:
            import mlx.core  # noqa: F401
        except ImportError as error:
            raise BackendUnavailableError(
                f"mlx is installed but does not import: {str(error).splitlines()[0]}",
                hint="pip install --force-reinstall 'polyllama[mlx]'",
            ) from None
        from .model import realize

        return realize(graph, weights, options, config=config, task=task)


@functools.cache
def _availability() -> Availability:
    install = "pip install 'polyllama[mlx]'"
    spec = importlib.util.find_spec("mlx")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not any(True for folder in folders for _ in Path(folder).glob("core*.so")):
        return Availability(False, f"mlx is not installed; {install}")
    # The package `mlx` has the bindings; the library comes from `mlx-metal`, `mlx-cpu` or `mlx-cuda`.
    if not any(True for folder in folders for _ in Path(folder, "lib").glob("libmlx.*")):
        return Availability(False, f"mlx is installed without its library for this machine; {install}")
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return Availability(True, None, ("gpu", "cpu"))
    return Availability(True, "MLX has its GPU on Apple silicon only", ("cpu",))
