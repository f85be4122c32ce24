"""Builds the native kernels of the cpu backend; everything else is in pyproject.toml.

The kernels are an extra: without a C++ compiler, or where compiling fails, installation goes on without them, and
`polyllama backends` says how to get them. POLYLLAMA_BUILD_KERNELS=0 leaves them out, =1 makes failing an error.
POLYLLAMA_SANITIZE=address,undefined (or thread) builds them with those sanitizers.
"""

from __future__ import annotations

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = Path("backends/cpu/native")
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

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        sanitize = os.environ.get("POLYLLAMA_SANITIZE", "")
        extra = [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g1", "-O1"] if sanitize else ["-g0"]
        flags = [*FLAGS, *QUIET, *extra]
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
        output = self.get_ext_fullpath(ext.name)
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        link = ["-pthread", *([f"-fsanitize={sanitize}"] if sanitize else [])]
        self.compiler.link_shared_object(objects, output, extra_postargs=link, target_lang="c++")


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

setup(ext_modules=kernels(), cmdclass={"build_ext": BuildKernels})
