"""What to change so that a model fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..backend.choice import load_backend, preference
from ..checkpoint.tensor_summary import bytes_text

if TYPE_CHECKING:
    from .planner import Planner
    from .result import Option

SMALL_CHUNK = 512
SHORTEST = 512


def advise(planner: Planner, chosen: Option | None) -> tuple[Mapping[str, Any] | None, str]:
    """Arguments under which the model fits, and a sentence; no arguments where what was asked for fits or nothing does.

    Looked for in this order: prompts in chunks, fewer bits, a shorter context and fewer rows together, another backend.
    """
    if chosen is None:
        return None, planner.refusal
    if chosen.memory is None:
        return None, f"{chosen.backend} does not do this: {chosen.reason}"
    where = f"{chosen.backend} on {chosen.device}"
    if chosen.fits is None:
        return None, f"{where}: how much memory it has is not known here"
    if chosen.fits:
        return None, f"fits: {where} needs {bytes_text(chosen.memory.peak)} of {bytes_text(chosen.available or 0)} free"
    needs = f"{where} needs {bytes_text(chosen.memory.peak)}, {bytes_text(chosen.available or 0)} are free"
    for changes in _changes(planner):
        found = _tried(planner, chosen.backend, chosen.device, chosen, changes)
        if found is not None:
            said = ", ".join(f"{name}={value!r}" for name, value in changes.items())
            return changes, f"does not fit: {needs}; with {said} it takes {bytes_text(found)}"
    for name, device in _other_ways(planner, chosen):
        for changes in ({}, *_changes(planner)):
            found = _tried(planner, name, device, chosen, changes)
            if found is not None:
                whole = {"backend": f"{name}:{device}", **changes}
                said = ", ".join(f"{key}={value!r}" for key, value in whole.items())
                return whole, f"does not fit: {needs}; with {said} it takes {bytes_text(found)}"
    return None, f"does not fit: {needs}, and no setting here makes it fit: take a smaller model or a larger machine"


def _changes(planner: Planner) -> Iterator[dict[str, Any]]:
    """Settings to try, the least painful first."""
    asked = planner.asked
    chunk = {"prefill_chunk_size": SMALL_CHUNK} if (asked.prefill_chunk_size or asked.prompt) > SMALL_CHUNK else {}
    if chunk:
        yield dict(chunk)
    smaller = [{"quantize": how} for how in ("int8", "int4", "int4-g128")]
    if asked.quantize is not None or planner.facts.config.quantization is not None:
        smaller = []
    for how in smaller:
        yield how
        if chunk:
            yield how | chunk
    last = smaller[1] if smaller else {}
    batch, context = asked.batch, asked.context
    while batch > 1 or context > SHORTEST:
        if batch > 1:
            batch = max(1, batch // 2)
        else:
            context = max(SHORTEST, context // 2)
        changes: dict[str, Any] = last | (chunk if context > SMALL_CHUNK else {})
        if batch != asked.batch:
            changes = changes | {"batch": batch}
        if context != asked.context:
            changes = changes | {"context": context}
        yield changes


def _tried(planner: Planner, name: str, device: str, chosen: Option, changes: Mapping[str, Any]) -> int | None:
    """Bytes at the peak where it fits."""
    rest = dict(changes)
    quantize = rest.pop("quantize", planner.asked.quantize)
    if "context" in rest:
        rest["prompt"] = min(planner.asked.prompt, rest["context"])
    backend = load_backend(planner.facts.plugins.backends()[name])
    option = planner.option(backend, device, planner.asked.dtype, quantize, **rest)
    return option.memory.peak if option.memory is not None and option.fits else None


def _other_ways(planner: Planner, chosen: Option) -> list[tuple[str, str]]:
    """Backends and devices other than the chosen one, in the order in which ``auto`` prefers them."""
    ways = [(name, device) for name in planner.facts.plugins.backends() for device in _devices(planner, name)]
    return sorted((way for way in ways if way != (chosen.backend, chosen.device)), key=lambda way: preference(*way))


def _devices(planner: Planner, name: str) -> tuple[str, ...]:
    try:
        availability = load_backend(planner.facts.plugins.backends()[name]).availability()
    except Exception:  # a broken plugin is no way out
        return ()
    return availability.devices if availability.usable else ()
