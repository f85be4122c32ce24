"""Reading one plugin's hooks: what an implementation returned, and what was meant as one but would never be called."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import pluggy

from ..errors import PluginError
from ..messages import closest, did_you_mean, shortened
from .hookspecs import HOOKS, Descriptor


def as_list(result: Any) -> list[object]:
    """What a hook returned as a list: one descriptor, or any iterable of them (running a generator to its end)."""
    if isinstance(result, Descriptor):
        return [result]
    if isinstance(result, str | bytes | Mapping) or not isinstance(result, Iterable):
        raise PluginError(f"it returned {shortened(repr(result))} instead of a list of descriptors")
    return list(result)


def stray_hooks(manager: pluggy.PluginManager, plugin: object) -> Iterator[str]:
    """Functions that were meant as a hook and would never be called: misspelt, or not marked."""
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options:
            hook = options.get("specname") or name
            if hook not in HOOKS and not options.get("optionalhook"):
                guess = did_you_mean(hook, HOOKS, f"the hooks are {', '.join(HOOKS)}")
                yield f"there is no hook {hook!r}; {guess}"
        elif name.startswith("polyllama_") and inspect.isroutine(inspect.getattr_static(plugin, name)):
            function = inspect.getattr_static(plugin, name)
            own = not isinstance(plugin, ModuleType) or getattr(function, "__module__", None) == plugin.__name__
            close = closest(name, HOOKS, cutoff=0.8)
            if own and close:
                mark = "" if close == name else f" and call it {close!r}"
                yield f"the function {name!r} is not used: mark it @polyllama.hookimpl{mark}"
