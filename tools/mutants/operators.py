"""Mutations of Python source: small changes of its syntax tree, each of which is a mistake that somebody could make.

Sources are compared as `ast.unparse` writes them, so a mutation is known by its file, its function and its statement
before and after, whatever is formatted or moved around it.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.FloorDiv, ast.Add),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult, ast.Mod),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum"}
NAMES |= {"cos": "sin", "sin": "cos", "floor": "ceil", "ceil": "floor", "argmax": "argmin", "ones": "zeros"}
# Calls whose arguments are of different kinds.
ORDERED = {"isinstance", "issubclass", "hasattr", "getattr", "setattr", "reshape", "astype", "cast", "map", "filter"}
TEXT = (ast.JoinedStr, ast.List, ast.Tuple)


@dataclass(frozen=True)
class Mutation:
    """One change of one file. Two that read the same in one function are told apart by `occurrence`, from 1."""

    file: str
    function: str
    line: int
    operator: str
    original: str
    mutated: str
    occurrence: int = 1

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return self.file, self.function, self.original, self.mutated, self.occurrence

    def order(self, seed: int) -> str:
        """A place in a shuffled order that does not depend on any other mutation."""
        return hashlib.sha256(repr((seed, *self.key)).encode()).hexdigest()


@dataclass
class _Change:
    """A change of the tree in place: `do` makes it, `undo` takes it back."""

    operator: str
    do: Callable[[], None]
    undo: Callable[[], None]
    removed: ast.stmt | None = None


def _set(operator: str, node: ast.AST, field: str, value: object) -> _Change:
    old = getattr(node, field)
    return _Change(operator, lambda: setattr(node, field, value), lambda: setattr(node, field, old))


def _item(operator: str, items: list[ast.AST], place: int, *new: ast.AST) -> _Change:
    """Item `place` replaced by `new`: by nothing, one or several."""
    old = list(items)
    return _Change(
        operator, lambda: items.__setitem__(slice(place, place + 1), new), lambda: items.__setitem__(slice(None), old)
    )


def _of_compare(node: ast.Compare) -> Iterator[_Change]:
    for i, op in enumerate(node.ops):
        for other in COMPARISONS[type(op)]:
            yield _item("comparison", node.ops, i, other())  # type: ignore[arg-type]


def _of_bool_op(node: ast.BoolOp) -> Iterator[_Change]:
    yield _set("and-or", node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
    if len(node.values) > 1:
        for i in range(len(node.values)):
            yield _item("dropped clause", node.values, i)  # type: ignore[arg-type]


def _of_bin_op(node: ast.BinOp) -> Iterator[_Change]:
    sides = (node.left, node.right)
    if any(isinstance(s, TEXT) or (isinstance(s, ast.Constant) and isinstance(s.value, str)) for s in sides):
        return
    for other in ARITHMETIC.get(type(node.op), ()):
        yield _set("arithmetic", node, "op", other())


def _of_constant(node: ast.Constant) -> Iterator[_Change]:
    value = node.value
    if isinstance(value, bool):
        yield _set("true-false", node, "value", not value)
    elif isinstance(value, int):
        yield _set("off by one", node, "value", value + 1)
        if value > 0:
            yield _set("off by one", node, "value", value - 1)
    elif isinstance(value, float):
        yield _set("number", node, "value", value * 2 if value else 1.0)


def _of_call(node: ast.Call) -> Iterator[_Change]:
    for i, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            yield _item("dropped keyword", node.keywords, i)  # type: ignore[arg-type]
    plain = node.args[:2]
    if len(plain) == 2 and not any(map(_of_another_kind, plain)) and _name(node) not in ORDERED:
        yield _set("swapped arguments", node, "args", [plain[1], plain[0], *node.args[2:]])
    if isinstance(node.func, ast.Name) and node.func.id in NAMES:
        yield _set("function", node.func, "id", NAMES[node.func.id])
    elif isinstance(node.func, ast.Attribute) and node.func.attr in NAMES:
        yield _set("function", node.func, "attr", NAMES[node.func.attr])


def _of_another_kind(argument: ast.expr) -> bool:
    """Whether an argument is plainly of another kind than its neighbour: swapped, any call at all would fail."""
    if isinstance(argument, ast.Name):
        return argument.id == "xp"
    return isinstance(argument, ast.Starred | ast.Constant | ast.Lambda | ast.Tuple | ast.List | ast.Dict)


def _name(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _of_slice(node: ast.Slice) -> Iterator[_Change]:
    for bound in ("lower", "upper"):
        value = getattr(node, bound)
        if value is not None:
            yield _set("slice bound", node, bound, None)
            if not isinstance(value, ast.Constant):
                yield _set("slice bound", node, bound, ast.BinOp(value, ast.Add(), ast.Constant(1)))


def _of_test(node: ast.If | ast.IfExp | ast.While) -> Iterator[_Change]:
    if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
        yield _set("inverted condition", node, "test", ast.UnaryOp(ast.Not(), node.test))


def _of_node(node: ast.AST) -> Iterator[_Change]:
    match node:
        case ast.Compare():
            yield from _of_compare(node)
        case ast.BoolOp():
            yield from _of_bool_op(node)
        case ast.BinOp() | ast.AugAssign():
            yield from _of_bin_op(node) if isinstance(node, ast.BinOp) else _of_augmented(node)
        case ast.Constant():
            yield from _of_constant(node)
        case ast.Call():
            yield from _of_call(node)
        case ast.Slice():
            yield from _of_slice(node)
        case ast.If() | ast.IfExp() | ast.While():
            yield from _of_test(node)
        case ast.comprehension() if node.ifs:
            yield _set("dropped condition", node, "ifs", node.ifs[1:])
        case ast.Return() if node.value is not None and not _is_none(node.value):
            yield _set("returns None", node, "value", ast.Constant(None))


def _of_augmented(node: ast.AugAssign) -> Iterator[_Change]:
    for other in ARITHMETIC.get(type(node.op), ()):
        yield _set("arithmetic", node, "op", other())


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _of_child(parent: ast.AST) -> Iterator[_Change]:
    """Changes of what a node holds that need its parent: `not` and minus taken off, statements removed."""
    for field, value in ast.iter_fields(parent):
        if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not | ast.USub):
            yield _set("dropped " + ("not" if isinstance(value.op, ast.Not) else "minus"), parent, field, value.operand)
        if not isinstance(value, list):
            continue
        for i, item in enumerate(value):
            if isinstance(item, ast.UnaryOp) and isinstance(item.op, ast.Not):
                yield _item("dropped not", value, i, item.operand)
            elif isinstance(item, ast.stmt) and _removable(item):
                change = _item("removed statement", value, i, ast.Pass())
                change.removed = item
                yield change


def _removable(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Break() | ast.Continue() | ast.Raise():
            return True
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return True
    return False


def _walk(node: ast.AST, names: tuple[str, ...], statement: ast.stmt | None) -> Iterator[tuple[_Change, str, ast.stmt]]:
    """Every change beneath `node`, the function or class it is in, and its statement."""
    for child in ast.iter_child_nodes(node):
        if _left_alone(child, node):
            continue
        inside = names
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = (*names, child.name)
        own = child if isinstance(child, ast.stmt) else statement
        if own is not None:
            for change in (*_of_node(child), *_of_child(child)):
                yield change, ".".join(inside) or "<module>", own
        yield from _walk(child, inside, own)


def _left_alone(node: ast.AST, parent: ast.AST) -> bool:
    """Texts, messages, annotations, imports and names of what is public: nothing there computes."""
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert | ast.Import | ast.ImportFrom | ast.expr_context):
        return True
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return True
    if isinstance(parent, ast.AnnAssign) and node is parent.annotation:
        return True
    if isinstance(parent, ast.arg) or (isinstance(parent, ast.FunctionDef) and node is parent.returns):
        return True
    if isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node in parent.decorator_list:
        return True
    return isinstance(node, ast.Call) and _name(node) in {"TypeVar", "getLogger", "overload"}


def _header(statement: ast.stmt) -> str:
    """A statement on one line; of one with a body, what comes before it."""
    if not hasattr(statement, "body") and not isinstance(statement, ast.Match):
        return " ".join(ast.unparse(statement).split())
    short = copy.copy(statement)
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        if isinstance(getattr(short, field, None), list):
            setattr(short, field, [ast.Pass()] if field == "body" else [])
    if isinstance(short, ast.Try | ast.Match):
        return type(short).__name__.lower()
    if isinstance(short, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        short.decorator_list = []
    return " ".join(ast.unparse(short).split()).removesuffix(" pass")


def _states(file: str, tree: ast.Module) -> Iterator[tuple[Mutation, ast.Module]]:
    """Every mutation with the tree as it is while it holds; the tree is put right again before the next."""
    seen: dict[tuple[str, str, str], int] = {}
    for change, function, around in list(_walk(tree, (), None)):
        statement = change.removed or around
        before = _header(statement)
        change.do()
        try:
            after = "pass" if change.removed else _header(statement)
            place = (function, before, after)
            seen[place] = seen.get(place, 0) + 1
            if before != after:
                yield Mutation(file, function, statement.lineno, change.operator, before, after, seen[place]), tree
        finally:
            change.undo()


def mutations(file: str, source: str) -> list[Mutation]:
    """Every mutation of a file's source."""
    return [mutation for mutation, _ in _states(file, ast.parse(source))]


def mutated(source: str, mutation: Mutation) -> str:
    """Source with one mutation made in it."""
    for found, tree in _states(mutation.file, ast.parse(source)):
        if found.key == mutation.key:
            return ast.unparse(tree)
    raise ValueError(f"{mutation.file}: there is no such mutation in {mutation.function}: {mutation.original}")
