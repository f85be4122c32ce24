"""The cpu backend: native kernels for the processor at hand, and nothing else to install.

Importing this module loads neither NumPy nor the kernels; asking for its availability loads the kernels alone.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.backend.protocol import Availability, RealizeOptions
from ...core.errors import BackendUnavailableError, SettingsError

if TYPE_CHECKING:
    import numpy as np

    from ...core.config.schema import LlamaConfig
    from ...core.graph.graph import Graph
    from ...core.memory.estimate import MemoryEstimate, Workload
    from ...core.tasks.task import Task
    from .model import CpuModel

ISA_VARIABLE = "POLYLLAMA_CPU_ISA"
"""Environment variable that names the instruction set to use instead of the best."""

BUILD = (
    "install a C++20 compiler (g++ 11, clang 14 or later), then polyllama again: "
    "POLYLLAMA_BUILD_KERNELS=1 pip install --force-reinstall --no-deps --no-cache-dir polyllama (or its folder)"
)


class CpuBackend:
    """Kernels in C++ for AVX-512, AVX2, NEON, and any processor; float32, bfloat16, float16 and packed weights."""

    name = "cpu"
    dtypes = ("float32", "bfloat16", "float16")
    kv_caches = ("float32", "bfloat16", "float16", "int8")

    def __init__(self, isa: str | None = None) -> None:
        """Use the kernels for `isa`; by default the best that this machine has, or ``POLYLLAMA_CPU_ISA``."""
        self.isa = isa

    def availability(self) -> Availability:
        """Whether the kernels were built when polyllama was installed, and load; and whose run."""
        found = _availability()
        if not found.usable:
            return found
        try:
            text = f"runs as {instruction_set(self.isa)}; there are {', '.join(instruction_sets())}"
        except SettingsError as error:  # what loading a model will say
            text = f"set to what cannot be loaded: {error}"
        return Availability(True, text, found.devices)

    def memory(self, workload: Workload) -> MemoryEstimate:
        """What it takes: panels, caches and the buffers of a program."""
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
    ) -> CpuModel:
        """Pack the weights, one at a time, and lower the graph to a program.

        Raises:
            BackendUnavailableError: the kernels do not load here.
            BackendError: a dtype it does not compute in.
            SettingsError: ``POLYLLAMA_CPU_ISA`` names kernels that this machine cannot run.
        """
        isa = instruction_set(self.isa)
        from .model import realize

        return realize(graph, weights, options, config=config, task=task, isa=isa)

    def pack(self, folder: Path) -> Path:
        """Write a checkpoint's matrices as the kernels read them beside it, so that loading maps them and is done.

        Raises:
            BackendUnavailableError: the kernels do not load here.
            CheckpointError: no checkpoint, or a folder that cannot be written.
        """
        instruction_set()
        from ...core.loading.read_weights import described_weights
        from .model import own_dtype
        from .packed_file import write

        described, weights = described_weights(folder)
        return write(folder, described.graph, weights, own_dtype(described.graph, weights, "auto", described.config))


@functools.cache
def _availability() -> Availability:
    if importlib.util.find_spec("._kernels", __package__) is None:
        return Availability(False, f"its kernels were not built; {BUILD}")
    try:
        instruction_sets()
    except BackendUnavailableError as error:
        return Availability(False, str(error))
    return Availability(True, None, ("cpu",))


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that kernels were built for and this machine has, best first.

    Raises:
        BackendUnavailableError: the kernels do not load.
    """
    try:
        from . import _kernels
    except ImportError as error:
        reason = (str(error) or "no reason given").splitlines()[0]
        raise BackendUnavailableError(f"the cpu backend's kernels do not load: {reason}", hint=BUILD) from None
    return tuple(_kernels.instruction_sets())


def instruction_set(asked: str | None = None) -> str:
    """The instruction set to use: what was asked for, else what ``POLYLLAMA_CPU_ISA`` says, else the best.

    Raises:
        SettingsError: one that was not built or that this machine cannot run.
    """
    known = instruction_sets()
    wanted = (asked or os.environ.get(ISA_VARIABLE, "")).strip().lower().replace("-", "_")
    if wanted and wanted not in known:
        source = "instruction set" if asked else f"{ISA_VARIABLE}:"
        raise SettingsError(f"{source} {wanted!r} has no kernels that run here", hint=f"there are: {', '.join(known)}")
    return wanted or known[0]
