"""How many threads make sense: one for each physical core this process may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")


def physical_cores() -> int:
    """Cores this process may run on, each counted once however many threads it has.

    >>> 1 <= physical_cores() <= (os.cpu_count() or 1)
    True
    """
    if sys.platform == "linux":
        return _linux_cores()
    if sys.platform == "darwin":
        return _apple_cores() or os.cpu_count() or 1
    return max(1, (os.cpu_count() or 2) // 2)


def _linux_cores() -> int:
    allowed = os.sched_getaffinity(0)
    cores = set()
    for processor in allowed:
        try:
            siblings = (TOPOLOGY / f"cpu{processor}" / "topology" / "thread_siblings_list").read_text().strip()
        except OSError:
            siblings = str(processor)
        cores.add(siblings)
    return max(1, min(len(cores), _quota(len(allowed))))


def _quota(most: int) -> int:
    """Whole processors that a container's limit (cgroup v2) leaves."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return most if limit == "max" else max(1, int(limit) // int(period))
    except (OSError, ValueError):
        return most


def _apple_cores() -> int:
    """Performance cores: threads on the others would only be waited for."""
    import ctypes

    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    for name in (b"hw.perflevel0.physicalcpu", b"hw.physicalcpu"):
        found = ctypes.CDLL(None).sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, 0)
        if found == 0 and value.value > 0:
            return value.value
    return 0
