"""The conformance kit: is a backend right?

``polyllama certify BACKEND`` tries it against the float64 spec and writes a certificate; :class:`ConformanceSuite` is
the same as a pytest suite; ``polyllama compare MODEL`` says whether two backends differ by a bug or by rounding. How
bounds come about is in :mod:`polyllama.testing.rounding`. Importing this package loads nothing else. Begin with
``oracle.py`` and ``checks.py``; the project's own tests are in ``tests/``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import fetched_when_used

if TYPE_CHECKING:
    from .certificate import Certificate, certify, read_certificate
    from .comparing import Comparison, compare_backends
    from .suite import ConformanceSuite

__all__ = [
    "Certificate",
    "Comparison",
    "ConformanceSuite",
    "certify",
    "compare_backends",
    "read_certificate",
]

_HOMES = {
    "Certificate": "certificate",
    "Comparison": "comparing",
    "ConformanceSuite": "suite",
    "certify": "certificate",
    "compare_backends": "comparing",
    "read_certificate": "certificate",
}


__getattr__ = fetched_when_used(__name__, _HOMES)
