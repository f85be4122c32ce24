"""The memories of this machine: its own, and those of its accelerators, found without importing a framework."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .control_groups import SYSTEM, control_groups

NO_LIMIT = 1 << 62
"""Version 1 of Linux's control groups writes no limit as the largest number of whole pages."""

APPLE_GPU_SHARE = 0.75
"""How much of a Mac's memory its GPU may use at once, as macOS sets it for most machines."""


@dataclass(frozen=True)
class DeviceMemory:
    """One memory.

    Attributes:
        name: ``"cpu"``, ``"cuda:0"``, ``"apple-gpu"``.
        description: what it is, for people.
        total, free: bytes; free is what is available now.
    """

    name: str
    description: str
    total: int
    free: int


def find_devices() -> tuple[DeviceMemory, ...]:
    """Every memory found here, the host's first."""
    found = []
    host = host_memory()
    if host is not None:
        found.append(host)
        if sys.platform == "darwin" and os.uname().machine == "arm64":
            share = int(host.total * APPLE_GPU_SHARE)
            found.append(DeviceMemory("apple-gpu", "the GPU's share of it", share, min(share, host.free)))
    return (*found, *_nvidia())


def memory_for(backend_device: str | None, devices: tuple[DeviceMemory, ...]) -> DeviceMemory | None:
    """The memory that a backend's device uses; ``None`` where it is not known.

    >>> host = DeviceMemory("cpu", "memory", 8, 4)
    >>> memory_for("cpu", (host,)).name, memory_for("tpu", (host,))
    ('cpu', None)
    """
    base, _, index = (backend_device or "cpu").partition(":")
    names = {d.name: d for d in devices}
    if base in ("cuda", "gpu"):
        return names.get(f"cuda:{index or 0}") or (names.get("apple-gpu") if base == "gpu" else None)
    if base == "mps":
        return names.get("apple-gpu")
    return names.get("cpu") if base == "cpu" else None


def host_memory() -> DeviceMemory | None:
    """This machine's memory, or the part of it that this process may use (a container's limit)."""
    total = free = 0
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        total = _kilobytes(fields.get("MemTotal", "0"))
        free = _kilobytes(fields.get("MemAvailable", fields.get("MemFree", "0")))
    elif sys.platform == "win32":
        total, free = _windows()
    elif "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        total = free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    container = container_memory() if sys.platform == "linux" else None
    if container is not None and container[0] < total:
        return DeviceMemory("cpu", "memory that this container may use", container[0], min(free, container[1]))
    return DeviceMemory("cpu", "this machine's memory", total, free) if total else None


def _kilobytes(text: str) -> int:
    return int(text.split()[0]) * 1024


def container_memory(system: Path = SYSTEM) -> tuple[int, int] | None:
    """Limit of this process's control groups, the lowest of them, and what the fullest has left; ``None``: no limit.

    Pages of files that were read count as left, as far as the system would drop them first.
    """
    found = []
    for group in control_groups("memory", system):
        if group.version == 2:
            names, cached = ("memory.max", "memory.current"), "inactive_file"
        else:
            names, cached = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"
        limit, used = (group.number(name) for name in names)
        if limit is not None and used is not None and 0 < limit < NO_LIMIT:
            droppable = group.numbers("memory.stat").get(cached, 0)
            found.append((limit, min(limit, max(0, limit - used + droppable))))
    return (min(limit for limit, _ in found), min(left for _, left in found)) if found else None


def _windows() -> tuple[int, int]:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "b", "c", "d", "e", "f")),
        )

    status = Status()
    status.length = ctypes.sizeof(status)
    kernel32 = getattr(ctypes, "windll").kernel32  # noqa: B009  # there on Windows only
    return (status.total, status.free) if kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else (0, 0)


def _nvidia() -> tuple[DeviceMemory, ...]:
    """NVIDIA GPUs, as the driver's own tool lists them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=index,name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return read_nvidia_smi(done.stdout)


def read_nvidia_smi(text: str) -> tuple[DeviceMemory, ...]:
    """The lines of ``nvidia-smi --query-gpu=index,name,memory.total,memory.free`` in mebibytes.

    >>> read_nvidia_smi("0, NVIDIA H100, 81559, 81000")[0].total
    85520809984
    """
    found = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and all(part.isdigit() for part in (parts[0], parts[2], parts[3])):
            found.append(DeviceMemory(f"cuda:{parts[0]}", parts[1], int(parts[2]) << 20, int(parts[3]) << 20))
    return tuple(found)


def plain_device(name: str) -> str:
    """A device by its usual name: of the CPU, and of Apple's GPU, there is one, so its number says nothing.

    >>> plain_device("cpu:0"), plain_device("cuda:0"), plain_device("cpu:1")
    ('cpu', 'cuda:0', 'cpu:1')
    """
    return name.removesuffix(":0") if name in ("cpu:0", "mps:0") else name


def numbered_device(number: int, backend: str | None = None) -> str:
    """The device that a number stands for: 0 and up accelerators in their order, below that the CPU.

    Args:
        backend: whose name of the device is wanted; CUDA's where none is named.

    >>> numbered_device(0), numbered_device(1, "jax"), numbered_device(-1)
    ('cuda:0', 'gpu:1', 'cpu')
    """
    if number < 0:
        return "cpu"
    kind = {"jax": "gpu", "mlx": "gpu"}.get((backend or "").partition(":")[0], "cuda")
    return f"{kind}:{number}"
