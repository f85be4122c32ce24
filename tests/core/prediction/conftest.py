"""Fixtures shared by the tests of core/prediction."""

from __future__ import annotations

import pytest
from scored_models import Models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("predict"))
