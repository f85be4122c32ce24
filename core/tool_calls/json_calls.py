"""A call that is written as a JSON object, read as it arrives."""

from __future__ import annotations

import json
from typing import Any, Literal

from ..public import for_plugins
from .protocol import ToolCall, ToolCallPiece, new_call_id

_NAMES = ("name", "function")
_ARGUMENTS = ("arguments", "parameters")
_OTHERS = ("type", "id")
_SPACE = " \t\r\n"


@for_plugins
class JsonCallReader:
    """Reads one object with a ``name`` and ``arguments`` or ``parameters`` from its first brace.

    Attributes:
        state: ``"open"``; ``"done"``, behind the last brace; ``"refused"``, where it is no call.
        raw: the text that was taken.

    Args:
        index: which of the answer's calls it is.
        certain: the format has said that this is a call; else it is one only with a name and arguments and nothing
            that calls do not have, and text otherwise.

    >>> reader = JsonCallReader(0, certain=True)
    >>> pieces, rest = reader.push('{"name": "add", "arguments": {"a": 1}} and more')
    >>> [piece.kind for piece in pieces], rest, pieces[-1].call.arguments
    (['begin', 'arguments', 'end'], ' and more', {'a': 1})
    """

    def __init__(self, index: int, *, certain: bool) -> None:
        self.state: Literal["open", "done", "refused"] = "open"
        self.raw = ""
        self._index, self._certain = index, certain
        self._id = new_call_id()
        self._scan = _Scan()
        self._begun = False
        self._sent = 0

    def push(self, text: str) -> tuple[list[ToolCallPiece], str]:
        """Take text; return what it makes certain, and what is behind the end."""
        used = 0
        for character in text:
            used += 1
            self._scan.push(character)
            if self._scan.wrong or self._scan.ended or not self._may_be_call():
                break
        self.raw += text[:used]
        pieces = self._news()
        if self._scan.wrong or not self._may_be_call():
            pieces += self._refused("it is no JSON object" if self._scan.wrong else None)
        elif self._scan.ended:
            pieces += self._ended()
        return pieces, text[used:]

    def finish(self) -> list[ToolCallPiece]:
        """No more text follows: an object that is not whole is no call."""
        return self._refused("the text ends before the call does") if self.state == "open" else []

    def _may_be_call(self) -> bool:
        return self._certain or all(key in (*_NAMES, *_ARGUMENTS, *_OTHERS) for key in self._scan.keys)

    def _news(self) -> list[ToolCallPiece]:
        """That it has begun, and what there is of its arguments."""
        name, span = self._name(), self._span()
        if name is None or span is None or self.raw[span[0] : span[0] + 1] != "{":
            return []
        pieces = []
        if not self._begun:
            self._begun = True
            pieces.append(ToolCallPiece("begin", index=self._index, name=name, id=self._id))
        end = len(self.raw) if span[1] is None else span[1]
        start = span[0] + self._sent
        if end > start:
            self._sent = end - span[0]
            pieces.append(ToolCallPiece("arguments", self.raw[start:end], self._index))
        return pieces

    def _name(self) -> str | None:
        for key in _NAMES:
            begin, end = self._scan.values.get(key, (0, None))
            if end is not None and self.raw[begin] == '"':
                try:
                    return str(json.loads(self.raw[begin:end]))
                except ValueError:
                    return None
        return None

    def _span(self) -> tuple[int, int | None] | None:
        return next((self._scan.values[key] for key in _ARGUMENTS if key in self._scan.values), None)

    def _ended(self) -> list[ToolCallPiece]:
        try:
            content = json.loads(self.raw)
        except (ValueError, RecursionError) as error:
            return self._refused(f"it is no JSON: {error}")
        name, arguments, reason = _read(content, certain=self._certain)
        if name is None:
            return self._refused(reason)
        self.state = "done"
        pieces = []
        if not self._begun:
            pieces.append(ToolCallPiece("begin", index=self._index, name=name, id=self._id))
            pieces.append(ToolCallPiece("arguments", json.dumps(arguments, ensure_ascii=False), self._index))
        call = ToolCall(name, arguments, self._id)
        return [*pieces, ToolCallPiece("end", index=self._index, name=name, id=self._id, call=call)]

    def _refused(self, reason: str | None) -> list[ToolCallPiece]:
        """It is no call; what was taken is text. Where the format had said that it is one, the reason is told."""
        self.state = "refused"
        error = None if reason is None or not (self._certain or self._begun) else f"{reason}: {self.raw[:200]!r}"
        kind: Literal["broken", "text"] = "broken" if self._begun else "text"
        return [ToolCallPiece(kind, self.raw, self._index if self._begun else 0, error=error)]


def _read(content: Any, *, certain: bool) -> tuple[str | None, dict[str, Any], str]:
    """A call's name and arguments; or no name, and why."""
    name = next((content[key] for key in _NAMES if isinstance(content.get(key), str) and content[key]), None)
    if name is None:
        return None, {}, "the call has no name"
    found = [content[key] for key in _ARGUMENTS if key in content]
    if not found and not certain:
        return None, {}, "it has no arguments"
    arguments = found[0] if found else {}
    if isinstance(arguments, str):  # JSON within JSON, as OpenAI's interface writes it
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None, {}, "the arguments are a text that is no JSON"
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return None, {}, "the arguments are no object"
    return name, arguments, ""


class _Scan:
    """Where an object's own keys and values are, character by character; what is inside values is not looked at.

    Attributes:
        keys: so far.
        values: of each key where its value begins, and where it ends once it has.
        ended: the last character was the object's closing brace.
        wrong: this is no object.
    """

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.values: dict[str, tuple[int, int | None]] = {}
        self.ended = self.wrong = False
        self._place = -1
        self._closing: list[str] = []
        self._in_text = self._escaped = False
        self._text: list[str] = []
        self._expect: Literal["open", "key", "colon", "value", "inside", "comma"] = "open"

    def push(self, character: str) -> None:
        """Take the next character."""
        self._place += 1
        if self._in_text:
            self._push_text(character)
        elif character in _SPACE:
            if self._expect == "inside" and len(self._closing) == 1:
                self._end_value(self._place)
        elif self._expect == "inside" and (len(self._closing) > 1 or character not in ",}"):
            self._push_inside(character)
        else:
            self._push_own(character)

    def _push_text(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_text = False
            if self._expect == "key":
                self.keys.append("".join(self._text))
                self._expect = "colon"
            elif len(self._closing) == 1:
                self._end_value(self._place + 1)
            return
        if self._expect == "key":
            self._text.append(character)

    def _push_inside(self, character: str) -> None:
        """A character of a value that is no text of its own."""
        if character == '"':
            self.wrong = len(self._closing) == 1
            self._in_text = True
        elif character in "{[":
            self.wrong = len(self._closing) == 1
            self._closing.append("}" if character == "{" else "]")
        elif character in "}]":
            if self._closing.pop() != character:
                self.wrong = True
            elif len(self._closing) == 1:
                self._end_value(self._place + 1)

    def _push_own(self, character: str) -> None:
        """A character of the object itself, or the first of a value."""
        expect = self._expect
        if expect == "open" and character == "{":
            self._closing, self._expect = ["}"], "key"
        elif expect == "key" and character == '"':
            self._in_text, self._text = True, []
        elif expect == "colon" and character == ":":
            self._expect = "value"
        elif expect == "value" and character not in ",}]:":
            self.values[self.keys[-1]] = self._place, None
            self._expect = "inside"
            if character == '"':
                self._in_text = True
            elif character in "{[":
                self._closing.append("}" if character == "{" else "]")
        elif expect in ("comma", "inside") and character == ",":
            self._end_value(self._place)
            self._expect = "key"
        elif (expect in ("comma", "inside") or (expect == "key" and not self.keys)) and character == "}":
            self._end_value(self._place)
            self.ended = True
        else:
            self.wrong = True

    def _end_value(self, place: int) -> None:
        if self._expect == "inside":
            self.values[self.keys[-1]] = self.values[self.keys[-1]][0], place
        self._expect = "comma"
