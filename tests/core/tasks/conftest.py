"""Fixtures shared by the tests of core/tasks."""

from __future__ import annotations

import pytest
from head_models import Heads


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Heads:
    return Heads(tmp_path_factory.mktemp("heads"))
