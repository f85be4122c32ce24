"""One module loaded from another file, or every module of the package with a record of its calls.

MUTANT_MODULE and MUTANT_SOURCE name a module and the file, Python or a compiled extension, that is loaded in its place;
the working tree stays as it is. MUTANTS_CALLS names a folder: functions then note that they were called, and a process
that ends writes what was called in it into that folder.
"""

from __future__ import annotations

import ast
import atexit
import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType

PACKAGE = "polyllama"
PROBE = "_mutants_called"
called: set[str] = set()


class _Replaced(importlib.machinery.SourceFileLoader):
    """Source of another file under the module's own name and path, without bytecode on disk."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(Path(self.source).read_bytes(), self.path, "exec", dont_inherit=True)


class _Recorded(importlib.machinery.SourceFileLoader):
    """The module's own source, whose functions note their calls."""

    def get_code(self, fullname: str) -> CodeType:
        tree = ast.parse(Path(self.path).read_bytes())
        add_probes(tree, fullname)
        return compile(tree, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, PROBE, called.add)
        super().exec_module(module)


def add_probes(tree: ast.Module, module: str) -> None:
    """Begin every function with a note of its call: "module:Class.method", inner functions under the outer one."""

    def into(node: ast.AST, names: tuple[str, ...], function: str | None) -> None:
        for child in ast.iter_child_nodes(node):
            inner, within = function, names
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and function is None:
                within = (*names, child.name)
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = function or ".".join(within)
                note = ast.Expr(ast.Call(ast.Name(PROBE, ast.Load()), [ast.Constant(f"{module}:{inner}")], []))
                first = 1 if ast.get_docstring(child, clean=False) is not None else 0
                child.body.insert(first, note)
            into(child, within, inner)

    into(tree, (), None)
    ast.fix_missing_locations(tree)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str | None, source: str | None) -> None:
        self.module, self.source = module, source

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if path is None or not (name == self.module or (self.module is None and name.startswith(f"{PACKAGE}."))):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None:
            return None
        if self.source is None:
            if isinstance(spec.loader, importlib.machinery.SourceFileLoader):
                spec.loader = _Recorded(name, spec.origin)
        elif self.source.endswith(".py"):
            spec.loader = _Replaced(name, spec.origin, self.source)
        else:
            spec.loader = importlib.machinery.ExtensionFileLoader(name, self.source)
            spec.origin = self.source
        return spec


def write_calls(folder: str) -> None:
    """Write what was called in this process into a file of its own, and begin anew."""
    if called:
        Path(folder, f"{os.getpid()}-{os.urandom(4).hex()}.json").write_text(json.dumps(sorted(called)))
        called.clear()


def install() -> None:
    """Do what the environment variables ask for, if any is set."""
    module, source, calls = (os.environ.get(name) for name in ("MUTANT_MODULE", "MUTANT_SOURCE", "MUTANTS_CALLS"))
    if module and source:
        sys.meta_path.insert(0, _Finder(module, source))
    elif calls:
        sys.meta_path.insert(0, _Finder(None, None))
        atexit.register(write_calls, calls)
