"""Where chat templates run: Jinja's immutable sandbox, within a budget.

The sandbox lets a template reach no attribute that leads to Python and change none of its inputs. The budget bounds
what one rendering may take:

- ``MAX_STEPS`` loop rounds and macro calls, and ranges of at most 100000;
- ``MAX_TEXT`` characters in any one value that an operator, a filter or a call makes or is given, and in the output;
- ``MAX_TOTAL`` characters in all of these values together;
- ``MAX_SECONDS`` of time, looked at between such operations: no single one can run for long, given their sizes.

Sizes are estimated from the operands, before memory is taken. Comparisons are not counted; they make nothing large.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

MAX_STEPS = 200_000
MAX_TEXT = 10_000_000
MAX_TOTAL = 200_000_000
MAX_SECONDS = 10.0
MAX_WIDTH = 1_000
"""The widest padding, and the most digits, that a format or a filter may ask for."""
MAX_BITS = 10_000
MAX_SLOW_TEXT = 100_000
"""Characters given to filters that are much slower than their input is long."""

_PER_ITEM = 8  # what an element of a list counts beside its own text
_SLOW_FILTERS = frozenset({"pprint", "striptags", "urlize", "wordcount", "wordwrap", "xmlattr"})
_WIDTH_FILTERS = frozenset({"batch", "center", "indent", "round", "slice", "tojson", "wordwrap"})
_WIDTH_METHODS = frozenset({"center", "expandtabs", "hex", "ljust", "rjust", "to_bytes", "zfill"})
_LONG_NUMBER = re.compile(r"\d{4}")
_NESTED_FIELD = re.compile(r"\{[^{}]*\{")


class GenerationBlocks(Extension):
    """``{% generation %}...{% endgeneration %}`` encloses what an assistant said.

    The text is kept as it is; within ``ChatEnvironment.marking`` it stands between two marks.
    """

    tags = {"generation"}  # noqa: RUF012 (declared so by Jinja)

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return [_mark("<", line), nodes.Scope(body).set_lineno(line), _mark(">", line)]


def _mark(end: str, line: int) -> nodes.Node:
    call = nodes.Call(nodes.EnvironmentAttribute("generation_mark"), [nodes.Const(end)], [], None, None)
    return nodes.Output([call.set_lineno(line)]).set_lineno(line)


class Budget(threading.local):
    """What the rendering of this thread has used so far."""

    def __init__(self) -> None:
        self.mark: str | None = None
        self.begin()

    def begin(self) -> None:
        self.steps = 0
        self.total = 0
        self.output = 0
        self.deadline = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise SecurityError(f"more than {MAX_STEPS} loop rounds and macro calls")
        self._check_time()

    def spend(self, size: int) -> None:
        """A value of about this many characters is about to be made."""
        if size > MAX_TEXT:
            raise SecurityError(f"a value beyond {MAX_TEXT} characters")
        self.total += size
        if self.total > MAX_TOTAL:
            raise SecurityError(f"values of more than {MAX_TOTAL} characters together")
        self._check_time()

    def emit(self, size: int) -> None:
        self.output += size
        if self.output > MAX_TEXT:
            raise SecurityError(f"more than {MAX_TEXT} characters of output")
        self.spend(size)

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise SecurityError(f"more than {MAX_SECONDS:g} seconds")


def measure(value: Any, *, per_level: int = 0) -> int:
    """About how many characters the text of a value has; stops counting soon after ``MAX_TEXT``.

    ``per_level`` counts for each element once per level it is nested, as indentation does.

    >>> measure("four"), measure([["ab"]]) > measure(["ab"])
    (4, True)
    """
    if isinstance(value, str | bytes):
        return len(value)
    size, waiting = 0, [(value, 0)]
    while waiting and size <= MAX_TEXT:
        one, depth = waiting.pop()
        if isinstance(one, str | bytes):
            size += len(one)
        elif isinstance(one, int):
            size += one.bit_length() // 3 + 1
        elif isinstance(one, Mapping):
            size += (_PER_ITEM + per_level * depth) * len(one)
            waiting.extend((item, depth + 1) for pair in one.items() for item in pair)
        elif isinstance(one, list | tuple | set | frozenset):
            size += (_PER_ITEM + per_level * depth) * len(one)
            waiting.extend((item, depth + 1) for item in one)
        else:
            size += _PER_ITEM
    return size


class _Rewriter(NodeTransformer):
    """Lets the budget see what Jinja's compiler would otherwise write out as plain Python."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("concatenate", node.nodes, node)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        # As an expression it goes through `finalize`, which counts the output.
        return _call("literal", [nodes.Const(node.data, lineno=node.lineno)], node)


def _call(method: str, arguments: list[Any], node: nodes.Node) -> nodes.Call:
    call = nodes.Call(nodes.EnvironmentAttribute(method), arguments, [], None, None)
    call.set_lineno(node.lineno)
    return call


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox with its budget; call `begin` before each rendering."""

    intercepted_binops = frozenset(["*", "**", "%", "+"])

    def __init__(self) -> None:
        self.budget = Budget()
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, GenerationBlocks],
            finalize=self._finalize,
        )
        self.filters["tojson"] = _to_json
        self.filters = {name: self._bounded(name, function) for name, function in self.filters.items()}
        del self.globals["lipsum"]  # makes random text of any length
        self.globals["raise_exception"] = self._raise
        self.globals["strftime_now"] = _strftime_now

    def begin(self) -> None:
        """Start a new budget."""
        self.budget.begin()

    @contextlib.contextmanager
    def marking(self) -> Iterator[str]:
        """Within it, what generation blocks make stands between a mark with ``<`` and the same mark with ``>``."""
        # Of private use, so that no piece of it is taken for text, and no filter for letters changes it.
        self.budget.mark = "".join(chr(0xF0000 + secrets.randbelow(0xFFFE)) for _ in range(8))
        try:
            yield self.budget.mark
        finally:
            self.budget.mark = None

    @staticmethod
    def _raise(message: object) -> None:
        raise jinja2.TemplateError(str(message))

    # What compiled templates call

    def count_step(self) -> str:
        self.budget.step()
        return ""

    def concatenate(self, *values: Any) -> str:
        self.budget.spend(sum(map(measure, values)))
        return "".join(map(str, values))

    @staticmethod
    def literal(text: str) -> str:
        return text

    def generation_mark(self, end: str) -> str:
        mark = self.budget.mark
        return "" if mark is None else mark + end

    @jinja2.pass_context  # with the context it is not applied while compiling, where nothing would be counted
    def _finalize(self, context: Any, value: Any) -> Any:
        self.budget.emit(measure(value))
        return value

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Rewriter().visit(super()._parse(source, name, filename))
        # Jinja has no `while`, but loops nest and macros recurse: each round and call spends one step.
        looping: tuple[type[Any], ...] = (nodes.For, nodes.Macro, nodes.CallBlock)
        node: Any
        for node in tree.find_all(looping):
            node.body.insert(0, nodes.ExprStmt(_call("count_step", [], node), lineno=node.lineno))
        for part in tree.iter_child_nodes():
            part.set_environment(self)
        return tree

    # Operators, calls and filters

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" and not (numbers and abs(left) < 1e6 and abs(right) < 64):
            raise SecurityError("a power this large")
        if operator == "*":
            self._check_product(left, right)
        elif operator == "%" and isinstance(left, str):
            self._check_percent(left, right)
        elif operator == "+" and not numbers:
            self.budget.spend(_length(left) + _length(right))
        return super().call_binop(context, operator, left, right)

    def _check_product(self, left: Any, right: Any) -> None:
        if isinstance(left, int) and isinstance(right, int):
            if left.bit_length() + right.bit_length() > MAX_BITS:
                raise SecurityError("a number this large")
            return
        repeated, times = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(times, int) and hasattr(repeated, "__len__"):
            if len(repeated) * times > MAX_TEXT:
                raise SecurityError(f"a text repeated beyond {MAX_TEXT} characters")
            self.budget.spend(max(0, len(repeated) * times))

    def _check_percent(self, form: str, values: Any) -> None:
        if _LONG_NUMBER.search(form) or "*" in form:
            raise SecurityError(f"a format that pads to more than {MAX_WIDTH - 1} characters or to an argument")
        self.budget.spend(len(form) + form.count("%") * (measure(values) + MAX_WIDTH))

    def _check_format(self, form: str, values: Any) -> None:
        if _LONG_NUMBER.search(form) or _NESTED_FIELD.search(form.replace("{{", "")):
            raise SecurityError(f"a format that pads to more than {MAX_WIDTH - 1} characters or to an argument")
        self.budget.spend(len(form) + form.count("{") * (measure(values) + MAX_WIDTH))

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self._checked_format(obj, attribute, super().getattr(obj, attribute))

    def getitem(self, obj: Any, argument: Any) -> Any:
        return self._checked_format(obj, argument, super().getitem(obj, argument))

    def _checked_format(self, obj: Any, name: Any, value: Any) -> Any:
        """``str.format`` is wrapped where it is looked up, as Jinja does, whoever then calls it."""
        if not isinstance(obj, str) or name not in ("format", "format_map"):
            return value
        form: str = obj

        def checked(*arguments: Any, **keywords: Any) -> Any:
            self._check_format(form, [arguments, keywords])
            if name == "format_map":
                arguments, keywords = (), dict(*arguments, **keywords)
            if isinstance(form, Markup):
                return Markup(SandboxedEscapeFormatter(self, escape=form.escape).vformat(form, arguments, keywords))
            return SandboxedFormatter(self).vformat(form, arguments, keywords)

        return checked

    def call(self, context: Any, called: Any, /, *arguments: Any, **keywords: Any) -> Any:
        """Call something for a template: methods of texts and containers are measured before, all results after."""
        owner = getattr(called, "__self__", None)
        if isinstance(owner, str | bytes | int | list | tuple | Mapping | set | frozenset):
            name = getattr(called, "__name__", "")
            self.budget.spend(_length(owner))
            if name in _WIDTH_METHODS:
                _check_widths(name, [*arguments, *keywords.values()])
            self.budget.spend(_growth(name, owner, arguments, keywords))
        elif arguments or keywords:
            self.budget.spend(sum(map(_length, [*arguments, *keywords.values()])))
        return super().call(context, called, *arguments, **keywords)

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that is measured before it runs, and whose result is measured after it has."""
        skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def bounded(*arguments: Any, **keywords: Any) -> Any:
            value, given = arguments[skipped], arguments[skipped + 1 :]
            if name == "join" and not isinstance(value, str | list | tuple):
                value = list(value)
                arguments = (*arguments[:skipped], value, *given)
            options = [*given, *keywords.values()]
            size = measure(value) + measure(options)
            if name in _SLOW_FILTERS and size > MAX_SLOW_TEXT:
                raise SecurityError(f"the filter {name} on more than {MAX_SLOW_TEXT} characters")
            if name in _WIDTH_FILTERS:
                _check_widths(name, options)
            if name == "sum" and any(not isinstance(start, int | float | str) for start in options):
                raise SecurityError("a sum of anything but numbers")
            self.budget.spend(size)
            if name == "format":
                self._check_percent(str(value), [given, keywords])
            self.budget.spend(_growth(name, value, given, keywords))
            result = function(*arguments, **keywords)
            self.budget.spend(_length(result))
            return result

        return bounded


def _length(value: Any) -> int:
    """Characters of a text, elements of a container: what copying it costs."""
    if isinstance(value, int):
        return value.bit_length() // 3 + 1
    return len(value) if isinstance(value, str | bytes | list | tuple | Mapping | set | frozenset) else 1


def _check_widths(name: str, options: list[Any]) -> None:
    for option in options:
        if isinstance(option, int) and abs(option) > MAX_WIDTH:
            raise SecurityError(f"{name} with {option if abs(option) < 10**12 else 'a number this large'}")


def _growth(name: str, value: Any, given: tuple[Any, ...], keywords: Mapping[str, Any]) -> int:
    """About how many characters a filter or method makes, for those that can make more than they are given."""
    options = [*given, *keywords.values()]
    longest = max([1, *(measure(option) for option in options)])
    if name in ("indent", "expandtabs"):
        breaks = sum(map(str(value).count, "\n\r\t\v\f"))
        widest = max([8, *(len(o) if isinstance(o, str) else o for o in options if isinstance(o, int | str))])
        return len(str(value)) + (breaks + 1) * widest
    if name in ("replace", "translate", "wordwrap"):
        return (_length(value) + 1) * longest if name != "replace" else _replaced(value, options, longest)
    if name == "join":
        separator = value if given and isinstance(given[0], list | tuple) else (options or [""])[0]
        joined = given[0] if given and isinstance(given[0], list | tuple) else value
        return measure(joined) + _length(joined) * measure(separator)
    if name == "tojson":
        indent = max([0, *(option for option in options if isinstance(option, int))])
        return measure(value, per_level=indent + sum(measure(o) for o in options if isinstance(o, list | tuple)))
    return 0


def _replaced(value: Any, options: list[Any], longest: int) -> int:
    if not isinstance(value, str) or not options or not isinstance(options[0], str):
        return (_length(value) + 1) * longest
    new = measure(options[1]) if len(options) > 1 else longest
    return len(value) + value.count(options[0]) * new


def _strftime_now(form: str) -> str:
    import datetime

    if len(form) > MAX_WIDTH:
        raise SecurityError(f"a date format of more than {MAX_WIDTH} characters")
    return datetime.datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models were trained to read it: Jinja's own filter would escape <, > and & for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
