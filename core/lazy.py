"""Names of a package that are fetched from their modules when they are first used."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from typing import Any


def fetched_when_used(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` (PEP 562) of a package whose public names are in modules of it.

    Args:
        package: the package's own ``__name__``.
        homes: public name -> module, as a path below the package.

    >>> fetch = fetched_when_used("polyllama.core", {"dtype_name": "dtypes"})
    >>> fetch("dtype_name").__module__
    'polyllama.core.dtypes'
    """

    def fetch(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from importlib import import_module

        # Modules and their classes stay: looking for garbage among them takes a tenth of the time of importing them.
        collects = gc.isenabled()
        gc.disable()
        try:
            value = getattr(import_module(f".{home}", package), name)
        finally:
            if collects:
                gc.enable()
        setattr(sys.modules[package], name, value)
        return value

    return fetch
