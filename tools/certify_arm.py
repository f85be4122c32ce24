"""The conformance kit on the NEON kernels, on a machine that is no ARM: compiled for ARM, run under an emulator.

    python tools/certify_arm.py                         # every instruction set of ARM; certificates into .cache/arm
    python tools/certify_arm.py neon -- --only node     # one of them; what follows -- is for `polyllama certify`
    .cache/arm/python -m pytest tests/backends/cpu/test_cpu.py       # afterwards: any Python program, with the ARM
    build

For Debian (tried: 12) and Ubuntu (not tried so far). A Python for ARM, of this machine's own release, comes from its
mirror, packages from PyPI; all lies in .cache/arm, nothing is installed, and no rights are needed. The compiler and the
emulator must be there. Emulated programs are slow, and what they ask the kernel the emulator answers: three tests of
tests/backends/cpu/test_cpu_limits.py fail there, on limits of memory, signals of threads, and one that takes longer
than it may.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import ZipFile

import pip

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache" / "arm"
INSTRUCTION_SETS = ("neon", "neon_i8mm", "portable")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
# Of each distribution: the mirror that has ARM's packages, the keys they are signed with, and the package of those.
MIRRORS = {
    "debian": ("http://deb.debian.org/debian", "debian-archive-keyring"),
    "ubuntu": ("http://ports.ubuntu.com/ubuntu-ports", "ubuntu-archive-keyring"),
}
SYSTEM_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libpython3-dev", "libstdc++6")
# To build the extension, and to run tests of it.
BUILD_PACKAGES = ("pybind11", "setuptools")
TEST_PACKAGES = ("hypothesis", "psutil", "pytest", "safetensors")


def main(arguments: Sequence[str] | None = None) -> int:
    """Get what is missing, build, certify; 1 where a check fails."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    own, options = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="ISA", help=f"by default {', '.join(INSTRUCTION_SETS)}")
    parser.add_argument("--to", type=Path, default=FOLDER, help="folder for cpu-ISA.json; by default .cache/arm")
    asked = parser.parse_args(own)
    names = asked.names or list(INSTRUCTION_SETS)
    if unknown := [name for name in names if name not in INSTRUCTION_SETS]:
        parser.error(f"no instruction set of ARM's: {', '.join(unknown)}; there are {', '.join(INSTRUCTION_SETS)}")
    if not asked.to.is_dir() and asked.to != FOLDER:
        parser.error(f"--to {asked.to}: there is no such folder; make it first")
    check_tools()
    FOLDER.mkdir(parents=True, exist_ok=True)
    system = get_system()
    python = make_python(system)
    get_packages(python)
    build(python, system)
    return int(not all([certify(python, name, asked.to, options) for name in names]))


def check_tools() -> None:
    """Say everything that is missing, with the command that installs it."""
    missing = [] if shutil.which("aarch64-linux-gnu-g++") else ["g++-aarch64-linux-gnu"]
    if EMULATOR is None:
        missing.append("qemu-user-static")
    try:
        distribution = platform.freedesktop_os_release().get("ID", "")
    except OSError:
        distribution = sys.platform
    if distribution not in MIRRORS:
        raise SystemExit(f"error: this takes Debian or Ubuntu, not {distribution}: their packages have Python for ARM")
    keys = MIRRORS[distribution][1]
    if not keyring(keys).is_file():
        missing.append("ubuntu-keyring" if distribution == "ubuntu" else keys)
    if missing:
        raise SystemExit(f"error: not installed: {', '.join(missing)}; sudo apt-get install {' '.join(missing)}")


def keyring(name: str) -> Path:
    """The file of public keys that a distribution signs its packages with."""
    return Path("/usr/share/keyrings") / f"{name}.gpg"


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
    """Run a command in the repository; where it fails, its last lines are the error."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-15:])
        raise SystemExit(f"{last}\nerror: this failed with {done.returncode}: {shlex.join(map(str, command))}")


class Stage:
    """A folder that is made once, and anew where what it was made from has changed."""

    def __init__(self, name: str, made_from: object) -> None:
        self.folder, self.stamp = FOLDER / name, FOLDER / f"{name}.made"
        self.key = hashlib.sha256(json.dumps(made_from, default=str).encode()).hexdigest()

    def fresh(self) -> bool:
        """Whether it is there as it should be; else it is emptied."""
        if self.stamp.is_file() and self.stamp.read_text() == self.key:
            return True
        self.stamp.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return False

    def done(self) -> None:
        """Only now it counts as made."""
        self.stamp.write_text(self.key)


def get_system() -> Path:
    """A folder with Python for ARM and what it needs, unpacked from the distribution's packages.

    They are of this machine's own release, so that their C library is the one that the compiler links with.
    """
    release = platform.freedesktop_os_release()
    mirror, keys = MIRRORS[release["ID"]]
    source = f"deb [arch=arm64 signed-by={keyring(keys)}] {mirror} {release['VERSION_CODENAME']} main universe"
    source = source if release["ID"] == "ubuntu" else source.removesuffix(" universe")
    stage = Stage("system", [source, SYSTEM_PACKAGES])
    if stage.fresh():
        return stage.folder
    print(f"getting Python for ARM from {mirror}", flush=True)
    # A state of its own, where nothing is installed: apt finds out what all is needed, and this machine's is untouched.
    apt = FOLDER / "apt"
    shutil.rmtree(apt, ignore_errors=True)
    for folder in ("etc", "state/lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "state" / "status").touch()
    (apt / "etc" / "sources.list").write_text(f"{source}\n", encoding="utf-8")
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",
        "APT::Update::Error-Mode": "any",  # else a mirror that is not reached is a warning
        "Acquire::Languages": "none",
        "Dir::Cache": apt / "cache",
        "Dir::Etc": apt / "etc",
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "state" / "status",
        "Debug::NoLocking": "true",
    }
    # What this machine does after an update, with its caches and for its desktop, is for its own packages.
    hooks = "".join(f"#clear APT::Update::{name};\n" for name in ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success"))
    (apt / "hooks.conf").write_text(hooks, encoding="utf-8")
    command = ["apt-get", "-q", f"-c{apt / 'hooks.conf'}", *(f"-o{name}={value}" for name, value in settings.items())]
    run([*command, "update"])
    run([*command, "install", "-y", "--no-install-recommends", "--download-only", *SYSTEM_PACKAGES])
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        run(["dpkg-deb", "-x", package, stage.folder])
    shutil.rmtree(apt)
    library = stage.folder / "lib"
    if not library.exists():  # newer releases have all in usr, and a package that is not wanted here links to it
        library.symlink_to("usr/lib")
    stage.done()
    return stage.folder


def make_python(system: Path) -> Path:
    """A command that runs Python for ARM, with the packages in .cache/arm/site, for others and for Python itself."""
    name = (system / "usr" / "bin" / "python3").readlink().name
    emulator = shlex.join([str(EMULATOR), "-cpu", "max", "-L", str(system)])
    python = FOLDER / "python"
    python.write_text(
        f'#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(FOLDER / "site"))}${{PYTHONPATH:+":$PYTHONPATH"}}\n'
        f'exec {emulator} {shlex.quote(str(system / "usr" / "bin" / name))} "$@"\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    return python


def get_packages(python: Path) -> None:
    """The packages that polyllama needs, in the versions of constraints.txt, as wheels for ARM."""
    found = subprocess.run(
        [python, "-S", "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True, text=True
    )
    version = found.stdout.strip()
    if found.returncode or tuple(map(int, version.split("."))) < (3, 11):
        raise SystemExit(f"error: polyllama needs Python 3.11 or later; for ARM there is {version or found.stderr!r}")
    with open(ROOT / "pyproject.toml", "rb") as file:
        wanted = [*tomllib.load(file)["project"]["dependencies"], *BUILD_PACKAGES, *TEST_PACKAGES]
    constraints = ROOT / "constraints.txt"
    stage = Stage("site", [version, wanted, constraints.read_text(encoding="utf-8"), str(python)])
    if stage.fresh():
        return
    print(f"getting packages for Python {version} on ARM", flush=True)
    # This Python's own pip, run by the other: it asks for wheels as they are chosen there.
    command: list[str | Path] = [python, Path(pip.__file__).parent, "install", "-q", "--no-compile"]
    run([*command, "--only-binary=:all:", "--target", stage.folder, "-c", constraints, *wanted])
    # Programs that start Python again must start the command, not the file that only the emulator can run.
    (stage.folder / "sitecustomize.py").write_text(f"import sys\n\nsys.executable = {str(python)!r}\n")
    stage.done()


def build(python: Path, system: Path) -> None:
    """polyllama as a wheel for ARM, unpacked beside its packages; the compiler itself runs unemulated."""
    print("compiling for ARM", flush=True)
    work, site = FOLDER / "build", FOLDER / "site"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    headers = next((system / "usr" / "include").glob("python3.*"))
    environment = {
        "CC": "aarch64-linux-gnu-gcc",
        "CXX": "aarch64-linux-gnu-g++",
        "CFLAGS": "",  # what may be set is for this machine's processor
        "CPPFLAGS": shlex.join([f"-I{headers}", "-idirafter", str(headers.parent)]),
        "POLYLLAMA_BUILD_KERNELS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    steps = "egg_info --egg-base {0} build --build-base {0} bdist_wheel --bdist-dir {0}/wheel --dist-dir {0}"
    run([python, "setup.py", "-q", *(step.format(work) for step in steps.split())], environment)
    shutil.rmtree(site / "polyllama", ignore_errors=True)
    with ZipFile(next(work.glob("*.whl"))) as file:
        file.extractall(site)


def certify(python: Path, name: str, to: Path, options: Sequence[str]) -> bool:
    """The kit on one instruction set; a certificate of another, or of this machine, is none."""
    said = subprocess.run([str(EMULATOR), "--version"], capture_output=True, text=True, check=True).stdout
    file = to.resolve() / f"cpu-{name}.json"
    made = file.with_name(f"{file.name}.part")
    made.unlink(missing_ok=True)
    note = f"{name}, emulated by {' '.join(said.split('(')[0].split())}"
    print(f"\n{note}", flush=True)
    environment = {
        **os.environ,
        "POLYLLAMA_CPU_ISA": name,
        "XDG_CONFIG_HOME": str(FOLDER / "home"),
        "XDG_STATE_HOME": str(FOLDER / "home"),
        # Threads of NumPy's libraries wait for one another on the few cores that an emulator has.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [python, "-m", "polyllama", "certify", "cpu", "--json", made, "--note", note, *options]
    passed = subprocess.run(list(map(str, command)), cwd=FOLDER, env=environment, check=False).returncode == 0
    if made.is_file():  # what follows -- may ask for none
        data = json.loads(made.read_text(encoding="utf-8"))
        ran = data["backend"].get("remark", ""), data["environment"]["platform"]
        if not ran[0].startswith(f"runs as {name};") or ran[1] != "Linux aarch64":
            made.unlink()
            raise SystemExit(f"error: the certificate for {file} is of something else: {ran[0]!r} on {ran[1]}")
        made.replace(file)
        print(f"certificate: {file}")
    return passed


if __name__ == "__main__":
    sys.exit(main())
