"""Mutations of the native kernels' sources: expressions that a fault number switches from the original to another.

A text of C++ is not parsed here. Places are found token by token, in the layout that the sources are formatted in, and
only where what stands left and right settles how far an expression reaches; what then does not compile is left out by
the build. Each line holds one mutation at most.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

FAULT = "polyllama_fault"
TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[A-Za-z_]\w*|0[xX][\w.]+|\d[\w.\']*(?:[eE][-+]?\d+f?)?'
    r"|->|::|\+\+|--|<<=?|>>|[-+*/%<>=!&|^]=|&&|\|\||\S"
)
COMPARISONS = {"<": ("<=",), "<=": ("<",), ">": (">=",), ">=": (">",), "==": ("!=",), "!=": ("==",)}
ARITHMETIC = {"+": ("-", ""), "-": ("+", ""), "*": ("+", ""), "/": ("*", ""), "%": ("/",), "&": ("|",), ">>": ("<<",)}
# What may stand beside a product or a sum without taking a part of it.
BEFORE = {"(", "[", "{", ",", "=", "+=", "-=", "?", ":", "<", ">", "<=", ">=", "==", "!=", "&&", "||", ";", "return"}
AFTER = {")", "]", "}", ",", "?", ":", ";", "<", ">", "<=", ">=", "==", "!=", "&&", "||"}
CLOSING = {")": "(", "]": "[", "}": "{"}
OPENING = {"(": ")", "[": "]", "{": "}"}
SKIPPED = re.compile(
    r"^\s*(#|//|template\b|constexpr\b|static constexpr\b|inline constexpr\b|static_assert|case\b|using\b|namespace\b"
    r"|enum\b|struct\b|class\b)"
)
DECLARED = re.compile(r"\bif constexpr\b|\bthrow\b|\boperator\b|= default|= delete")
FUNCTION = re.compile(r"^(?:    )?(?:[\w:<>,*& ]+[ *&])?~?([\w:]+)\([^;]*$")
STATEMENT = re.compile(r"^(\s*)((?:[A-Za-z_][\w.\[\]()>:-]*)(?:\(.*\)| [-+*|]?= .*));$")


@dataclass(frozen=True)
class NativeMutation:
    """One expression of one line, from `start` to `end`, and what a fault puts there."""

    file: str
    function: str
    line: int
    operator: str
    original: str
    mutated: str
    start: int
    end: int
    text: str
    occurrence: int = 1
    number: int = 0

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return self.file, self.function, self.original, self.mutated, self.occurrence

    def order(self, seed: int) -> str:
        """A place in a shuffled order that does not depend on any other mutation."""
        return hashlib.sha256(repr((seed, *self.key)).encode()).hexdigest()


@dataclass(frozen=True)
class _Token:
    text: str
    start: int
    end: int


def _tokens(line: str) -> list[_Token]:
    return [_Token(found.group(), found.start(), found.end()) for found in TOKEN.finditer(line.split("//")[0])]


def _operand_before(tokens: list[_Token], place: int) -> int | None:
    """Where the operand that ends before `place` begins: a name or number with members, calls and indices."""
    i = place - 1
    while i >= 0:
        text = tokens[i].text
        if text in CLOSING:
            depth = 0
            while i >= 0:
                depth += (tokens[i].text in CLOSING) - (tokens[i].text in OPENING)
                if depth == 0:
                    break
                i -= 1
            if i <= 0 or not (re.match(r"\w|\]|\)", tokens[i - 1].text) or text == ")"):
                return None if i < 0 else i
            if not re.match(r"[\w\])]", tokens[i - 1].text) or tokens[i - 1].text in {"return", "if", "while", "for"}:
                return i
            i -= 1
            continue
        if not re.match(r"\w", text):
            return None
        if i > 0 and tokens[i - 1].text in {".", "->", "::"}:
            i -= 2
            continue
        return i
    return None


def _operand_after(tokens: list[_Token], place: int) -> int | None:
    """Where the operand that begins after `place` ends (one past its last token)."""
    i = place + 1
    if i >= len(tokens):
        return None
    if tokens[i].text != "(" and not re.match(r"\w", tokens[i].text):
        return None
    if tokens[i].text != "(":
        i += 1
    while i < len(tokens):
        text = tokens[i].text
        if text in {"(", "["}:
            depth = 0
            while i < len(tokens):
                depth += (tokens[i].text in OPENING) - (tokens[i].text in CLOSING)
                i += 1
                if depth == 0:
                    break
            if depth:
                return None
        elif text in {".", "->", "::"}:
            i += 2
        else:
            return i
    return i


def _arithmetic(line: str, tokens: list[_Token]) -> Iterator[tuple[str, int, int, str]]:
    for place, token in enumerate(tokens):
        others = ARITHMETIC.get(token.text)
        spaced = line[token.start - 1 : token.start] == " " and line[token.end : token.end + 1] == " "
        if not others or not spaced:
            continue
        first, last = _operand_before(tokens, place), _operand_after(tokens, place)
        if first is None or last is None:
            continue
        left = tokens[first - 1].text if first else ";"
        right = tokens[last].text if last < len(tokens) else ";"
        tight = token.text in {"*", "/", "%"}
        before = BEFORE | {"+", "-"} if tight else BEFORE
        after = AFTER | {"+", "-", "*", "/", "%"} if tight else AFTER | {"+", "-"}
        if left not in before or right not in after:
            continue
        start, end = tokens[first].start, tokens[last - 1].end
        a, b = line[start : tokens[place - 1].end], line[tokens[place + 1].start : end]
        for other in others:
            yield ("arithmetic" if other else "dropped term"), start, end, f"{a} {other} {b}" if other else a


def _comparisons(line: str, tokens: list[_Token]) -> Iterator[tuple[str, int, int, str]]:
    for place, token in enumerate(tokens):
        spaced = line[token.start - 1 : token.start] == " " and line[token.end : token.end + 1] == " "
        if token.text not in COMPARISONS or not spaced:
            continue
        first = place
        depth = 0
        while first > 0:
            text = tokens[first - 1].text
            depth += (text in CLOSING) - (text in OPENING)
            if depth < 0 or (depth == 0 and text in {",", ";", "?", ":", "&&", "||", "=", "return", "{", "}"}):
                break
            first -= 1
        last, depth = place + 1, 0
        while last < len(tokens):
            text = tokens[last].text
            depth += (text in OPENING) - (text in CLOSING)
            if depth < 0 or (depth == 0 and text in {",", ";", "?", ":", "&&", "||"}):
                break
            last += 1
        if first == place or last == place + 1:
            continue
        start, end = tokens[first].start, tokens[last - 1].end
        for other in COMPARISONS[token.text]:
            yield "comparison", start, end, line[start : token.start] + other + line[token.end : end]


def _numbers(line: str, tokens: list[_Token]) -> Iterator[tuple[str, int, int, str]]:
    for place, token in enumerate(tokens):
        before = tokens[place - 1].text if place else ""
        if re.fullmatch(r"\d+u?", token.text) and before not in {".", "<"}:
            suffix = "u" if token.text.endswith("u") else ""
            value = int(token.text.rstrip("u"))
            yield "off by one", token.start, token.end, f"{value + 1}{suffix}"
            if value:
                yield "off by one", token.start, token.end, f"{value - 1}{suffix}"
        elif re.fullmatch(r"\d+\.\d*(e-?\d+)?f?", token.text):
            yield "number", token.start, token.end, f"({token.text} * 2 + 0.25f)"


def _functions(line: str, tokens: list[_Token]) -> Iterator[tuple[str, int, int, str]]:
    for place, token in enumerate(tokens):
        if token.text not in {"min", "max"} or place + 1 >= len(tokens) or tokens[place + 1].text != "(":
            continue
        last = _operand_after(tokens, place - 1)
        if last is None or place < 2 or tokens[place - 1].text != "::":
            continue
        start, end = tokens[place - 2].start, tokens[last - 1].end
        other = "max" if token.text == "min" else "min"
        yield "function", start, end, line[start : token.start] + other + line[token.end : end]


def _statements(line: str) -> Iterator[tuple[str, int, int, str]]:
    found = STATEMENT.match(line)
    if found and not re.match(r"(return|const|float|size_t|auto|else|for|if|while|throw)\b", found.group(2)):
        yield "removed statement", len(found.group(1)), len(line), ""


def native_mutations(file: str, source: str) -> list[NativeMutation]:
    """Every mutation of a source, in the order of its lines."""
    function, seen, found = "<file>", {}, []  # type: ignore[var-annotated]
    for number, line in enumerate(source.splitlines(), 1):
        head = FUNCTION.match(line)
        if head and not SKIPPED.match(line) and head.group(1) not in {"for", "if", "while", "switch", "return"}:
            function = head.group(1)
            continue
        if SKIPPED.match(line) or DECLARED.search(line) or '"' in line or not line.strip():
            continue
        tokens = _tokens(line)
        for maker in (_arithmetic, _comparisons, _numbers, _functions):
            for operator, start, end, other in maker(line, tokens):
                _add(found, seen, file, function, number, operator, line, start, end, other)
        for operator, start, end, other in _statements(line):
            _add(found, seen, file, function, number, operator, line, start, end, other)
    return found


def _add(
    found: list[NativeMutation], seen: dict[tuple[str, str, str], int], file: str, function: str, number: int,
    operator: str, line: str, start: int, end: int, other: str,
) -> None:  # fmt: skip
    original = line.split("//")[0].strip()
    mutated = (line[:start] + other + line[end:]).split("//")[0].strip() or "removed"
    place = (function, original, mutated)
    seen[place] = seen.get(place, 0) + 1
    text = other
    found.append(
        NativeMutation(file, function, number, operator, original, mutated, start, end, text, seen[place])
    )  # fmt: skip


def numbered(chosen: list[NativeMutation]) -> list[NativeMutation]:
    """The chosen mutations with a fault number each, from 1, and one of each line at most."""
    lines: set[tuple[str, int]] = set()
    kept: list[NativeMutation] = []
    for mutation in chosen:
        if (mutation.file, mutation.line) not in lines:
            lines.add((mutation.file, mutation.line))
            kept.append(replace(mutation, number=len(kept) + 1))
    return kept


def switched(source: str, chosen: list[NativeMutation]) -> str:
    """A source in which the fault number of each of its chosen mutations switches it on; no line moves."""
    lines = source.split("\n")
    for mutation in chosen:
        line = lines[mutation.line - 1]
        old, fault = line[mutation.start : mutation.end], f"{FAULT}({mutation.number})"
        if mutation.operator == "removed statement":
            new = f"if (!{fault}) {{ {old} }}"
        else:
            new = f"({fault} ? ({mutation.text}) : ({old}))"
        lines[mutation.line - 1] = line[: mutation.start] + new + line[mutation.end :]
    return "\n".join(lines)
