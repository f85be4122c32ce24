"""Which backend runs: the one asked for, or the best that can."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..errors import BackendError, BackendUnavailableError, warn
from ..machine.devices import plain_device
from ..messages import did_you_mean
from .protocol import Backend


class BackendSource(Protocol):
    """How the plugin manager describes a backend."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    def load(self) -> Any:
        """Import the backend class (or instance)."""
        ...


@dataclass(frozen=True)
class Considered:
    """One row of the answer to "why this backend?"."""

    name: str
    taken: bool
    reason: str


@dataclass(frozen=True)
class Choice:
    """The backend and device that were taken, and why each other one was not."""

    backend: Backend
    device: str | None
    considered: tuple[Considered, ...] = ()


AUTO_ORDER = ("torch:cuda", "mlx", "cpu", "torch:cpu", "jax", "reference")
"""The order in which ``auto`` looks; MLX only on Apple silicon. Third-party backends are taken by name only."""


_SPELLINGS = {"pytorch": "torch", "numpy": "reference", "gpu": "torch", "flax": "jax", "metal": "mlx"}
"""What a backend's framework or device is called, for who types that."""

ALIASES = {"cuda": "torch:cuda"}

AUTO = "auto"


def choose_backend(
    name: str | None, backends: Mapping[str, BackendSource], device: str | None = None, *, prefers: str | None = None
) -> Choice:
    """Find the backend for `name`: ``"torch"``, ``"torch:cuda"``, ``"cuda"``, ``"auto"`` or ``None`` (auto).

    Args:
        prefers: the backend to take instead of ``"auto"``, where it can run at all; where it cannot, that is said.

    Raises:
        BackendError: no backend has this name, or name and `device` contradict.
        BackendUnavailableError: it is known but cannot run here; says why and what can.
    """
    name = ALIASES.get(name or AUTO, name or AUTO)
    device = None if device is None else plain_device(device)
    if name == AUTO and prefers is not None:
        refusal = _cannot_run(prefers, backends)
        if refusal is None:
            found = choose_backend(prefers, backends, device)
            reason = f"the classes that transformers documents are {prefers}'s, and no backend is asked for"
            return replace(found, considered=(Considered(prefers, True, reason),))
        warn(
            f"the classes that transformers documents run on {prefers}, which cannot run here ({refusal}); "
            "the best other backend is taken"
        )
    if name == AUTO:
        return _choose_automatically(backends, device)
    base, _, wanted = name.partition(":")
    wanted = plain_device(wanted)
    if wanted and device and wanted != device:
        raise BackendError(f"backend {name!r} and device {device!r} contradict", hint="give one of the two")
    source = backends.get(base)
    if source is None:
        known = f"there are: {', '.join(sorted(backends))}; `polyllama plugins` shows what failed to load"
        meant = did_you_mean(base, backends, spellings=_SPELLINGS)
        raise BackendError(f"no backend is called {base!r}", hint=f"{meant} {known}" if meant else known)
    backend = load_backend(source)
    wanted = wanted or device or ""
    refusal = _refusal(backend, wanted or None)
    if refusal is not None:
        own = backend.availability()
        devices = [f"{base}:{d}" for d in own.devices] if own.usable else []
        others = ", ".join([*_usable(backends, but=base), *devices]) or "none"
        raise BackendUnavailableError(f"backend {name!r} cannot run here: {refusal}", hint=f"usable here: {others}")
    return Choice(backend, wanted or None, (Considered(name, True, "asked for by name"),))


def _cannot_run(name: str, backends: Mapping[str, BackendSource]) -> str | None:
    """Why a backend cannot run here on any device, or ``None`` when it can."""
    source = backends.get(name)
    return "it is not installed" if source is None else _refusal(load_backend(source), None)


def load_backend(source: BackendSource) -> Backend:
    """Import a backend from its descriptor; a class is instantiated."""
    loaded = source.load()
    backend = loaded() if isinstance(loaded, type) else loaded
    missing = [part for part in ("name", "availability", "realize") if not hasattr(backend, part)]
    if missing:
        raise BackendError(f"backend {source.name!r} has no {', '.join(missing)}", hint="see docs/architecture.md")
    return backend  # type: ignore[no-any-return]


def _refusal(backend: Backend, device: str | None) -> str | None:
    """Why `backend` cannot run (on `device`), or ``None`` when it can."""
    availability = backend.availability()
    if not availability.usable:
        return availability.reason or "it did not say why"
    base, _, index = (device or "").partition(":")
    numbered = base in availability.devices and index.isdigit() and base != "cpu"
    if device and device not in availability.devices and not numbered:
        why = f" ({availability.reason})" if availability.reason else ""
        return f"it has no device {device!r}, only {', '.join(availability.devices)}{why}"
    return None


def _usable(backends: Mapping[str, BackendSource], but: str) -> Iterable[str]:
    for name, source in backends.items():
        if name == but:
            continue
        try:
            if load_backend(source).availability().usable:
                yield name
        except Exception:  # a broken plugin is reported elsewhere; here it is simply not an alternative
            continue


def _choose_automatically(backends: Mapping[str, BackendSource], device: str | None) -> Choice:
    considered: list[Considered] = []
    chosen: tuple[Backend, str | None] | None = None
    for name in AUTO_ORDER:
        base, _, wanted = name.partition(":")
        source = backends.get(base)
        reason: str | None
        if chosen is not None:
            reason = "a better one was taken"
        elif source is None:
            reason = "not installed"
        elif device and wanted and device.partition(":")[0] != wanted:
            reason = f"device {device!r} was asked for"
        elif base == "mlx" and not _apple_silicon():
            reason = "taken by itself on Apple silicon only"
        else:
            backend = load_backend(source)
            reason = _refusal(backend, wanted or device)
            if reason is None:
                chosen = backend, device or wanted or None
        considered.append(Considered(name, reason is None, reason or "the best that can run here"))
    if chosen is None:
        listing = "; ".join(f"{row.name}: {row.reason}" for row in considered)
        raise BackendUnavailableError(f"no backend can run here ({listing})")
    return Choice(*chosen, tuple(considered))


def preference(name: str, device: str) -> int:
    """A number that is the smaller, the sooner ``auto`` would take this backend on this device.

    >>> preference("cpu", "cpu") < preference("torch", "cpu") < preference("reference", "cpu")
    True
    """
    taken_by_itself = name != "mlx" or _apple_silicon()
    places = [place for place, entry in enumerate(AUTO_ORDER) if entry in (name, f"{name}:{device}")]
    return places[0] if places and taken_by_itself else len(AUTO_ORDER)


def _apple_silicon() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"
