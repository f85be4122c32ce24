"""Fixtures shared by the tests of the chat."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from chat_models import Talk, load_talker
from polyllama import Llama


@pytest.fixture(scope="session")
def talker() -> Llama:
    return load_talker()


@pytest.fixture
def talk(talker: Llama) -> Callable[..., Talk]:
    """Begin a conversation."""
    return lambda **options: Talk(talker, **options)
