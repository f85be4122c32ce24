"""Shared by the tests of core/plugin_system: models and helpers."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

from polyllama.core.errors import PolyllamaWarning
from polyllama.core.plugin_system.entry_points import find_entry_points
from polyllama.core.plugin_system.info import PluginInfo
from polyllama.core.plugin_system.manager import Plugins
from support_processes import run_process

HEADER = """
import polyllama.extend as p
hookimpl = p.hookimpl
"""


GOOD = """
@hookimpl
def polyllama_backends():
    return [p.BackendDescriptor("good", "good_backend:Good", "a backend of a test")]
"""


class Site:
    """A folder of installed packages, as pip leaves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, distribution: str, source: str, *, module: str | None = None, entry: str | None = None) -> str:
        module = module or distribution.replace("-", "_")
        entry = entry or f"{distribution} = {module}"
        (self.folder / f"{module}.py").write_text(HEADER + textwrap.dedent(source))
        info = self.folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n\nName: no\n")
        (info / "entry_points.txt").write_text(f"[other]\nx = y\n\n[polyllama]\n# a comment\n{entry}\n")
        return module

    def load(self, **options: object) -> tuple[Plugins, list[str]]:
        """Everything here and the built-ins, and the warnings loading gave."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            plugins = Plugins(find_entry_points("polyllama", [str(self.folder)]), **options)  # type: ignore[arg-type]
        assert all(issubclass(warning.category, PolyllamaWarning) for warning in caught)
        return plugins, [str(warning.message) for warning in caught]


def info(plugins: Plugins, name: str) -> PluginInfo:
    return next(plugin for plugin in plugins.plugins() if plugin.name == name)


def run_python(code: str, *paths: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, paths), *inherited]), **environment}
    return run_process(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=env, timeout=60
    )
