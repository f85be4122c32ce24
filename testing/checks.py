"""The registry of checks: a name, a sentence, and a function from a candidate to what it found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..core.plugin_system.hookspecs import describe_exception
from .candidate import Candidate
from .measure import Measurement, failure, worst

Found = Measurement | Iterable[Measurement]


class Skipped(Exception):
    """Raised by a check that does not apply; the certificate gives its message."""


@dataclass(frozen=True)
class Check:
    """One statement about a backend, and how it is tried.

    Attributes:
        name: what it is called in certificates, ``"cache.step"``.
        summary: what passing it means.
        each_dtype: tried in every dtype; otherwise in the first only, because no arithmetic is involved.
        thorough: tried only where a thorough certificate is asked for: further sizes of what others try already.
    """

    name: str
    summary: str
    run: Callable[[Candidate], Found]
    each_dtype: bool = True
    thorough: bool = False

    @property
    def group(self) -> str:
        """The part of the name before the first dot."""
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Result:
    """What came of one check in one dtype. ``status``: "passed", "failed" or "skipped".

    Attributes:
        widest, typical: see :class:`~polyllama.testing.measure.Measurement`; certificates do not hold them.
    """

    check: str
    dtype: str
    status: str
    error: float
    bound: float
    detail: str = ""
    widest: float = 0.0
    typical: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which has no infinity: the error of a check that broke down is ``None``."""
        return {
            "check": self.check,
            "dtype": self.dtype,
            "status": self.status,
            "error": self.error if math.isfinite(self.error) else None,
            "bound": self.bound,
            "detail": self.detail,
        }

    def __str__(self) -> str:
        if self.status == "skipped":
            return f"{self.check} [{self.dtype}] skipped: {self.detail}"
        numbers = f"error {self.error:.3g}, bound {self.bound:.3g}"
        return f"{self.check} [{self.dtype}] {self.status}: {numbers}" + (f" ({self.detail})" if self.detail else "")


CHECKS: dict[str, Check] = {}
"""Every check by name, in the order of certificates; the modules ``checks_*`` fill it."""


def check(
    name: str, summary: str, *, each_dtype: bool = True, thorough: bool = False
) -> Callable[[Callable[[Candidate], Found]], Any]:
    """Register a function as a check."""

    def register(run: Callable[[Candidate], Found]) -> Callable[[Candidate], Found]:
        CHECKS[name] = Check(name, summary, run, each_dtype, thorough)
        return run

    return register


def run_check(check: Check, candidate: Candidate) -> Result:
    """Try one check; whatever the backend raises fails it, by name."""
    try:
        found = check.run(candidate)
        measured = worst([found] if isinstance(found, Measurement) else found)
    except Skipped as reason:
        return Result(check.name, candidate.dtype, "skipped", 0.0, 0.0, str(reason))
    except Exception as error:  # the backend's fault, and what the check is there to find
        measured = failure(describe_exception(error))
    status = "passed" if measured.passed else "failed"
    numbers = measured.error, measured.bound, measured.detail, measured.widest, measured.typical
    return Result(check.name, candidate.dtype, status, *numbers)
