"""A plan for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..checkpoint.report import bytes_text, grouped

if TYPE_CHECKING:
    from .plan import Option, Plan

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
