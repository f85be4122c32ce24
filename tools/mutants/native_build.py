"""One build of the kernels that holds many faults, made from a copy of their sources."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .native_operators import NativeMutation, switched
from .processes import ROOT

# Each file of its own: with one for all, the linker might take what was compiled for another processor.
SWITCH = """// Which fault is on: the number in the environment variable MUTANT_FAULT, none without it.
#pragma once
#include <cstdlib>
namespace {
const int polyllama_fault_on = [] {
    const char* number = std::getenv("MUTANT_FAULT");
    return number ? std::atoi(number) : 0;
}();
[[maybe_unused]] inline bool polyllama_fault(int number) { return __builtin_expect(polyllama_fault_on == number, 0); }
}
"""
# What the compiler defines for instructions, and what Linux calls a processor that has them.
INSTRUCTIONS = {"__AVX512F__": "avx512f", "__AVX512BF16__": "avx512_bf16", "__AVXVNNI__": "avx_vnni"}
# In the place of kernels that this processor cannot run, and which nothing here takes.
STUB = """#if {left_out}
#include "formats.h"
#define POLYLLAMA_STUB_(a) kernels_##a
#define POLYLLAMA_STUB(a) POLYLLAMA_STUB_(a)
namespace polyllama {{
const Kernels* POLYLLAMA_STUB(POLYLLAMA_ISA)() {{ return nullptr; }}
}}
#else
{source}
#endif
"""
ERROR = re.compile(r"^(\S+?):(\d+):\d+: (?:fatal )?error:", re.M)


def build(chosen: list[NativeMutation], folder: Path) -> tuple[Path, list[NativeMutation], list[NativeMutation]]:
    """A library with the faults that compile: its file, those faults, and those that did not compile."""
    left, dropped = list(chosen), []
    _copy(folder)
    while True:
        _write(left, folder)
        errors = {(place, int(line)) for place, line in ERROR.findall(_compile(folder, syntax_only=True)[1])}
        bad = [mutation for mutation in left if (mutation.file, mutation.line) in errors]
        if not bad:
            break
        dropped += bad
        left = [mutation for mutation in left if mutation not in bad]
    code, said = _compile(folder, syntax_only=False)
    libraries = sorted((folder / "built").rglob("_kernels*.so"))
    if code or not libraries:
        raise SystemExit(f"the kernels do not build with these faults in them:\n{said[-3000:]}")
    return libraries[0], left, dropped


def _copy(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "backends/cpu").mkdir(parents=True)
    shutil.copytree(ROOT / "backends/cpu/native", folder / "backends/cpu/native")
    shutil.copy(ROOT / "setup.py", folder / "setup.py")
    (folder / "backends/cpu/native/fault.h").write_text(SWITCH)


def _write(chosen: list[NativeMutation], folder: Path) -> None:
    """The sources, with the switch seen by each."""
    for path in sorted((ROOT / "backends/cpu/native").iterdir()):
        file = str(path.relative_to(ROOT))
        source = switched(path.read_text(), [mutation for mutation in chosen if mutation.file == file])
        if path.name == "kernels.cpp":
            source = _without_others(f'#line 1 "{file}"\n{source}')
        if path.suffix == ".cpp":
            source = f'#include "fault.h"\n#line 1 "{file}"\n{source}'
        (folder / file).write_text(source)


def _without_others(source: str) -> str:
    """The source of the kernels, empty where it is compiled for a processor that this one is not."""
    cpu = Path("/proc/cpuinfo")
    has = cpu.read_text() if cpu.is_file() else ""
    lacking = [macro for macro, name in INSTRUCTIONS.items() if has and name not in has.split()]
    if not lacking:
        return source
    return STUB.format(left_out=" || ".join(f"defined({macro})" for macro in lacking), source=source)


def _compile(folder: Path, syntax_only: bool) -> tuple[int, str]:
    environment = os.environ | {"POLYLLAMA_BUILD_KERNELS": "1"}
    if syntax_only:
        for name in ("CFLAGS", "CXXFLAGS"):
            environment[name] = f"{os.environ.get(name, '')} -fsyntax-only -fmax-errors=0".strip()
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", "built", "--build-temp", "temporary"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=3600)
    return done.returncode, done.stdout + done.stderr
