"""All checks of the conformance kit."""

from __future__ import annotations

from .checks import CHECKS, Check


def all_checks() -> dict[str, Check]:
    """Every check in the order of certificates, those of the installed tasks included."""
    from importlib import import_module

    parts = ("nodes", "models", "passes", "caches", "lengths", "sizes", "elements", "quantized", "engine")
    for part in (*parts, "adapters", "behaviour"):
        import_module(f".checks_{part}", __package__)  # registers its checks
    from .checks_gradients import gradient_checks
    from .checks_tasks import task_checks

    return CHECKS | task_checks() | gradient_checks()
