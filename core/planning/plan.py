"""What a model would take, and whether it would load, before anything is loaded: ``Llama.plan``.

From headers and metadata only: no weights are read, no framework is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..checkpoint.ignoring import ignore_patterns
from ..errors import InputError
from ..machine.devices import find_devices
from ..messages import mention, subject
from .facts import Facts, find_facts
from .planner import Planner
from .result import Asked, Fit, Option, Plan

if TYPE_CHECKING:
    from pathlib import Path

    from ..config.schema import LlamaConfig
    from ..settings.schema import Settings

DEFAULT_CONTEXT = 4096


def plan(
    source: str | Path | LlamaConfig,
    *,
    backend: str | None = None,
    device: str | None = None,
    dtype: str = "auto",
    quantize: str | None = None,
    batch: int = 1,
    context: int | None = None,
    prompt: int | None = None,
    prefill_chunk_size: int | None = None,
    task: str | None = None,
    revision: str | None = None,
    offline: bool | None = None,
    ignore: Any = None,
    config_overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """See :meth:`polyllama.Llama.plan`."""
    from .advice import advise

    planner = _planner(
        source,
        batch=batch,
        asked={"context": context, "prompt": prompt, "chunk": prefill_chunk_size},
        settings=_settings(backend, device, dtype, quantize, offline),
        how={"task": task, "revision": revision, "ignore": ignore_patterns(ignore)},
        overrides=config_overrides,
    )
    facts = planner.facts
    chosen, considered = planner.chosen()
    options = planner.options(None if backend is None else backend.partition(":")[0])
    suggestion, advice = advise(planner, chosen)
    tensors = facts.tensors
    return Plan(
        model=facts.name,
        known_from=facts.known_from,
        task=facts.task.name,
        parameters=facts.graph.num_parameters(),
        stored_bytes=None if tensors is None else sum(info.nbytes for info in tensors.values()),
        stored_dtype=facts.stored_dtype,
        asked=planner.asked,
        fit=compare_with_graph(facts),
        devices=planner.devices,
        options=options,
        chosen=chosen,
        considered=considered,
        suggestion=suggestion,
        advice=advice,
        notes=tuple(dict.fromkeys([*facts.notes, *planner.notes])),
    )


def plan_choice(
    source: str | Path | LlamaConfig,
    *,
    backend: str | None = None,
    device: str | None = None,
    dtype: str = "auto",
    quantize: str | None = None,
    context: int | None = None,
    task: str | None = None,
    revision: str | None = None,
    offline: bool | None = None,
    ignore: Any = None,
    config_overrides: Mapping[str, Any] | None = None,
) -> Option | None:
    """What loading would take of a plan's options, without looking at the others: a fifth of a plan's time.

    >>> plan_choice("tiny", backend="reference").fits
    True
    """
    planner = _planner(
        source,
        batch=1,
        asked={"context": context, "prompt": None, "chunk": None},
        settings=_settings(backend, device, dtype, quantize, offline),
        how={"task": task, "revision": revision, "ignore": ignore_patterns(ignore)},
        overrides=config_overrides,
    )
    return planner.chosen()[0]


def _settings(
    backend: str | None, device: str | None, dtype: str, quantize: str | None, offline: bool | None
) -> Settings:
    from ..settings.schema import settings_of_call

    return settings_of_call(backend=backend, device=device, dtype=dtype, quantize=quantize, offline=offline)


def _planner(
    source: str | Path | LlamaConfig,
    *,
    batch: int,
    asked: Mapping[str, int | None],
    settings: Settings,
    how: Mapping[str, Any],
    overrides: Mapping[str, Any] | None,
) -> Planner:
    """What works out options for a model, from what is known of it without reading weights."""
    facts = find_facts(source, overrides=dict(overrides or {}), settings=settings, arguments=plan_arguments(), **how)
    return Planner(facts, _asked(facts, settings, batch, **asked), find_devices())


def plan_arguments() -> tuple[str, ...]:
    """What ``Llama.plan`` takes beside the model and fields of its configuration."""
    import inspect

    return tuple(name for name in inspect.signature(plan).parameters if name not in ("source", "config_overrides"))


def _asked(
    facts: Facts, settings: Settings, batch: int, context: int | None, prompt: int | None, chunk: int | None
) -> Asked:
    if facts.entry is not None:
        settings = facts.entry.preferring(settings)
    longest = facts.config.max_position_embeddings
    wanted = min(longest, DEFAULT_CONTEXT) if context is None else context
    given = {"batch": batch, "context": wanted, "prompt": wanted if prompt is None else prompt}
    if chunk is not None:
        given["prefill_chunk_size"] = chunk
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(subject(name, value) + f" is {value!r}, wanted a positive whole number")
    if given["prompt"] > wanted:
        raise InputError(
            mention("prompt", given["prompt"]) + " is longer than " + mention("context", wanted),
            hint="context counts both",
        )
    if context is None and wanted < longest:
        facts.notes.append(f"context {wanted} is planned for, the model goes to {longest}: say context=... for more")
    elif wanted > longest:
        facts.notes.append(f"context {wanted} is more than the model was made for ({longest})")
    return Asked(
        settings.backend,
        settings.device,
        settings.dtype,
        settings.quantize,
        batch,
        wanted,
        given["prompt"],
        chunk,
        settings.kv_cache,
    )


def compare_with_graph(facts: Facts) -> Fit | None:
    """Whether the stored tensors are the graph's; ``None`` where what is stored is not known."""
    if facts.tensors is None:
        return None
    from ..checkpoint.causes import likely_causes
    from ..checkpoint.check import compare

    comparison = compare(
        facts.tensors,
        facts.graph.parameters(),
        config=facts.config,
        tied=facts.config.tie_word_embeddings,
        opened=facts.opened,
    )
    found = comparison.serious
    if not found.any():
        return Fit(True, started_fresh=tuple(p.name for p in comparison.fresh), unused=tuple(comparison.unused))
    shown = comparison.all if comparison.all.missing else found
    return Fit(
        ok=False,
        missing=tuple(p.name for p in shown.missing),
        unexpected=tuple(info.name for info in shown.unexpected),
        wrong_shape=tuple(
            f"{p.name}: stored {list(info.shape)}, expected {list(p.shape)}" for p, info in shown.misshaped
        ),
        wrong_dtype=tuple(f"{info.name}: stored {info.dtype}" for info in (*shown.not_floats, *shown.not_packed)),
        causes=tuple(likely_causes(shown)),
    )
