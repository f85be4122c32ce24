"""Do something to a module once somebody imports it, which may be never: nothing is imported for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Action = Callable[[Any], None]

_waiting: dict[str, Action] = {}


def after_import(name: str, action: Action) -> None:
    """Call ``action(module)`` when the module has been imported: now, or when it is, once; the last action alone."""
    if name in sys.modules:
        import importlib

        action(importlib.import_module(name))  # which waits for a thread that is at it
        return
    _waiting[name] = action
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


class _Finder:
    """Finds what the others find, and has it loaded by :class:`_Loader`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in _waiting:
            return None
        for finder in [finder for finder in sys.meta_path if finder is not self]:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """A module's own loader, which the module is told of, and then what waits for it."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def create_module(self, spec: Any) -> Any:
        return self._own.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__loader__ = module.__spec__.loader = self._own
        self._own.exec_module(module)
        action = _waiting.pop(module.__name__, None)
        if not _waiting:
            with suppress(ValueError):
                sys.meta_path.remove(_FINDER)
        if action is not None:
            action(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


_FINDER: Any = _Finder()
