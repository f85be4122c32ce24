"""From a name to a running model: name -> checkpoint -> config -> graph -> weights -> backend."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backend.choice import Choice, choose_backend
from ..backend.protocol import Model, RealizeOptions
from ..config.schema import LlamaConfig
from ..errors import (
    InputError,
    PolyllamaWarning,
    UnsupportedError,
)
from ..graph.graph import Graph
from ..messages import mention, subject
from ..settings.schema import Settings, settings_of_call
from ..tasks.task import Task
from .describe import Described, describe
from .weights import weights_for


@dataclass(frozen=True)
class Loaded:
    """A model that runs, and what it came from."""

    name: str
    folder: Path | None
    config: LlamaConfig
    task: Task
    graph: Graph
    settings: Settings
    choice: Choice
    model: Model
    checkpoint: Any = None

    @classmethod
    def of(cls, described: Described, settings: Settings, choice: Choice, model: Model) -> Loaded:
        """A described model that `choice` made into `model`."""
        return cls(
            described.name,
            described.folder,
            described.config,
            described.task,
            described.graph,
            settings,
            choice,
            model,
            described.checkpoint,
        )


def load(
    source: str | Path | LlamaConfig,
    *,
    backend: str | None,
    task: str | None,
    dtype: str,
    device: str | None,
    quantize: str | None,
    revision: str | None,
    load_format: str,
    offline: bool | None,
    seed: int | None,
    fresh_head: bool,
    adapter: str | Path | None = None,
    merge_adapter: bool = False,
    config_overrides: Mapping[str, Any],
) -> Loaded:
    """See :meth:`polyllama.Llama.load`."""
    _check_seed(seed)
    settings = settings_of_call(backend=backend, device=device, dtype=dtype, quantize=quantize, offline=offline)
    described = describe(
        source,
        task=task,
        revision=revision,
        load_format=load_format,
        config_overrides=config_overrides,
        settings=settings,
    )
    choice = choose_backend(settings.backend, described.plugins.backends(), settings.device)
    _warn_of_the_reference(choice)
    _check_kv_cache(settings, choice.backend)
    options = RealizeOptions(settings.dtype, choice.device, settings.threads, settings.kv_cache)
    if adapter is not None:
        from .adapter import adapted

        described, weights = adapted(
            described, settings, adapter, merge=merge_adapter, seed=seed, fresh_head=fresh_head
        )
    elif merge_adapter:
        raise InputError(
            mention("merge_adapter") + " goes with adapter", hint="give " + mention("adapter", shown="folder")
        )
    else:
        weights = weights_for(described, settings, seed=seed, fresh_head=fresh_head)
    model = choice.backend.realize(described.graph, weights, options, config=described.config, task=described.task)
    return Loaded.of(described, settings, choice, model)


def _check_seed(seed: object) -> None:
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise InputError(subject("seed", seed) + f" is {seed!r}, wanted an integer from 0 up")


def _warn_of_the_reference(choice: Choice) -> None:
    """It is there to be right; whoever gets it without asking should know why, and what to do about it."""
    cpu = next((row for row in choice.considered if row.name == "cpu"), None)
    if choice.backend.name == "reference" and cpu is not None:  # among others, so nobody asked for one by name
        warnings.warn(
            f"backend 'reference' is taken, which is slow: nothing else can run here (cpu: {cpu.reason}); "
            + mention("backend", "reference")
            + " takes it without this warning",
            PolyllamaWarning,
            stacklevel=4,
        )


def _check_kv_cache(settings: Settings, backend: Any) -> None:
    """A cache's element type is obeyed or refused, never passed over."""
    known = getattr(backend, "kv_caches", ())
    if settings.kv_cache != "auto" and settings.kv_cache not in known:
        offered = f"it offers {', '.join(known)}" if known else "it offers no choice"
        hint = "leave kv_cache at auto, or take backend cpu"
        raise UnsupportedError(f"kv_cache={settings.kv_cache}: not on backend {backend.name!r}; {offered}", hint=hint)
