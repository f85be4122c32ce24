"""Installing again compiles the kernels only where something that they are made of or by has changed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import polyllama
import pytest
from support_processes import run_process

ROOT = Path(polyllama.__file__).parent
SOURCE = 'extern "C" int polyllama_{name}_{isa}() {{ return {value}; }}\n'

# A fresh interpreter for each test: setuptools wants to be imported before any distutils, and in a process of many
# tests another may have been first.
BUILD = '''
import contextlib, importlib.util, io, shutil, sys
from pathlib import Path
from types import SimpleNamespace
from setuptools import Distribution, Extension

spec = importlib.util.spec_from_file_location("setup_script", {setup!r})
setup_script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup_script)
setup_script.COMMON = ("module",)
setup_script.instruction_sets = lambda: {{"portable": []}}
# The sources here need no headers of it.
pybind11 = sys.modules["pybind11"] = SimpleNamespace(get_include=lambda: ".", __version__="3.0")

def build(**options):
    """Build the extension; "compiled" or "taken"."""
    shutil.rmtree("built", ignore_errors=True)
    shutil.rmtree("temporary", ignore_errors=True)  # as pip has a new one each time
    extension = Extension("demo._kernels", ["unused.cpp"], language="c++")
    command = setup_script.BuildKernels(Distribution({{"ext_modules": [extension]}}))
    command.build_lib, command.build_temp = "built", "temporary"
    for name, value in options.items():
        setattr(command, name, value)
    command.ensure_finalized()
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        command.run()
    (library,) = Path("built").rglob("_kernels*")
    assert b"polyllama_kernels_any" in library.read_bytes()
    compiled = Path("temporary").exists()
    assert ("unchanged; taken from" in said.getvalue()) is not compiled
    return "compiled" if compiled else "taken"

'''

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists() or (shutil.which("c++") or shutil.which("g++")) is None,
    reason="needs the source tree and a C++ compiler",
)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Two small sources in the place of the kernels'."""
    folder = tmp_path / "backends" / "cpu" / "native"
    folder.mkdir(parents=True)
    for name in ("module", "kernels"):
        (folder / f"{name}.cpp").write_text(SOURCE.format(name=name, isa="any", value=1))
    return tmp_path


def build(folder: Path, steps: str) -> list[str]:
    """What each build of a script printed: ``"compiled"`` or ``"taken"``."""
    script = BUILD.format(setup=str(ROOT / "setup.py")) + steps
    done = run_process([sys.executable, "-c", script], cwd=folder, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return [line for line in done.stdout.decode().split() if line in ("compiled", "taken")]


def test_what_is_unchanged_is_taken(sources: Path) -> None:
    found = build(sources, "print(build(), build(), build(force=True), build())")
    assert found == ["compiled", "taken", "compiled", "taken"]


def test_every_change_is_compiled(sources: Path) -> None:
    changes = [
        f"(setup_script.FOLDER / 'module.cpp').write_text({SOURCE.format(name='module', isa='any', value=2)!r})",
        "(setup_script.FOLDER / 'new.h').write_text('')",
        "__import__('os').environ['CXXFLAGS'] = '-DNOTHING'",
        "pybind11.__version__ = '3.1'",
        "setup_script.instruction_sets = lambda: {'portable': ['-DOTHER']}",
        "setup_script.version_of = lambda program: 'another release'",
    ]
    steps = ["build()", *(f"{change}\nprint(build(), build())" for change in changes)]
    assert build(sources, "\n".join(steps)) == ["compiled", "taken"] * len(changes)
    assert len(list((sources / "build" / "kernels").iterdir())) == 1  # only the newest are kept


def test_a_tree_that_cannot_be_written_to_is_built_from(sources: Path) -> None:
    steps = (
        "setup_script.KEPT.parent.mkdir()\nsetup_script.KEPT.write_text('a file in its place')\nprint(build(), build())"
    )
    assert build(sources, steps) == ["compiled", "compiled"]
