"""The checks as a pytest suite, for the tests of a package that brings a backend:

.. code-block:: python

    from polyllama.testing import ConformanceSuite

    class TestConformance(ConformanceSuite):
        backend = "mybackend"

Every check in every dtype becomes a test of its own, named ``[float32-cache.step]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from ..core.backend.protocol import Backend
    from .candidate import Candidate


class ConformanceSuite:
    """A pytest class to derive from; it needs a ``backend``.

    Attributes:
        backend: a backend's name as plugins know it, or a backend object.
        device: one of its devices, its best by default.
        dtypes: what to try, all that the backend declares by default.
        only: names of checks or groups, all by default.
        thorough: further sizes too, which takes several times as long.
    """

    backend: ClassVar[str | Backend]
    device: ClassVar[str | None] = None
    dtypes: ClassVar[tuple[str, ...] | None] = None
    only: ClassVar[tuple[str, ...]] = ()
    thorough: ClassVar[bool] = False

    _candidates: ClassVar[dict[str, Candidate]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._candidates = {}

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Make a test of each check and dtype."""
        if not {"check", "dtype"} <= set(metafunc.fixturenames):
            return
        from .certificate import declared_dtypes, select_checks

        backend, _ = self._backend()
        dtypes = self.dtypes or declared_dtypes(backend)
        cases = [
            (dtype, check)
            for place, dtype in enumerate(dtypes)
            for check in select_checks(self.only, self.thorough)
            if check.each_dtype or not place
        ]
        metafunc.parametrize(("dtype", "check"), cases, ids=[f"{dtype}-{check.name}" for dtype, check in cases])

    def test_conformance(self, dtype: str, check: Any) -> None:
        """One check in one dtype."""
        import pytest

        from .candidate import Candidate
        from .checks import run_check

        candidate = self._candidates.get(dtype)
        if candidate is None:
            backend, device = self._backend()
            candidate = self._candidates[dtype] = Candidate(backend, dtype, device)
        result = run_check(check, candidate)
        if result.status == "skipped":
            pytest.skip(result.detail)
        if result.status != "passed":
            raise AssertionError(f"{check.summary}: {result}")

    @classmethod
    def _backend(cls) -> tuple[Backend, str | None]:
        from .certificate import find_backend

        backend, device, _ = find_backend(cls.backend, cls.device)
        return backend, device
