"""Paths and dotted names that documents, docstrings and comments mention exist: who moves a file moves its mentions."""

from __future__ import annotations

import ast
import fnmatch
import functools
import importlib
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import polyllama
import pytest

ROOT = Path(polyllama.__file__).parent
KINDS = {".py", ".pyi", ".md", ".toml", ".h", ".cpp", ".cmake", ".in", ".txt", ".yaml"}
SOURCE = re.compile(r"\.(py|pyi|md|h|cpp|toml|cmake)$")
FORMER_FOLDERS = {
    "bench",
    "benchmark",
    "configs",
    "native",
}  # a mention that begins with one of these is a mention of ours
PATH = re.compile(r"(?<![\w./~:<>{}$-])((?:[A-Za-z_][\w.-]*/)(?:[\w.*-]+/)*[\w.*-]*|[A-Za-z_][\w-]*\.\w+)(?![\w/])")
DOTTED = re.compile(r"(?<![\w./-])polyllama(?:\.\w+)+(?::\w+)?")
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc|obj):`~?([^`]+)`")

FOREIGN = {
    # Files of other projects, named where their format or behaviour is cited.
    "llama.cpp",
    "ggml-common.h",
    "gguf-py/gguf/constants.py",
    "generation.py",
    "Lib/pickletools.py",
    "torch/serialization.py",
    "torch/_utils.py",
    "quantization/quant_api.py",
    "convert_llama_weights_to_hf.py",
    "tokenizer.py",
    # Files of the reader, of a run or of an example in a text.
    "my_plugin.py",
    "mutant.py",
    "fault.h",
    "backends/cpu/native/fault.h",
    "benchmarks/results/NAME.png",
    "backends/NAME",
    "o.toml",
    # What a build leaves behind.
    "build/kernels",
}
NOT_MODULES = {"polyllama.yml", "polyllama.yaml", "polyllama.tokenizer.legacy", "polyllama.x", "polyllama.Lama"}


@functools.cache
def everything() -> list[str]:
    """Files and folders of the project, without what a build, a run or an editor leaves beside them."""
    tops = [path for path in ROOT.iterdir() if path.name[0] != "." and path.name not in {"build", "dist"}]
    found = [*tops, *(path for top in tops if top.is_dir() for path in top.rglob("*"))]
    names = [path.relative_to(ROOT).as_posix() for path in found if path.suffix != ".pyc"]
    return sorted(name for name in names if "__pycache__" not in name and ".egg-info" not in name)


def files() -> list[Path]:
    """The texts of the project; a bundled model's card speaks of what it was made with."""
    paths = [ROOT / name for name in everything() if not name.startswith("models/")]
    return [path for path in paths if path.is_file() and (path.suffix in KINDS or path.name == "Makefile")]


@functools.cache
def endings() -> set[str]:
    """Every file and folder, by its whole path and by each ending of it: ``gguf/reader.py`` is a mention too."""
    parts = [name.split("/") for name in everything()]
    return {"/".join(part[start:]) for part in parts for start in range(len(part))}


def spoken(source: str) -> Iterator[str]:
    """The comments and docstrings of a Python file."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def text_of(path: Path) -> str:
    """What of a file is read for paths: tests also make files of their own, so of them only comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    in_tests = path.suffix == ".py" and path.is_relative_to(ROOT / "tests")
    return "\n".join(spoken(text)) if in_tests else text


def missing_paths(text: str) -> list[str]:
    ours = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."} | FORMER_FOLDERS
    found = []
    for match in PATH.finditer(text):
        name = match[1].rstrip(".").removesuffix("/")
        is_ours = SOURCE.search(name) or ("/" in name and name.split("/")[0] in ours)
        exists = any(fnmatch.fnmatch(end, name) for end in endings()) if "*" in name else name in endings()
        if is_ours and not exists and f"{name}.py" not in endings() and name not in FOREIGN:
            found.append(name)
    return found


@functools.cache
def exists(name: str) -> bool:
    """Whether a dotted name leads to a module, or from one to a class, function or field."""
    first, *parts = re.split("[.:]", name)
    where = ROOT
    module = [first]
    while parts and ((where / parts[0]).is_dir() or list(where.glob(f"{parts[0]}.py*"))):
        where = where / parts[0]
        module.append(parts.pop(0))
    if not parts:
        return True
    try:
        value = importlib.import_module(".".join(module))
    except ImportError:  # a backend whose framework is not installed
        return "backends" in module
    for part in parts:
        if part in getattr(value, "__annotations__", ()):
            return True
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True


def bound(tree: ast.Module) -> set[str]:
    """Every name that a module binds anywhere."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {(alias.asname or alias.name).split(".")[0] for alias in aliases}
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
    return names


def missing_names(text: str, is_python: bool) -> list[str]:
    found = [name for name in DOTTED.findall(text) if not name.endswith("__") and name not in NOT_MODULES]
    found = [name for name in found if not SOURCE.search(name) and not exists(name)]
    if is_python:
        names = bound(ast.parse(text))
        roles = [name for name in ROLE.findall(text) if not name.startswith("polyllama.")]
        found += [name for name in roles if name.split(".")[0] not in names]
    return found


def test_every_path_that_is_mentioned_exists() -> None:
    found = {f"{path.relative_to(ROOT)}: {name}" for path in files() for name in missing_paths(text_of(path))}
    assert found == set()


def test_every_dotted_name_that_is_mentioned_exists() -> None:
    found = set()
    for path in files():
        text = path.read_text(encoding="utf-8")
        found |= {f"{path.relative_to(ROOT)}: {name}" for name in missing_names(text, path.suffix == ".py")}
    assert found == set()


GONE_PATHS = ["core/loading.py", "checkpoint/remote.py", "bench/results", "tests/configs", "core/gguf_*.py", "open.py"]
GONE_NAMES = ["core.hub", "core.loading.load:lood", "Llama.fordward", "benchmark"]


@pytest.mark.parametrize("name", GONE_PATHS)
def test_a_path_that_is_gone_is_found(name: str) -> None:
    assert missing_paths(f"See `{name}`, and core/loading/load.py, `gguf/reader.py`, llama.cpp.") == [name]


@pytest.mark.parametrize("name", GONE_NAMES)
def test_a_dotted_name_that_is_gone_is_found(name: str) -> None:
    gone, role = f"polyllama.{name}", ":func:"
    assert missing_names(f"See {gone}, polyllama.Llama.forward and polyllama.core.errors.", False) == [gone]
    source = f'"""See {role}`{gone}` and {role}`gone`, {role}`here`."""\ndef here(): ...'
    assert missing_names(source, True) == [gone, "gone"]
