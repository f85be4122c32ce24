"""Fixtures shared by the tests."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

# Tests run in several processes on few cores; threads on top of that only get in each other's way. Read on import.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# JAX's programs run once or twice here, so most of their time is compiling. Tests that are about compiled programs have
# them as users do, by the mark `optimized_jax`. Read on import.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import pytest
from hypothesis import settings
from support_processes import end_processes
from tiny_models import TinyModels

settings.register_profile("polyllama", deadline=None)  # a busy machine is no reason to fail
settings.load_profile("polyllama")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start long tests first; all others stay in their order."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return TinyModels(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the settings or the caches of whoever runs it."""
    home = tmp_path_factory.getbasetemp() / "home"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    for name in list(os.environ):
        if name.startswith("POLYLLAMA_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _jax_optimizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With the mark, JAX compiles as it does for users, in this process and in those that it starts."""
    if request.node.get_closest_marker("optimized_jax") is None or importlib.util.find_spec("jax") is None:
        yield
        return
    import jax

    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """Whatever a test has started ends with it, also where the test fails."""
    yield
    end_processes()
