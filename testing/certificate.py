"""Certifying a backend: every check in every dtype it declares, written down as a versioned JSON certificate."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from ..core.messages import did_you_mean

if TYPE_CHECKING:
    from ..core.backend.protocol import Backend
    from .checks import Check, Result

SCHEMA, VERSION = "polyllama-certificate", 1


@dataclass(frozen=True)
class Certificate:
    """What was tried on a backend, and what came of it.

    Attributes:
        backend: name, class, the versions of the libraries it needs, and what it says of itself here (`remark`).
        device: where it ran.
        dtypes: what was tried, first to last, and `declared`: what the backend says it computes in.
        results: one per check and dtype.
        environment: versions of polyllama, Python and NumPy, the platform, and the `note` that was asked for.
        created: UTC, ISO 8601.
        seconds: how long it took.
        selection: the checks and groups that were asked for; empty for all.
        thorough: whether the checks of further sizes were tried too.
    """

    backend: Mapping[str, Any]
    device: str
    dtypes: tuple[str, ...]
    results: tuple[Result, ...]
    environment: Mapping[str, str]
    created: str
    seconds: float
    selection: tuple[str, ...] = field(default=())
    declared: tuple[str, ...] = field(default=())
    thorough: bool = False

    @property
    def complete(self) -> bool:
        """Whether every check was tried in every dtype that the backend declares."""
        return not self.selection and set(self.declared) <= set(self.dtypes)

    @property
    def passed(self) -> bool:
        """Whether no check failed, and at least one passed."""
        return not self.failed and any(r.status == "passed" for r in self.results)

    @property
    def failed(self) -> tuple[Result, ...]:
        """The checks that failed."""
        return tuple(r for r in self.results if r.status == "failed")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "passed": self.passed,
            "complete": self.complete,
            "backend": dict(self.backend),
            "device": self.device,
            "dtypes": list(self.dtypes),
            "declared_dtypes": list(self.declared),
            "selection": list(self.selection),
            "thorough": self.thorough,
            "environment": dict(self.environment),
            "created": self.created,
            "seconds": round(self.seconds, 3),
            "checks": [result.to_dict() for result in self.results],
        }

    def write(self, file: Path) -> None:
        """Write it as JSON; the file appears under its name when it is whole."""
        import os

        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)


def read_certificate(file: Path) -> dict[str, Any]:
    """A certificate's data.

    Raises:
        InputError: not a certificate, or one of another version.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as a certificate: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InputError(f"{file} is no certificate", hint="make one with `polyllama certify BACKEND --json FILE`")
    if data.get("version") != VERSION:
        raise InputError(f"{file} is a certificate of version {data.get('version')!r}, this release reads {VERSION}")
    return data


def declared_dtypes(backend: Backend) -> tuple[str, ...]:
    """The dtypes a backend says it computes in (its ``dtypes``); float32 where it says nothing."""
    found = getattr(backend, "dtypes", None)
    if found is None:
        return ("float32",)
    if not isinstance(found, list | tuple) or not found or not all(isinstance(d, str) for d in found):
        raise InputError(f"backend {backend.name!r}: dtypes must be a tuple of names, not {found!r}")
    return tuple(found)


def certify(
    backend: str | Backend,
    *,
    device: str | None = None,
    dtypes: Iterable[str] | None = None,
    only: Iterable[str] = (),
    report: Callable[[Result], None] | None = None,
    note: str = "",
    thorough: bool = False,
) -> Certificate:
    """Hold a backend to the float64 spec, check by check.

    Args:
        backend: its name, with a device if wanted (``"torch:cpu"``), or a backend object.
        device: one of its devices.
        dtypes: by default all that the backend declares.
        only: names of checks, or of groups of them (``"rope"``); by default all.
        report: told each result as it comes.
        note: what readers of the certificate should know of the machine; kept in its `environment`.
        thorough: try further sizes too, which takes several times as long.

    Raises:
        BackendError: there is no such backend, or it cannot run here.
        InputError: a dtype or a check that is not known.
        UnsupportedError: a dtype whose bounds are not known.
    """
    from .candidate import Candidate
    from .checks import run_check
    from .rounding import Precision

    instance, device, name = find_backend(backend, device)
    declared = declared_dtypes(instance)
    wanted = tuple(dict.fromkeys(dtypes)) if dtypes is not None else declared
    for dtype in wanted:
        Precision.of(dtype)
        if hasattr(instance, "dtypes") and dtype not in declared:
            raise InputError(f"backend {name!r} does not declare dtype {dtype!r}", hint=f"it has {', '.join(declared)}")
    selection = tuple(only)
    checks = select_checks(selection, thorough)
    began, results, where = time.perf_counter(), [], ""
    for place, dtype in enumerate(wanted):
        candidate = Candidate(instance, dtype, device)
        for check in checks:
            if place and not check.each_dtype:
                continue
            result = run_check(check, candidate)
            results.append(result)
            if report is not None:
                report(result)
        where = where or candidate.where()
    return Certificate(
        _describe(instance, name),
        where or device or "",
        wanted,
        tuple(results),
        {**_environment(), **({"note": note} if note else {})},
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        time.perf_counter() - began,
        selection,
        declared,
        thorough,
    )


def select_checks(only: Iterable[str], thorough: bool = False) -> list[Check]:
    """The checks of the given names and groups, in the order of certificates; all when none is given.

    Args:
        thorough: those that only a thorough certificate has too. One that is named itself is always among them.
    """
    from .catalogue import all_checks

    known, names = all_checks(), tuple(only)
    for name in names:
        if not any(_covers(name, check) for check in known):
            groups = _groups(known)
            hint = did_you_mean(name, [*known, *groups], f"groups: {', '.join(groups)}")
            raise InputError(f"there is no check called {name!r}", hint=hint)
    chosen = [check for check in known.values() if not names or any(_covers(name, check.name) for name in names)]
    return [check for check in chosen if thorough or not check.thorough or check.name in names]


def _covers(name: str, check: str) -> bool:
    return check == name or check.startswith(f"{name}.")


def _groups(known: Mapping[str, Check]) -> list[str]:
    return list(dict.fromkeys(check.group for check in known.values()))


def find_backend(backend: str | Backend, device: str | None) -> tuple[Backend, str | None, str]:
    """The backend that is meant, the device of it and its name; one that is given itself is taken as it is."""
    if not isinstance(backend, str):
        return backend, device, backend.name
    from ..core.backend.choice import choose_backend
    from ..core.plugin_system.manager import plugin_manager

    choice = choose_backend(backend, plugin_manager().backends(), device)
    return choice.backend, choice.device, choice.backend.name


def _describe(backend: Backend, name: str) -> dict[str, Any]:
    """The backend's class, the versions of what it comes from and needs, and what it says of itself here."""
    from ..core.plugin_system.manager import plugin_manager

    kind = type(backend)
    modules = [kind.__module__.partition(".")[0]]
    descriptor = plugin_manager().backends().get(name)
    if descriptor is not None:
        modules += descriptor.requires
    found = packages_distributions()
    distributions = sorted({d for module in modules for d in found.get(module, [])})
    versions = {d: _version(d) for d in distributions}
    described = {"name": name, "class": f"{kind.__module__}:{kind.__qualname__}", "versions": versions}
    remark = backend.availability().reason
    return {**described, "remark": remark} if remark else described


def _environment() -> dict[str, str]:
    return {
        "polyllama": _version("polyllama"),
        "python": platform.python_version(),
        "numpy": _version("numpy"),
        "platform": f"{platform.system()} {platform.machine()}".strip(),
    }


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
