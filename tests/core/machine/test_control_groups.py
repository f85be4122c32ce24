"""Limits on processors and memory that containers set, read from folders laid out as Linux lays them out."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from polyllama.backends.cpu.topology import physical_cores, processor_limit
from polyllama.core.machine.control_groups import control_groups
from polyllama.core.machine.devices import container_memory, host_memory

V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
CPU = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:12 - cgroup cgroup rw,cpu,cpuacct"
MEMORY = "34 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
SYSTEMD = "35 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd"
UNIFIED = "36 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
DISK = "24 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw"


def laid_out(system: Path, groups: str, mounts: tuple[str, ...], files: Mapping[str, str]) -> Path:
    """A root with a process's groups, its mounts, and files of the groups."""
    own = {"proc/self/cgroup": groups, "proc/self/mountinfo": "\n".join((DISK, *mounts)) + "\n"}
    for name, text in {**own, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        file = system / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return system


def quota(folder: str, limit: int, period: int = 100000) -> dict[str, str]:
    return {f"{folder}cpu.cfs_quota_us": f"{limit}\n", f"{folder}cpu.cfs_period_us": f"{period}\n"}


def test_version_2_and_its_parents(tmp_path: Path) -> None:
    files = {"cpu.max": "max 100000\n", "a/cpu.max": "250000 100000\n", "a/b/cpu.max": "40000 10000\n"}
    assert processor_limit(laid_out(tmp_path, "0::/a/b\n", (V2,), files)) == 2.5
    (tmp_path / "sys/fs/cgroup/a/cpu.max").write_text("max 100000\n")
    assert processor_limit(tmp_path) == 4
    (tmp_path / "sys/fs/cgroup/a/b/cpu.max").write_text("max 100000\n")
    assert processor_limit(tmp_path) is None


def test_version_1_and_its_parents(tmp_path: Path) -> None:
    groups = "4:memory:/elsewhere\n3:cpu,cpuacct:/a/b\n1:name=systemd:/a\n"
    files = {**quota("cpu,cpuacct/", -1), **quota("cpu,cpuacct/a/", 300000), **quota("cpu,cpuacct/a/b/", 75000, 50000)}
    laid_out(tmp_path, groups, (CPU, SYSTEMD), files | quota("cpu,cpuacct/elsewhere/", 10))
    assert processor_limit(tmp_path) == 1.5
    laid_out(tmp_path, groups, (CPU, SYSTEMD), quota("cpu,cpuacct/a/b/", -1))
    assert processor_limit(tmp_path) == 3
    laid_out(tmp_path, groups, (CPU, SYSTEMD), quota("cpu,cpuacct/a/", -1))
    assert processor_limit(tmp_path) is None


def test_both_versions_at_once(tmp_path: Path) -> None:
    """Hybrid: controllers are of version 1, version 2 keeps names alone, or takes one controller over."""
    groups = "3:cpu,cpuacct:/job\n1:name=systemd:/\n0::/user.slice\n"
    laid_out(tmp_path, groups, (CPU, SYSTEMD, UNIFIED), {**quota("cpu,cpuacct/job/", 200000), "unified/x": ""})
    assert processor_limit(tmp_path) == 2
    laid_out(tmp_path, groups, (CPU, SYSTEMD, UNIFIED), {"unified/user.slice/cpu.max": "100000 100000"})
    assert processor_limit(tmp_path) == 1
    versions = [(group.version, group.folder.name) for group in control_groups("cpu", tmp_path)]
    assert versions == [(1, "job"), (1, "cpu,cpuacct"), (2, "user.slice"), (2, "unified")]


@pytest.mark.parametrize(
    ("group", "root", "folder"),
    [
        ("/docker/abc", "/docker/abc", ""),  # the container's own group is mounted, under its host's name for it
        ("/docker/abc/inner", "/docker/abc", "inner/"),  # and a group made inside
        ("/docker/abc", "/docker/ab", ""),  # a name that only begins alike
        ("/docker/abc", "/", ""),  # as version 1 without a name space shows it: no such folder, the mount's limit holds
        ("/../other", "/", ""),  # a process from outside the name space
        ("/with space/inner", r"/with\040space", "inner/"),
    ],
)
def test_groups_of_containers(tmp_path: Path, group: str, root: str, folder: str) -> None:
    mount = CPU.replace(" / /sys", f" {root} /sys")
    files = {**quota(f"cpu,cpuacct/{folder}", 700000), **quota("other/", 100)}  # the last is beside the mount
    laid_out(tmp_path, f"3:cpu,cpuacct:{group}\n", (mount,), files)
    assert processor_limit(tmp_path) == 7


@pytest.mark.parametrize("text", ["", "max", "100000", "a b", "100000 0", "0 100000", "-5 100000"])
def test_what_is_no_limit_is_none(tmp_path: Path, text: str) -> None:
    laid_out(tmp_path, "0::/\n", (V2, "broken line", "a b c - d e f"), {"cpu.max": text})
    assert processor_limit(tmp_path) is None


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert processor_limit(tmp_path) is None and container_memory(tmp_path) is None
    laid_out(tmp_path, "no colons\n3:cpu\n", (CPU,), {})
    assert processor_limit(tmp_path) is None


def test_memory_of_both_versions_and_of_parents(tmp_path: Path) -> None:
    two = tmp_path / "two"
    files = {"memory.max": "max", "a/memory.max": "9000", "a/memory.current": "8500", "a/b/memory.max": "4000"}
    assert container_memory(laid_out(two, "0::/a/b\n", (V2,), {**files, "a/b/memory.current": "1000"})) == (4000, 500)
    one = tmp_path / "one"
    unlimited = {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "5"}
    laid_out(one, "4:memory:/a\n0::/\n", (MEMORY, UNIFIED), unlimited)
    assert container_memory(one) is None
    laid_out(one, "4:memory:/a\n", (MEMORY,), {"memory/a/memory.limit_in_bytes": "600"})
    assert container_memory(one) is None  # how much of it is used is not known
    laid_out(one, "4:memory:/a\n", (MEMORY,), {"memory/a/memory.usage_in_bytes": "700"})
    assert container_memory(one) == (600, 0)


def test_pages_of_files_are_given_back(tmp_path: Path) -> None:
    """Else there would be no room for a model just because it was downloaded a moment ago."""
    two, one = tmp_path / "two", tmp_path / "one"
    files = {"memory.max": "4000", "memory.current": "3900", "memory.stat": "anon 400\nfile 3500\ninactive_file 3000\n"}
    assert container_memory(laid_out(two, "0::/\n", (V2,), files)) == (4000, 3100)
    (two / "sys/fs/cgroup/memory.stat").write_text("broken\ninactive_file many\ninactive_file 1 2\n")
    assert container_memory(two) == (4000, 100)
    stat = "inactive_file 1\ntotal_inactive_file 500\n"  # the first without the groups inside
    files = {"memory.limit_in_bytes": "600", "memory.usage_in_bytes": "550", "memory.stat": stat}
    laid_out(one, "4:memory:/\n", (MEMORY,), {f"memory/{name}": text for name, text in files.items()})
    assert container_memory(one) == (600, 550)


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_threads_and_memory_keep_to_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    from polyllama.backends.cpu import topology
    from polyllama.core.machine import devices

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(1000, 1008)))  # cores that say nothing
    for limit, threads in ((None, 8), (3.9, 3), (0.5, 1), (64.0, 8)):
        monkeypatch.setattr(topology, "processor_limit", lambda limit=limit: limit)
        assert physical_cores() == threads
    monkeypatch.setattr(devices, "container_memory", lambda: (1 << 20, 1000))
    memory = host_memory()
    assert memory is not None and (memory.total, memory.free) == (1 << 20, 1000) and "container" in memory.description
