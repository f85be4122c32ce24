"""What a plan answers, as data and as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..backend.choice import Considered
from ..checkpoint.tensor_summary import bytes_text, grouped
from ..machine.devices import DeviceMemory
from ..memory.estimate import MemoryEstimate


@dataclass(frozen=True)
class Asked:
    """What a plan is for; see :meth:`polyllama.Llama.plan`."""

    backend: str | None
    device: str | None
    dtype: str
    quantize: str | None
    batch: int
    context: int
    prompt: int
    prefill_chunk_size: int | None
    kv_cache: str = "auto"


@dataclass(frozen=True)
class Fit:
    """A checkpoint beside its configuration.

    Attributes:
        problems: one line each: missing, unexpected, of the wrong shape or dtype.
        causes: what most likely explains them.
    """

    ok: bool
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong_shape: tuple[str, ...] = ()
    wrong_dtype: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    started_fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """One way to run the model.

    Attributes:
        quantize: what weights are quantized to while loading; ``None`` as they are stored.
        memory: what it takes; ``None`` where the backend does not do this, for which `reason` says why.
        fits: whether the device has that much; ``None`` where its memory is not known.
    """

    backend: str
    device: str
    dtype: str
    quantize: str | None
    memory: MemoryEstimate | None
    available: int | None
    fits: bool | None
    reason: str | None = None


@dataclass(frozen=True)
class Plan:
    """The answer of ``Llama.plan``; ``print(plan)`` shows it, ``to_dict()`` is for programs.

    Attributes:
        known_from: ``"files"``, ``"headers"`` (of the Hub), ``"config"`` or ``"registry"``.
        fit: whether the stored tensors are what the configuration asks for; ``None`` where they are not known.
        options: every backend, dtype and quantization that was looked at.
        chosen: the one that ``Llama.load`` would take; ``None`` where no backend can run.
        considered: why each backend was or was not taken.
        suggestion: arguments under which it fits, where what was asked for does not; ``None`` where nothing is needed
            or nothing helps, which `advice` says.
    """

    model: str
    known_from: str
    task: str
    parameters: int
    stored_bytes: int | None
    stored_dtype: str
    asked: Asked
    fit: Fit | None
    devices: tuple[DeviceMemory, ...]
    options: tuple[Option, ...]
    chosen: Option | None
    considered: tuple[Considered, ...]
    suggestion: Mapping[str, Any] | None
    advice: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; each option's memory with its sums."""
        data = dataclasses.asdict(self)
        for option, made in zip((*self.options, self.chosen), (*data["options"], data["chosen"]), strict=True):
            if option is not None and option.memory is not None:
                made["memory"] |= {"running": option.memory.running, "peak": option.memory.peak}
        return data

    def __str__(self) -> str:

        return plan_text(self)


SOURCES = {
    "files": "the headers of its files",
    "headers": "headers read from the Hub",
    "config": "its configuration alone",
    "registry": "the registry's sizes alone",
}


HEADERS = ("backend", "device", "dtype", "quantize", "weights", "cache", "activations", "loading", "peak", "fits")


def option_row(option: Option) -> tuple[str, ...]:
    """The cells of one option, as :data:`HEADERS` names them."""
    name = (option.backend, option.device, option.dtype, option.quantize or "-")
    memory = option.memory
    if memory is None:
        return (*name, "-", "-", "-", "-", "-", f"no: {option.reason}")
    sizes = (memory.weights, memory.cache, memory.activations, memory.load_peak, memory.peak)
    fits = "unknown" if option.fits is None else "yes" if option.fits else "no"
    return (*name, *(bytes_text(size) for size in sizes), fits)


def head_lines(plan: Plan) -> Iterator[str]:
    """What was planned, and whether the checkpoint fits its configuration."""
    asked = plan.asked
    yield f"{plan.model}: {plan.parameters:,} parameters, task {plan.task}, known from {SOURCES[plan.known_from]}"
    stored = "" if plan.stored_bytes is None else f"{bytes_text(plan.stored_bytes)} stored, "
    chunk = f", in chunks of {asked.prefill_chunk_size}" if asked.prefill_chunk_size else ""
    yield (
        f"{stored}mostly {plan.stored_dtype}; planned: batch {asked.batch}, context {asked.context}, "
        f"prompt {asked.prompt}{chunk}"
    )
    for device in plan.devices:
        yield f"{device.name}: {device.description}, {bytes_text(device.free)} of {bytes_text(device.total)} free"
    if plan.fit is not None:
        yield from fit_lines(plan)


def fit_lines(plan: Plan) -> Iterator[str]:
    """Missing, unexpected and misshaped tensors with likely causes."""
    fit = plan.fit
    assert fit is not None  # its caller has looked
    if fit.ok:
        yield "the stored tensors are what the configuration asks for"
    else:
        yield "the stored tensors do NOT fit the configuration: loading would fail"
    for cause in fit.causes:
        yield f"  likely cause: {cause}"
    for kind, names in (
        ("missing", fit.missing),
        ("unexpected", fit.unexpected),
        ("wrong shape", fit.wrong_shape),
        ("wrong dtype", fit.wrong_dtype),
        ("starts random", fit.started_fresh),
        ("not used", fit.unused),
    ):
        for line in grouped((name.partition(":")[0], name.removeprefix(name.partition(":")[0])) for name in names):
            yield f"  {kind:<13} {line}"


def tail_lines(plan: Plan) -> Iterator[str]:
    """Which backend would be taken and why, and what to do."""
    if plan.considered:
        yield "backend:"
    for row in plan.considered:
        yield f"  {'*' if row.taken else ' '} {row.name}: {row.reason}"
    yield plan.advice
    for note in plan.notes:
        yield f"note: {note}"


def plan_text(plan: Plan) -> str:
    """The whole plan as text."""
    rows = [HEADERS, *(option_row(option) for option in plan.options)]
    return "\n".join([*head_lines(plan), "", *columns(rows), "", *tail_lines(plan)])


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells, aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
