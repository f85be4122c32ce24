"""Builds the native kernels of the cpu backend; everything else is in pyproject.toml.

The kernels are an extra: without a C++ compiler, or where compiling fails, installation goes on without them, and
`polyllama backends` says how to get them. POLYLLAMA_BUILD_KERNELS=0 leaves them out, =1 makes failing an error.
POLYLLAMA_SANITIZE=address,undefined (or thread) builds them with those sanitizers.

What was built is kept in build/kernels/ and taken from there when nothing that it is made of or by has changed, so that
installing an extra does not compile anything. Removing that folder compiles them anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = Path("backends/cpu/native")
KEPT = Path("build/kernels")
COMMON = (
    *("activations", "detect", "packing", "pass", "pass_attention", "pool", "program"),
    *("module", "python_matrices", "python_program"),
)
FLAGS = ["-std=c++20", "-O3", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra"]
# GCC 12 takes the undefined operand inside its own AVX-512 intrinsics for a mistake; GCC and Clang differ in the rest.
QUIET = [
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
    "-Wno-missing-field-initializers",
    "-Wno-unknown-warning-option",
]

AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"]
KERNELS: dict[str, dict[str, list[str]]] = {
    "x86_64": {
        "portable": [],
        "avx2": AVX2,
        "avx2_vnni": [*AVX2, "-mavxvnni"],
        "avx512": AVX512,
        "avx512_bf16": [*AVX512, "-mavx512bf16"],
    },
    "aarch64": {
        "portable": [],
        "neon": ["-march=armv8.2-a+dotprod"],
        "neon_i8mm": ["-march=armv8.2-a+dotprod+i8mm+bf16"],
    },
}


def instruction_sets() -> dict[str, list[str]]:
    """Names of the kernels that are built for this machine's processor family, and the compiler's flags for each."""
    machine = platform.machine().lower()
    return KERNELS.get({"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine), {"portable": []})


class BuildKernels(build_ext):
    """Compiles the kernels once for each instruction set, and everything else once."""

    def key(self, flags: list[str], pybind11_version: str) -> str:
        """A name for all that the kernels are made of and by: sources, flags, compiler, processor, Python."""
        commands = [getattr(self.compiler, name, None) for name in ("compiler_so", "compiler_so_cxx", "linker_so_cxx")]
        programs = sorted({command[0] for command in commands if command})
        parts: list[object] = [COMMON, flags, instruction_sets(), platform.machine(), sys.platform, sys.version]
        parts += [pybind11_version, commands]
        parts += [(name, os.environ.get(name)) for name in ("ARCHFLAGS", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS")]
        parts += [version_of(program) for program in programs]
        parts += [(path.name, path.read_bytes()) for path in sorted(FOLDER.iterdir()) if path.is_file()]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        sanitize = os.environ.get("POLYLLAMA_SANITIZE", "")
        extra = [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g1", "-O1"] if sanitize else ["-g0"]
        flags = [*FLAGS, *QUIET, *extra]
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        kept = KEPT / self.key(flags, pybind11.__version__) / output.name
        if kept.is_file() and not self.force:
            shutil.copy2(kept, output)
            print(f"polyllama: the cpu backend's kernels are unchanged; taken from {kept}", file=sys.stderr)
            return
        include = [*self.compiler.include_dirs, pybind11.get_include()]
        jobs = [(f"{FOLDER}/{name}.cpp", "common", [], flags) for name in COMMON]
        for name, own in instruction_sets().items():
            # What every file sees of the portable kernels is the machine's baseline: no name of theirs leaves the file.
            jobs.append((f"{FOLDER}/kernels.cpp", name, [("POLYLLAMA_ISA", name)], [*flags, *own]))

        def compile_one(job: tuple[str, str, list[tuple[str, str]], list[str]]) -> list[str]:
            source, folder, macros, options = job
            objects: list[str] = self.compiler.compile(
                [source],
                output_dir=os.path.join(self.build_temp, folder),
                macros=macros,
                include_dirs=include,
                extra_postargs=options,
                depends=[str(header) for header in sorted(FOLDER.glob("*.h"))],
            )
            return objects

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            objects = [name for found in pool.map(compile_one, jobs) for name in found]
        link = ["-pthread", *([f"-fsanitize={sanitize}"] if sanitize else [])]
        self.compiler.link_shared_object(objects, str(output), extra_postargs=link, target_lang="c++")
        keep(output, kept)


def version_of(program: str) -> str:
    """What a compiler says of itself; nothing where it cannot be asked."""
    try:
        return subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def keep(built: Path, kept: Path) -> None:
    """Keep what was built for the next time, in the place of what this Python's kernels were before.

    A source tree that cannot be written to keeps nothing.
    """
    with contextlib.suppress(OSError):
        for old in KEPT.glob(f"*/{built.name}"):
            shutil.rmtree(old.parent)
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = kept.with_name(f".{kept.name}.{os.getpid()}")
        shutil.copy2(built, beside)
        os.replace(beside, kept)


def kernels() -> list[Extension]:
    """The extension, where it is wanted and can be tried."""
    wanted = os.environ.get("POLYLLAMA_BUILD_KERNELS", "")
    if wanted == "0":
        return []
    try:
        import pybind11  # noqa: F401
    except ImportError:
        if wanted == "1":
            raise
        print("polyllama: pybind11 is not there, so the cpu backend's kernels are not built", file=sys.stderr)
        return []
    sources = [f"{FOLDER}/{name}.cpp" for name in (*COMMON, "kernels")]
    return [Extension("polyllama.backends.cpu._kernels", sources, language="c++", optional=wanted != "1")]


if sys.platform == "darwin":
    # Pythons for two processor families compile everything twice, and no instruction set is of both.
    os.environ.setdefault("ARCHFLAGS", f"-arch {platform.machine()}")

if __name__ == "__main__":
    setup(ext_modules=kernels(), cmdclass={"build_ext": BuildKernels})
