"""Where settings come from, and whether there are any: what listings need to know, without importing pydantic.

Half of the time that listing plugins takes would go into importing it, for settings that nobody has set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import warn

FILE_NAME = "polyllama.yaml"
PREFIX = "POLYLLAMA_"
DEFAULT = "default"

OTHER_VARIABLES: dict[str, str] = {
    "POLYLLAMA_CPU_ISA": "the instruction set the native CPU backend may use",
    "POLYLLAMA_DEBUG": "the command line shows the traceback of every error",
}
"""Variables that are no setting but mean something to a part of polyllama or to a plugin: name -> what it does.

Whoever reads such a variable adds it here, so that a misspelt one can be told from it.
"""


@dataclass(frozen=True)
class Defaults:
    """The settings that listings read, where nothing sets any."""

    backend: str = "auto"
    device: str | None = None
    constraints: str = "llguidance"
    plugins_allow: tuple[str, ...] | None = None
    plugins_block: tuple[str, ...] = ()

    @property
    def provenance(self) -> Mapping[str, str]:
        """As that of ``Settings``."""
        return dict.fromkeys(vars(self), DEFAULT)


def user_config_folder() -> Path:
    """The folder of the user's own ``polyllama.yaml`` and ``registry.yaml``; it need not exist.

    ``$XDG_CONFIG_HOME/polyllama`` where that variable is set, on any system; else what platformdirs says.
    """
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    if configured and Path(configured).is_absolute():
        return Path(configured) / "polyllama"
    import platformdirs

    return Path(platformdirs.user_config_path("polyllama", appauthor=False))


def settings_files() -> list[Path]:
    """The settings files that exist, lowest precedence first."""
    found: list[Path] = []
    for path, misnamed in places_of_settings():
        if path.exists() and not any(path.samefile(other) for other in found):
            found.append(path)
        elif not path.exists() and misnamed.exists():
            warn(f"{misnamed} is not read; rename it to {FILE_NAME}", general=True)
    return found


def places_of_settings() -> list[tuple[Path, Path]]:
    """Where a settings file may be, lowest precedence first, each with the name under which nothing reads it."""
    paths = [folder / FILE_NAME for folder in (user_config_folder(), Path.cwd())]
    return [(path, path.with_suffix(".yml")) for path in paths]
