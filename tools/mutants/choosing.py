"""Which files are mutated, and which of their mutations a run tries: the same for the same seed."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from .native_operators import NativeMutation, native_mutations
from .operators import Mutation, mutations
from .processes import ROOT

CHOSEN = Path(__file__).with_name("chosen.toml")
M = TypeVar("M", Mutation, NativeMutation)


def lists(chosen: Path = CHOSEN) -> dict[str, list[str]]:
    """The lists of chosen.toml by name."""
    return tomllib.loads(chosen.read_text())


def files(key: str, root: Path = ROOT, chosen: Path = CHOSEN) -> list[str]:
    """Files of a list in chosen.toml, less those that its `..._left_out` names."""
    patterns = lists(chosen)
    found: set[str] = set()
    for pattern in patterns[key]:
        matching = {str(path.relative_to(root)) for path in root.glob(pattern)}
        if not matching:
            raise SystemExit(f"{chosen.name}: {key}: no file matches {pattern}; was it moved?")
        found |= matching
    for pattern in patterns.get(f"{key}_left_out", ()):
        if not any(fnmatch(file, pattern) for file in found):
            raise SystemExit(f"{chosen.name}: {key}_left_out: no file matches {pattern}; was it moved?")
        found = {file for file in found if not fnmatch(file, pattern)}
    return sorted(found)


def module_of(file: str) -> str:
    """A file's module: core/graph/rope.py is polyllama.core.graph.rope."""
    parts = Path(file).with_suffix("").parts
    return ".".join(("polyllama", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def python_mutations(only: Iterable[str] = ()) -> list[Mutation]:
    """Every mutation of the chosen modules, or of those whose path has one of `only` in it."""
    return [m for file in _only(files("python"), only) for m in mutations(file, (ROOT / file).read_text())]


def all_native_mutations(only: Iterable[str] = ()) -> list[NativeMutation]:
    """Every mutation of the kernels' sources."""
    return [m for file in _only(files("native"), only) for m in native_mutations(file, (ROOT / file).read_text())]


def _only(found: list[str], only: Iterable[str]) -> list[str]:
    wanted = tuple(only)
    return [file for file in found if not wanted or any(part in file for part in wanted)]


def choose(found: list[M], seed: int, count: int) -> list[M]:
    """`count` mutations: one of each function before a second of any, so that long functions get no larger share."""
    order = sorted(found, key=lambda mutation: mutation.order(seed))
    seen: dict[tuple[str, str], int] = {}
    turns: list[tuple[int, M]] = []
    for mutation in order:
        place = (mutation.file, mutation.function)
        turns.append((seen.get(place, 0), mutation))
        seen[place] = seen.get(place, 0) + 1
    turns.sort(key=lambda turn: turn[0])  # stable: within a turn the shuffled order stays
    return [mutation for _, mutation in turns[:count]]
