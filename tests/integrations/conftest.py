"""What these tests share."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Checkpoints that transformers wrote."""
    pytest.importorskip("transformers")
    from documented_models import Saved

    return Saved(tmp_path_factory.mktemp("documented"))
