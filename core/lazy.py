"""Names of a module that are fetched from where they are defined when they are first used."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from typing import Any


def fetched_when_used(module: str, homes: Mapping[str, str], package: str | None = None) -> Callable[[str], Any]:
    """The ``__getattr__`` (PEP 562) of a module whose public names are defined in others.

    Args:
        module: the module's own ``__name__``.
        homes: public name -> the module that defines it, as a path below `package`.
        package: `module` itself, where it is a package.

    >>> fetch = fetched_when_used("polyllama.core", {"name_of": "dtypes"})
    >>> fetch("name_of").__module__
    'polyllama.core.dtypes'
    """

    def fetch(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        from importlib import import_module

        # Modules and their classes stay: looking for garbage among them takes a tenth of the time of importing them.
        collects = gc.isenabled()
        gc.disable()
        try:
            value = getattr(import_module(f".{home}", package or module), name)
        finally:
            if collects:
                gc.enable()
        setattr(sys.modules[module], name, value)
        return value

    return fetch
