"""Stored tensors that are left out because somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..errors import InputError, warn
from ..messages import counted, few, subject
from .delegating import DelegatingCheckpoint
from .protocol import Checkpoint, TensorInfo
from .tensor_names import without_wrappers


def ignore_patterns(ignore: Any) -> tuple[str, ...]:
    """Patterns as a tuple: of one text, or of several.

    Raises:
        InputError: anything else.

    >>> ignore_patterns("*.cos_cached"), ignore_patterns(None)
    (('*.cos_cached',), ())
    """
    given = () if ignore is None else (ignore,) if isinstance(ignore, str) else ignore
    patterns = tuple(given) if isinstance(given, Iterable) else (given,)
    if isinstance(given, bytes | Mapping) or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise InputError(
            subject("ignore", ignore) + f" is {ignore!r:.80}, wanted names of tensors",
            hint='give texts such as ["*.cos_cached"]; * stands for anything',
        )
    return patterns


def split_ignored(
    tensors: Mapping[str, TensorInfo], patterns: Sequence[str], path: Path | str
) -> tuple[dict[str, TensorInfo], tuple[str, ...]]:
    """The tensors that no pattern matches, and the names of the others; with or without what wrappers put into names.

    Warns:
        PolyllamaWarning: how many are left out, and which patterns match nothing.
    """
    by_pattern = {
        pattern: [name for name in tensors if any(fnmatchcase(n, pattern) for n in (name, without_wrappers(name)))]
        for pattern in patterns
    }
    ignored = dict.fromkeys(name for names in by_pattern.values() for name in names)
    said = []
    if ignored:
        said.append(f"{counted(len(ignored), 'tensor')} ignored as asked: {few(list(ignored), 4)}")
    if idle := [pattern for pattern, names in by_pattern.items() if not names]:
        said.append(f"no tensor is called {few(idle, 4)}, which was to be ignored")
    if said:
        warn(f"{path}: {'; '.join(said)}")
    return {name: info for name, info in tensors.items() if name not in ignored}, tuple(ignored)


class IgnoringCheckpoint(DelegatingCheckpoint):
    """A checkpoint without the tensors that patterns match.

    Attributes:
        ignored: their names.
    """

    def __init__(self, inner: Checkpoint, patterns: Sequence[str]) -> None:
        super().__init__(inner)
        self.path, self.format = inner.path, inner.format
        self._tensors, self.ignored = split_ignored(inner.tensors(), patterns, inner.path)

    def config(self, **overrides: Any) -> Any:
        """The configuration, with fields overridden."""
        return self._inner.config(**overrides)

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every stored tensor that is not ignored, by its stored name."""
        return self._tensors

    def read(self, name: str) -> Any:
        """One tensor by its stored name."""
        return self._inner.read(name)


def ignoring(checkpoint: Checkpoint, patterns: Sequence[str]) -> Checkpoint:
    """The checkpoint without the tensors that patterns match; itself without patterns."""
    return IgnoringCheckpoint(checkpoint, patterns) if patterns else checkpoint
