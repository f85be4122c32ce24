"""Whether a model fits, asked of the plan before it is loaded; and whether its files are still those of the last time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import PolyllamaError

if TYPE_CHECKING:
    from ...core.api.llama import Llama
    from .names import Key
    from .options import ServeOptions

_PLANNED = ("backend", "device", "dtype", "quantize", "task", "revision", "offline", "ignore")
"""Arguments of loading that a plan takes too."""

Files = dict[str, tuple[int, int]]
"""Of each file its size and when it was changed, in nanoseconds."""


@dataclass(frozen=True)
class Fit:
    """Whether a model may be loaded now, what its weights take, and what else to do."""

    fits: bool
    nbytes: int | None
    advice: str = ""


class Fitting:
    """Looks before models are loaded."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._files: dict[str, Files] = {}

    def arguments(self, key: Key) -> dict[str, Any]:
        """What ``Llama.load`` is given."""
        found = dict(self._options.load)
        if key.backend is not None:
            found["backend"] = key.backend
            found.pop("device", None)
        if key.task is not None:
            found["task"] = key.task
            found.pop("draft", None)
        return found

    def look(self, key: Key, held: int) -> Fit:
        """Ask the plan; where nothing is known of a model before it is loaded, it is tried.

        Args:
            held: bytes of what is loaded.
        """
        from ...core.planning.plan import plan

        arguments = self.arguments(key)
        asked = {name: arguments[name] for name in _PLANNED if name in arguments}
        more = {name: value for name, value in arguments.items() if name not in _KNOWN}
        try:
            planned = plan(key.offer.source, context=self._options.context, config_overrides=more, **asked)
        except PolyllamaError:
            return Fit(True, None)  # loading says what is wrong
        memory = None if planned.chosen is None else planned.chosen.memory
        if memory is None or planned.chosen is None:
            return Fit(True, None)
        limit = self._options.memory
        if limit is not None and held + memory.running > limit:
            return Fit(False, memory.weights, f"it takes {memory.running / 2**20:,.0f} MiB")
        return Fit(planned.chosen.fits is not False, memory.weights, planned.advice)

    @staticmethod
    def weight_bytes(llm: Llama) -> int:
        """Bytes of a loaded model's weights, by its graph, where no plan has said."""
        from ...core.dtypes import itemsize

        return llm.graph.num_parameters() * itemsize(llm.dtype)

    def remember(self, key: Key, llm: Llama, say: Callable[[str], None]) -> None:
        """Keep what a model's files are, and say where they are others than when it was last loaded."""
        folder = llm._loaded.folder
        if folder is None:
            return
        now, before = _files(folder), self._files.get(key.offer.name)
        if before is not None and before != now:
            changed = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
            say(f"{key.offer.name}: {', '.join(changed)} changed since it was last loaded")
        self._files[key.offer.name] = now


_KNOWN = (*_PLANNED, "load_format", "adapter", "merge_adapter", "draft")


def _files(path: Path) -> Files:
    """The files of a model's folder, or the one file."""
    try:
        entries = [path] if path.is_file() else [entry for entry in path.iterdir() if entry.is_file()]
        found = {entry.name: os.stat(entry) for entry in entries}
    except OSError:
        return {}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}
