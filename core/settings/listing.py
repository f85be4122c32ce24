"""The few settings that listings need, without pydantic where nothing is set."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .files import OTHER_VARIABLES, PREFIX, Defaults, places_of_settings

if TYPE_CHECKING:
    from .schema import Settings


def listing_settings() -> Settings | Defaults:
    """The effective settings; only their defaults, and no pydantic, where no file and no variable sets any.

    Raises:
        SettingsError: as ``load_settings``.
    """
    named = any(name.upper().startswith(PREFIX) and name.upper() not in OTHER_VARIABLES for name in os.environ)
    # The file that nobody reads counts as well: load_settings warns of it.
    if not named and not any(path.exists() for pair in places_of_settings() for path in pair):
        return Defaults()
    from .schema import load_settings

    return load_settings()
