"""Strict type checking of the package under its own name, wherever the clone lies, and of the example packages.

The repository's root is the package ``polyllama``, so its folder may be called anything; mypy finds packages by folder
name. A link of the right name, outside the package, settles that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = (
    *("polyllama.core", "polyllama.backends", "polyllama.cli", "polyllama.plugins", "polyllama.testing"),
    *("polyllama.utils", "polyllama.integrations"),
)
MODULES = ("polyllama", "polyllama.__main__", "polyllama.extend")


def main() -> int:
    """Run mypy; its exit code is ours."""
    stage = ROOT / ".cache" / "typecheck"
    stage.mkdir(parents=True, exist_ok=True)
    link = stage / "polyllama"
    if not link.is_symlink() or link.resolve() != ROOT:
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT, target_is_directory=True)
    examples = [folder for folder in sorted((ROOT / "examples").iterdir()) if (folder / "pyproject.toml").is_file()]
    # Each example is a distribution whose package has its name.
    parts = (*PARTS, *(folder.name.replace("-", "_") for folder in examples))
    what = [flag for part in parts for flag in ("-p", part)] + [flag for module in MODULES for flag in ("-m", module)]
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--explicit-package-bases"]
    environment = os.environ | {"MYPYPATH": os.pathsep.join(map(str, (stage, *examples)))}
    return subprocess.run([*command, *what, *sys.argv[1:]], cwd=stage, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
