"""Finding the entry points of installed packages, without the cost of importlib.metadata.

Importing importlib.metadata takes some 20 ms (it brings the e-mail parser), which would be most of a short command's
start. The format it reads is small and fixed: ``<name>-<version>.dist-info/entry_points.txt`` in a folder of sys.path
(PyPA specifications "Recording installed projects" and "Entry points"). Where something less ordinary is about (a zip
on sys.path, an import hook that provides distributions of its own) importlib.metadata does the work.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder

_VALUE = re.compile(r"(?P<module>[\w.]+)\s*(:\s*(?P<attribute>[\w.]+)\s*)?(\[.*\]\s*)?$")


_STEM = re.compile(r"(?P<name>.+?)-(?P<version>\d[^-]*)(-py\d.*)?$")


@dataclass(frozen=True)
class EntryPoint:
    """One line of a package's entry points: what it is called, where its code is, which package it came from."""

    name: str
    value: str
    distribution: str
    version: str

    def split_value(self) -> tuple[str, str] | None:
        """The module and the dotted attribute ("" for the module itself), or None where the value is malformed.

        >>> EntryPoint("mine", "my_plugin.hooks:plugin", "my-plugin", "1.0").split_value()
        ('my_plugin.hooks', 'plugin')
        """
        match = _VALUE.match(self.value)
        return (match["module"], match["attribute"] or "") if match else None


def normalized(name: str) -> str:
    """A distribution's name as names are compared (PEP 503).

    >>> normalized("My_Plugin.x")
    'my-plugin-x'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def find_entry_points(group: str, paths: Sequence[str] | None = None) -> list[EntryPoint]:
    """Every entry point of one group, in the order of sys.path; of a package found twice only the first counts.

    Args:
        group: the entry point group, such as "polyllama".
        paths: folders to look in instead of sys.path.
    """
    if paths is None:
        paths = sys.path
        if _only_importlib_can_tell(paths):
            return list(_through_importlib(group))
    return list(_scan(group, paths))


def installed_version(name: str) -> str | None:
    """The version of the installed package `name`, as ``importlib.metadata.version`` has it; None without one.

    >>> installed_version("No_such-package") is None
    True
    """
    if _only_importlib_can_tell(sys.path):
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version(name)
        except PackageNotFoundError:
            return None
    wanted = normalized(name)
    for folder, found, its_version in _distributions(sys.path):
        if normalized(found) == wanted:
            return _name_and_version(folder, found, its_version)[1]
    return None


def _only_importlib_can_tell(paths: Sequence[str]) -> bool:
    if any(finder is not PathFinder and hasattr(finder, "find_distributions") for finder in sys.meta_path):
        return True
    return any(os.path.isfile(path) for path in paths)


def _through_importlib(group: str) -> Iterator[EntryPoint]:
    from importlib.metadata import entry_points

    for point in entry_points(group=group):
        distribution = point.dist
        name, version = (distribution.name, distribution.version) if distribution else ("unknown", "unknown")
        yield EntryPoint(point.name, point.value, name, version)


def _scan(group: str, paths: Sequence[str]) -> Iterator[EntryPoint]:
    header = f"[{group}]".encode()
    seen: set[str] = set()
    for folder, name, version in _distributions(paths):
        if normalized(name) in seen:
            continue
        seen.add(normalized(name))
        try:
            with open(os.path.join(folder, "entry_points.txt"), "rb") as file:
                content = file.read()
        except OSError:  # most packages have none
            continue
        if header in content:
            name, version = _name_and_version(folder, name, version)
            for key, value in _section(content.decode("utf-8", "replace"), group):
                yield EntryPoint(key, value, name, version)


def _distributions(paths: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Folder, name and version of every installed package.

    A folder's name spells them where it can be read in one way only; with more hyphens ("a-b-1.0", from tools that do
    not escape names) the package's own METADATA says which of them is whose.
    """
    for path in paths:
        try:
            children = sorted(os.listdir(path or "."))
        except OSError:  # sys.path may name folders that do not exist
            continue
        for child in children:
            stem, extension = os.path.splitext(child)
            if extension.lower() not in (".dist-info", ".egg-info"):
                continue
            name, version = _spelt_by(os.path.join(path, child), stem)
            # pip leaves "~name" behind where it could not finish removing a package, and ignores it from then on
            if not name.startswith("~"):
                yield os.path.join(path, child), name, version


def _spelt_by(folder: str, stem: str) -> tuple[str, str]:
    name, _, version = stem.partition("-")
    if "-" not in version:
        return name, version
    match = _STEM.match(stem)
    return _name_and_version(folder, *((match["name"], match["version"]) if match else (name, version)))


def _section(text: str, group: str) -> Iterator[tuple[str, str]]:
    inside = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            inside = line == f"[{group}]"
        elif inside and line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()


def _name_and_version(folder: str, name: str, version: str) -> tuple[str, str]:
    """The name and version as the package spells them; those in the folder's name where it does not say."""
    for file_name in ("METADATA", "PKG-INFO"):
        try:
            with open(os.path.join(folder, file_name), encoding="utf-8", errors="replace") as file:
                for line in file:
                    key, _, value = line.partition(":")
                    if not line.strip():  # the headers end here
                        break
                    if key.lower() == "name":
                        name = value.strip() or name
                    elif key.lower() == "version":
                        version = value.strip() or version
        except OSError:
            continue
        break
    return name, version or "unknown"
