"""What a check found: the error that comes closest to (or furthest past) its bound."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .rounding import Expected

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """An error and its bound, both relative to the largest value of the expected result; `detail` says where.

    Attributes:
        widest: the largest bound of all elements, and `typical`, their root mean square, relative to the same value.
            Unlike `bound`, which is that of the element with the worst error, they depend on nothing that was found.

    >>> Measurement(1e-7, 2e-7).passed, Measurement(math.inf, 0.0, "NaN").passed
    (True, False)
    """

    error: float
    bound: float
    detail: str = ""
    widest: float = 0.0
    typical: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the error is within the bound."""
        return self.error <= self.bound

    @property
    def ratio(self) -> float:
        """Error over bound: above 1 it fails."""
        if self.bound > 0 and math.isfinite(self.error):
            return self.error / self.bound
        return 0.0 if self.error == 0 else math.inf


def failure(detail: str) -> Measurement:
    """A check that fails for another reason than a large error."""
    return Measurement(math.inf, 0.0, detail)


def worst(measurements: Iterable[Measurement]) -> Measurement:
    """The one that comes closest to its bound; an empty check is a failure, for it has checked nothing.

    Its `widest` and `typical` are the largest of all.
    """
    known = list(measurements)
    closest = max(known, key=lambda m: m.ratio, default=failure("nothing was measured"))
    widest = max((m.widest for m in known), default=0.0)
    return replace(closest, widest=widest, typical=max((m.typical for m in known), default=0.0))


def compare(found: Any, wanted: Expected, what: str = "") -> Measurement:
    """The element of `found` that is worst beside what is `wanted` of it."""
    found = np.asarray(found, np.float64)
    if found.shape != wanted.wanted.shape:
        return failure(f"{what}: shape {list(found.shape)}, wanted {list(wanted.wanted.shape)}".lstrip(": "))
    if not np.isfinite(found).all():
        place = np.argwhere(~np.isfinite(found))[0].tolist()
        return failure(f"{what}{place} is {found[tuple(place)]}")
    error, bound = np.abs(found - wanted.wanted), wanted.bound
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / bound)
    place = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    scale = float(np.max(np.abs(wanted.wanted))) or 1.0
    where = f"{what}{[int(i) for i in place]}" if found.ndim else what
    detail = f"{where}: {found[place]:.9g}, wanted {wanted.wanted[place]:.9g}"
    widest, typical = float(np.max(bound)) / scale, float(np.sqrt(np.mean(bound * bound))) / scale
    return Measurement(float(error[place]) / scale, float(bound[place]) / scale, detail, widest, typical)


def within(found: Any, wanted: Floats, bound: Floats, what: str = "") -> Measurement:
    """:func:`compare` with a bound given by a formula."""
    return compare(found, Expected(np.asarray(wanted, np.float64), np.asarray(bound, np.float64)), what)


def equal(found: Any, wanted: Any, what: str = "") -> Measurement:
    """Nothing may differ."""
    wanted = np.asarray(wanted, np.float64)
    return compare(found, Expected(wanted, np.zeros_like(wanted)), what)
