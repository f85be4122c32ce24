"""Reading one plugin's hooks: what an implementation returned, and what was meant as one but would never be called."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import pluggy

from .errors import PluginError
from .hookspecs import HOOKS, Descriptor


def shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def as_list(result: Any) -> list[object]:
    """What a hook returned as a list: one descriptor, or any iterable of them (running a generator to its end)."""
    if isinstance(result, Descriptor):
        return [result]
    if isinstance(result, str | bytes | Mapping) or not isinstance(result, Iterable):
        raise PluginError(f"it returned {shortened(result)} instead of a list of descriptors")
    return list(result)


def stray_hooks(manager: pluggy.PluginManager, plugin: object) -> Iterator[str]:
    """Functions that were meant as a hook and would never be called: misspelt, or not marked."""
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options:
            hook = options.get("specname") or name
            if hook not in HOOKS and not options.get("optionalhook"):
                close = get_close_matches(hook, HOOKS, n=1)
                guess = f"did you mean {close[0]!r}?" if close else f"the hooks are {', '.join(HOOKS)}"
                yield f"there is no hook {hook!r}; {guess}"
        elif name.startswith("polyllama_") and inspect.isroutine(inspect.getattr_static(plugin, name)):
            function = inspect.getattr_static(plugin, name)
            own = not isinstance(plugin, ModuleType) or getattr(function, "__module__", None) == plugin.__name__
            close = get_close_matches(name, HOOKS, n=1, cutoff=0.8)
            if own and close:
                mark = "" if close[0] == name else f" and call it {close[0]!r}"
                yield f"the function {name!r} is not used: mark it @polyllama.hookimpl{mark}"
