"""How many threads make sense: one for each physical core this process may use."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from ...core.machine.control_groups import SYSTEM, control_groups

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


def processors() -> int:
    """Threads that can run at one time in this process: what it may use, hyper-threads included.

    >>> physical_cores() <= processors()
    True
    """
    if sys.platform != "linux":
        return os.cpu_count() or 1
    allowed, limit = len(os.sched_getaffinity(0)), processor_limit()
    return allowed if limit is None else max(1, min(allowed, math.ceil(limit)))


def _linux_cores() -> int:
    allowed = os.sched_getaffinity(0)
    cores = set()
    for processor in allowed:
        try:
            siblings = (TOPOLOGY / f"cpu{processor}" / "topology" / "thread_siblings_list").read_text().strip()
        except OSError:
            siblings = str(processor)
        cores.add(siblings)
    limit = processor_limit()
    # Part of a processor is no thread's: with one more they would take turns in being stopped.
    return max(1, len(cores) if limit is None else min(len(cores), int(limit)))


def processor_limit(system: Path = SYSTEM) -> float | None:
    """Processors that control groups leave this process, the tightest of its own group's and all parents' limits.

    Both versions of control groups are read. ``None`` where nothing is limited.
    """
    found = []
    for group in control_groups("cpu", system):
        if group.version == 2:
            limit, _, period = group.read("cpu.max").partition(" ")
        else:
            limit, period = group.read("cpu.cfs_quota_us"), group.read("cpu.cfs_period_us")
        # What is not limited has "max" in version 2 and -1 in version 1.
        if limit.isdecimal() and period.isdecimal() and int(limit) and int(period):
            found.append(int(limit) / int(period))
    return min(found, default=None)


def _apple_cores() -> int:
    """Performance cores: threads on the others would only be waited for."""
    import ctypes

    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    for name in (b"hw.perflevel0.physicalcpu", b"hw.physicalcpu"):
        found = ctypes.CDLL(None).sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, 0)
        if found == 0 and value.value > 0:
            return value.value
    return 0
