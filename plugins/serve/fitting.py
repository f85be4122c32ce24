"""Whether a model fits, asked of the plan before it is loaded; whether its files are those of the last time."""

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
    """Whether a model may be loaded now.

    Attributes:
        nbytes: what its weights take; `running`: what it takes when it runs; ``None`` where no plan says.
        advice: what else to do.
    """

    fits: bool
    nbytes: int | None = None
    running: int | None = None
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
        if key.offer.adapters:
            found["adapters"] = dict(key.offer.adapters)
        return found

    def look(self, key: Key, held: int) -> Fit:
        """Ask the plan; where nothing is known of a model before it is loaded, it is tried.

        Args:
            held: bytes of what is loaded, as it runs.
        """
        from ...core.planning.plan import plan, plan_choice

        arguments = self.arguments(key)
        asked: dict[str, Any] = {name: arguments[name] for name in _PLANNED if name in arguments}
        asked["config_overrides"] = {name: value for name, value in arguments.items() if name not in _KNOWN}
        asked["context"] = self._options.context
        try:
            choice = plan_choice(key.offer.source, **asked)
            if choice is None or choice.memory is None:
                return Fit(True)
            limit, weights, wanted = self._options.memory, choice.memory.weights, choice.memory.running
            if limit is not None and held + wanted > limit:
                return Fit(False, weights, wanted, f"it takes {wanted / 2**20:,.0f} MiB of {limit / 2**20:,.0f}")
            if choice.fits is not False:
                return Fit(True, weights, wanted)
            return Fit(False, weights, wanted, plan(key.offer.source, **asked).advice)
        except PolyllamaError:
            return Fit(True)  # loading says what is wrong

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


def weight_bytes(llm: Llama) -> int:
    """Bytes of a loaded model's weights, by its graph, where no plan has said."""
    from ...core.dtypes import itemsize

    return llm.graph.num_parameters() * itemsize(llm.dtype)


_KNOWN = (*_PLANNED, "load_format", "adapter", "merge_adapter", "adapters", "draft")


def _files(path: Path) -> Files:
    """The files of a model's folder, or the one file."""
    try:
        entries = [path] if path.is_file() else [entry for entry in path.iterdir() if entry.is_file()]
        found = {entry.name: os.stat(entry) for entry in entries}
    except OSError:
        return {}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}
