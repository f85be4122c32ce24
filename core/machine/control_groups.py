"""The control groups (cgroups) that this process is in: where its limits on processors and memory are written.

Linux has two versions of them and machines with both at once (hybrid). A process is in one group of each hierarchy, and
what is set for that group's parents holds for it as well. (Source: Linux's cgroups(7), proc(5).)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SYSTEM = Path("/")


@dataclass(frozen=True)
class ControlGroup:
    """One group's folder of files, and the version of control groups that says what they are called."""

    version: int
    folder: Path

    def read(self, name: str) -> str:
        """The text of one of its files; empty where there is none that can be read."""
        try:
            return (self.folder / name).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return ""

    def number(self, name: str) -> int | None:
        """The whole number in one of its files; ``None`` where there is none, as with ``max``."""
        try:
            return int(self.read(name))
        except ValueError:
            return None

    def numbers(self, name: str) -> dict[str, int]:
        """A file of lines of a name and a whole number each; empty where there is none that can be read."""
        pairs = (line.split() for line in self.read(name).splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def control_groups(controller: str, system: Path = SYSTEM) -> list[ControlGroup]:
    """The groups whose limits of one kind this process is held to: its own, then their parents, for both versions.

    Args:
        controller: ``"cpu"``, ``"memory"``: a name of version 1.
        system: the root of the file system that ``proc`` and the mounts are looked for in.
    """
    paths = {}
    for line in _lines(system / "proc" / "self" / "cgroup"):
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            paths[2] = path
        elif controller in controllers.split(","):
            paths[1] = path
    found: dict[Path, ControlGroup] = {}
    for version, root, mount in _mounts(controller, system):
        if version in paths:
            for folder in _upwards(PurePosixPath(paths[version]), root, system / mount.relative_to("/")):
                found.setdefault(folder, ControlGroup(version, folder))
    return list(found.values())


def _mounts(controller: str, system: Path) -> Iterator[tuple[int, PurePosixPath, PurePosixPath]]:
    """Version, the group that the mount shows as its root, and where it is mounted."""
    for line in _lines(system / "proc" / "self" / "mountinfo"):
        before, _, after = line.partition(" - ")
        place, kind = before.split(), after.split()
        if len(place) < 5 or len(kind) < 3:
            continue
        root, mount = (PurePosixPath(_unescaped(text)) for text in place[3:5])
        if not mount.is_absolute():
            continue
        if kind[0] == "cgroup2":
            yield 2, root, mount
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            yield 1, root, mount


def _upwards(path: PurePosixPath, root: PurePosixPath, mount: Path) -> Iterator[Path]:
    """The folder of a group and those of its parents, as far as the mount shows them.

    A container may see its own group alone, under a path that only its host knows: then that is the mount itself.
    """
    inside = path.relative_to(root).parts if path.is_relative_to(root) and ".." not in path.parts else ()
    for depth in range(len(inside), -1, -1):
        yield mount.joinpath(*inside[:depth])


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _unescaped(text: str) -> str:
    """Spaces and the like are three octal digits in ``mountinfo``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
