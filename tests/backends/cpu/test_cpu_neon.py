"""The NEON kernels beside the portable ones: compiled for ARM, run under an emulator, where both are installed.

Debian: apt-get install g++-aarch64-linux-gnu qemu-user-static. The program stands alone and needs no Python for ARM.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support_processes import run_process

ROOT = Path(__file__).parents[3]
NATIVE, PROGRAM = (
    ROOT / "backends" / "cpu" / "native",
    ROOT / "tests" / "backends" / "cpu" / "native" / "compare_kernels.cpp",
)
COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
FLAGS = ("-std=c++20", "-O1", "-fno-math-errno", "-Wall", "-Wextra", "-Werror")
# As in setup.py.
ARCHITECTURES = {"neon": "armv8.2-a+dotprod", "neon_i8mm": "armv8.2-a+dotprod+i8mm+bf16", "portable": "armv8-a"}
# What each is for: without these instructions it would be tested for nothing.
INSTRUCTIONS = {"neon": {"sdot"}, "neon_i8mm": {"sdot", "usdot", "bfdot"}, "portable": set()}

pytestmark = pytest.mark.skipif(
    COMPILER is None or EMULATOR is None, reason="needs a compiler for aarch64 and qemu-user"
)


def compiled(source: Path, to: Path, *flags: str) -> Path:
    run_process([str(COMPILER), *FLAGS, *flags, "-c", str(source), "-o", str(to)], check=True)
    return to


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("aarch64")

    def kernels(name: str) -> Path:
        flags = f"-DPOLYLLAMA_ISA={name}", f"-march={ARCHITECTURES[name]}"
        return compiled(NATIVE / "kernels.cpp", folder / f"{name}.o", *flags)

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(ARCHITECTURES, pool.map(kernels, ARCHITECTURES), strict=True))
    found["packing"] = compiled(NATIVE / "packing.cpp", folder / "packing.o")
    return found


@pytest.mark.parametrize("name", ["neon", "neon_i8mm"])
def test_neon_kernels_give_what_the_portable_ones_give(name: str, objects: dict[str, Path], tmp_path: Path) -> None:
    listing = run_process(
        ["aarch64-linux-gnu-objdump", "-d", str(objects[name])], capture_output=True, text=True, check=True
    ).stdout
    assert set(listing.split()) >= INSTRUCTIONS[name]
    program = compiled(PROGRAM, tmp_path / "compare.o", f"-DPOLYLLAMA_TESTED={name}")
    parts = [str(program), *(str(objects[part]) for part in ("packing", "portable", name))]
    run_process([str(COMPILER), "-static", "-o", str(tmp_path / "compare"), *parts], check=True)
    done = run_process([str(EMULATOR), "-cpu", "max", str(tmp_path / "compare")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{name}: 1827 comparisons, 0 differ\n")
