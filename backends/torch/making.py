"""What stands ready while a documented class is made: what to build, for whom, from which configuration, where."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core.backend.choice import ALIASES
from ...core.config.schema import LlamaConfig
from ...core.errors import InputError
from ...core.loading.documented import config_of as documented_config
from ...core.loading.documented import is_of_loading

if TYPE_CHECKING:
    from ...core.graph.graph import Graph
    from ...core.settings.schema import Settings
    from ...core.tasks.task import Task
    from .module import LlamaModule


@dataclass(frozen=True)
class Blueprint:
    """What a module that is being made is to be built from."""

    graph: Graph
    config: LlamaConfig
    task: Task
    attn_implementation: str


@dataclass(frozen=True)
class Wanted:
    """What is to be made, and what its constructor takes beside the configuration."""

    what: LlamaModule | type[LlamaModule]
    arguments: Mapping[str, Any]


_SAID_BY_THE_MODEL = ("dtype", "architectures")
"""Fields that say what was made of a model, where another configuration says nothing of them."""

# What realizing is to fill, where a documented class asked for it: the object whose constructor runs, or the class that
# from_pretrained was called on.
wanted_at_hand: ContextVar[Wanted | None] = ContextVar("wanted", default=None)
# What the constructor of a user's own class finds, so that it need not know of graphs; and the module that it is for.
blueprint_at_hand: ContextVar[tuple[LlamaModule, Blueprint] | None] = ContextVar("blueprint", default=None)


def built_from(module: LlamaModule) -> Blueprint | None:
    """What stands ready for this very module, which takes it; ``None`` where it was made by calling its class.

    A constructor may make other models before it comes to its own: nothing of theirs is at hand.
    """
    found = blueprint_at_hand.get()
    if found is None or found[0] is not module:
        return None
    blueprint_at_hand.set(None)
    return found[1]


def arguments_of(kind: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Take those keywords of a loading call that a constructor of the user's own has, and loading has not."""
    named = list(inspect.signature(kind.__init__).parameters)[2:]  # past the module and the configuration
    return {name: options.pop(name) for name in named if name in options and not is_of_loading(name)}


@contextmanager
def wanting(what: LlamaModule | type[LlamaModule], arguments: Mapping[str, Any] | None = None) -> Iterator[None]:
    token = wanted_at_hand.set(Wanted(what, arguments or {}))
    try:
        yield
    finally:
        wanted_at_hand.reset(token)


def config_of(value: Any, wanted_by: str) -> LlamaConfig:
    """A configuration of ours, or one of transformers' read as ours."""
    if getattr(value, "model_type", None) == LlamaConfig.model_type and hasattr(value, "to_dict"):
        return documented_config(value)
    raise InputError(
        f"{wanted_by} takes a LlamaConfig, not a {type(value).__name__}",
        hint="from_pretrained(...) loads a model by name or path",
    )


def change(config: LlamaConfig, given: LlamaConfig) -> None:
    """Set the fields of a model's own configuration that another says otherwise, and the keys that it has besides.

    Raises:
        ConfigError: what the model cannot follow, and to load it anew.
    """
    values = {name: getattr(given, name) for name in type(given).model_fields if name != "extra"} | given.extra
    for name in _SAID_BY_THE_MODEL:
        if not values[name]:
            del values[name]
    config.update({name: value for name, value in values.items() if value != getattr(config, name, None)})


def take_cpu_unless_asked(options: dict[str, Any], settings: Settings) -> None:
    """Where nothing is said of a device, a module is on the CPU, as torch's are, and ids may be given as they are.

    Args:
        options: of the call, which are changed; `settings` are those with its backend.
    """
    named = ":" in settings.backend or settings.backend in ALIASES
    if not named and settings.device is None and all(options.get(name) is None for name in ("device", "device_map")):
        options["device"] = "cpu"
