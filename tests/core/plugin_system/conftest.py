"""Fixtures shared by the tests of core/plugin_system."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from plugin_sites import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        if not name.startswith("polyllama"):
            del sys.modules[name]
