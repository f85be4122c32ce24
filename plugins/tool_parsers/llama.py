"""The formats of Llama 3.1, 3.2 and 3.3: JSON, alone or behind ``<|python_tag|>``, and calls of built-in tools.

Source: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/ ("Tool Calling"). Built-in tools are called
as ``brave_search.call(query="...")``; other code behind the mark is for a tool called ``code_interpreter`` (or
``python``, ``ipython``), where there is one.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from ...core.tool_calls.json_calls import JsonCallReader
from ...core.tool_calls.protocol import ToolCall, ToolCallPiece, json_call_rules, new_call_id, tool_name
from .held_back import beginning_of

MARK = "<|python_tag|>"
_INTERPRETERS = ("code_interpreter", "ipython", "python")
_BUILT_IN = re.compile(r"[A-Za-z_]\w*\.call\(")
_MAY_BE_BUILT_IN = re.compile(r"[A-Za-z_]\w*(\.(c(a(ll?)?)?)?)?")
_SPACE = " \t\r\n"


class LlamaParser:
    """Reads one answer; a ``polyllama.extend.ToolParser``.

    JSON without the mark is a call where an answer or a line of it begins with it, or it follows another call, and it
    has a name and arguments.
    """

    shown: ClassVar[Sequence[str]] = (MARK,)

    def __init__(self, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        names = [tool_name(tool) for tool in tools]
        self._interpreter = next((name for name in _INTERPRETERS if name in names), None)
        self._mode: Literal["text", "marked", "call", "code", "after"] = "text"
        self._held = ""
        self._before = ""  # what was taken before a call, and is text where no call follows
        self._marked = False  # the mark stands before what is read
        self._line_begins = self._empty = True  # no text was passed on yet
        self._reader = JsonCallReader(0, certain=True)
        self._calls = 0

    def push(self, text: str) -> list[ToolCallPiece]:
        """What the next text makes certain."""
        steps = {"text": self._text, "marked": self._behind_mark, "call": self._call, "after": self._after}
        self._held += text
        pieces: list[ToolCallPiece] = []
        while self._mode != "code":  # code ends with the answer
            before = len(self._held), self._mode
            pieces += steps[self._mode]()
            if (len(self._held), self._mode) == before:
                break
        return pieces

    def finish(self) -> list[ToolCallPiece]:
        """What is still held back, when no more text follows."""
        pieces: list[ToolCallPiece] = []
        if self._mode == "call":
            pieces = self._read(self._reader.finish())
        elif self._mode == "code" or (self._mode == "marked" and self._held.strip()):
            pieces = self._of_code(self._held)
            self._held = ""
        elif self._mode == "marked":
            pieces = [ToolCallPiece("text", self._before + self._held, error="nothing follows " + MARK)]
            self._held = ""
        elif self._mode == "after" and not self._held.strip(_SPACE + ";,"):
            self._held = ""
        rest, self._held, self._mode = self._held, "", "text"
        return pieces + ([ToolCallPiece("text", rest)] if rest else [])

    def _text(self) -> list[ToolCallPiece]:
        mark, brace = self._held.find(MARK), self._brace()
        if brace is not None and (mark < 0 or brace < mark):
            blank = not self._held[:brace].strip(_SPACE) and self._empty
            pieces = [] if blank else self._pass_on(brace)
            self._before, self._held = (self._held[:brace], self._held[brace:]) if blank else ("", self._held)
            self._begin_call(marked=False)
            return pieces
        if mark >= 0:
            pieces = self._pass_on(mark)
            self._begin_mark("", self._held)
            return pieces
        keep = beginning_of(self._held, MARK)
        line = self._held.rpartition("\n")[2]
        if not line.strip(_SPACE) and (self._line_begins or "\n" in self._held):
            keep = max(keep, len(line))  # white space before what may be a call
        if not self._held.strip(_SPACE) and self._empty:
            keep = len(self._held)
        return self._pass_on(len(self._held) - keep)

    def _brace(self) -> int | None:
        """Where a line begins with a brace."""
        begins = self._line_begins
        place = 0
        for line in self._held.split("\n"):
            stripped = line.lstrip(_SPACE)
            if begins and stripped.startswith("{"):
                return place + len(line) - len(stripped)
            place += len(line) + 1
            begins = True
        return None

    def _behind_mark(self) -> list[ToolCallPiece]:
        text = self._held.lstrip(_SPACE)
        if not text or _MAY_BE_BUILT_IN.fullmatch(text):
            return []
        if text.startswith("{"):
            self._before += self._held[: len(self._held) - len(text)]
            self._held = text
            self._begin_call(marked=True)
        else:
            self._mode = "code"
        return []

    def _begin_mark(self, before: str, text: str) -> None:
        self._before, self._held = before + MARK, text[len(MARK) :]
        self._mode, self._marked = "marked", True

    def _begin_call(self, *, marked: bool) -> None:
        self._mode, self._marked = "call", marked
        self._reader = JsonCallReader(self._calls, certain=marked)

    def _call(self) -> list[ToolCallPiece]:
        pieces, self._held = self._reader.push(self._held)
        return self._read(pieces)

    def _read(self, pieces: list[ToolCallPiece]) -> list[ToolCallPiece]:
        if self._reader.state == "done":
            self._mode = "after"
            self._calls += 1
        elif self._reader.state == "refused":
            self._calls += pieces[-1].kind == "broken"
            self._mode, self._line_begins, self._empty = "text", pieces[-1].text.endswith("\n"), False
            pieces[-1] = replace(pieces[-1], text=self._before + pieces[-1].text)
        return pieces

    def _after(self) -> list[ToolCallPiece]:
        """Behind a call: another one, or text."""
        text = self._held.lstrip(_SPACE + ";,")
        gap = self._held[: len(self._held) - len(text)]
        if text.startswith("{"):
            self._before, self._held = gap, text
            self._begin_call(marked=self._marked)
        elif text.startswith(MARK):
            self._begin_mark(gap, text)
        elif text and not MARK.startswith(text):
            self._mode, self._line_begins = "text", False
        return []

    def _pass_on(self, length: int) -> list[ToolCallPiece]:
        text, self._held = self._held[:length], self._held[length:]
        if text:
            self._empty = False
            self._line_begins = text.endswith("\n")
        return [ToolCallPiece("text", text)] if text else []

    def _of_code(self, code: str) -> list[ToolCallPiece]:
        """Calls of built-in tools, or code for the interpreter."""
        found = _built_in(code.strip()) if _BUILT_IN.match(code.lstrip()) else None
        name, arguments = found or (self._interpreter, {"code": code})
        if name is None:
            return [ToolCallPiece("text", self._before + code, error=f"code that is no call of a tool: {code[:200]!r}")]
        index, call_id = self._calls, new_call_id()
        self._calls += 1
        return [
            ToolCallPiece("begin", index=index, name=name, id=call_id),
            ToolCallPiece("arguments", json.dumps(arguments, ensure_ascii=False), index),
            ToolCallPiece("end", index=index, name=name, id=call_id, call=ToolCall(name, arguments, call_id)),
        ]

    @classmethod
    def grammar(cls, tools: Sequence[Mapping[str, Any]], *, several: bool) -> str:
        """A grammar of answers that are calls and nothing else."""
        call, rules = json_call_rules(tools, "parameters")
        more = f' ("; " {call})*' if several else ""
        return f"start: {call}{more}\n{rules}"


def _built_in(code: str) -> tuple[str, dict[str, Any]] | None:
    """The name and arguments of ``name.call(argument="value")``; ``None`` where it is something else."""
    try:
        tree = ast.parse(code, mode="eval").body
        if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Attribute) and not tree.args):
            return None
        if not isinstance(tree.func.value, ast.Name) or tree.func.attr != "call":
            return None
        arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in tree.keywords if keyword.arg}
        json.dumps(arguments)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return tree.func.value.id, arguments
