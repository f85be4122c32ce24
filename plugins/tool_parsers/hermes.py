"""Hermes' format, which many ChatML models have: JSON between ``<tool_call>`` and ``</tool_call>``.

Source: https://github.com/NousResearch/Hermes-Function-Calling. SmolLM2 writes a list of calls between the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from ...core.tool_calls.json_calls import JsonCallReader
from ...core.tool_calls.protocol import ToolCallPiece, json_call_rules
from .held_back import beginning_of

BEGIN, END = "<tool_call>", "</tool_call>"


class HermesParser:
    """Reads one answer; a ``polyllama.extend.ToolParser``."""

    shown: ClassVar[Sequence[str]] = (BEGIN, END)

    def __init__(self, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._mode: Literal["text", "within", "call", "no call"] = "text"
        self._held = ""
        self._unread = ""  # behind the mark, what would be text if no call followed
        self._reader = JsonCallReader(0, certain=True)
        self._calls = 0
        self._after_call = False

    def push(self, text: str) -> list[ToolCallPiece]:
        """What the next text makes certain."""
        steps = {"text": self._text, "within": self._within, "call": self._call, "no call": self._no_call}
        self._held += text
        pieces: list[ToolCallPiece] = []
        while True:
            before = len(self._held), self._mode
            pieces += steps[self._mode]()
            if (len(self._held), self._mode) == before:
                return pieces

    def finish(self) -> list[ToolCallPiece]:
        """What is still held back, when no more text follows."""
        pieces = self._read(self._reader.finish()) if self._mode == "call" else []
        rest, self._held = self._unread + self._held, ""
        if self._after_call and not rest.strip():
            rest = ""
        if rest and self._mode == "within" and self._unread:
            pieces.append(ToolCallPiece("text", rest, error="the text ends before the call does"))
        elif rest and self._mode != "within":  # else only the end mark is missing
            pieces.append(ToolCallPiece("text", rest))
        self._mode, self._unread = "text", ""
        return pieces

    def _text(self) -> list[ToolCallPiece]:
        if self._after_call:  # white space between calls is no text
            stripped = self._held.lstrip()
            if stripped and not BEGIN.startswith(stripped) and not stripped.startswith(BEGIN):
                self._after_call = False
            elif stripped.startswith(BEGIN):
                self._held = stripped
            else:
                return []
        start = self._held.find(BEGIN)
        if start < 0:
            return self._pass_on(len(self._held) - beginning_of(self._held, BEGIN))
        pieces = self._pass_on(start)
        self._held = self._held[len(BEGIN) :]
        self._mode, self._unread, self._after_call = "within", BEGIN, False
        return pieces

    def _within(self) -> list[ToolCallPiece]:
        """Behind the mark, or behind a call."""
        stripped = self._held.lstrip(" \t\r\n,[]")
        if self._unread:
            self._unread += self._held[: len(self._held) - len(stripped)]
        self._held = stripped
        if stripped.startswith("{"):
            self._mode, self._reader = "call", JsonCallReader(self._calls, certain=True)
        elif stripped.startswith(END) and not self._unread:
            self._mode, self._held, self._after_call = "text", stripped[len(END) :], True
        elif stripped and (stripped.startswith(END) or not END.startswith(stripped)):
            text, self._unread, self._mode = self._unread, "", "no call"
            return [ToolCallPiece("text", text, error=f"a tool call is no JSON object: {stripped[:200]!r}")]
        return []

    def _call(self) -> list[ToolCallPiece]:
        pieces, self._held = self._reader.push(self._held)
        return self._read(pieces)

    def _read(self, pieces: list[ToolCallPiece]) -> list[ToolCallPiece]:
        """What a reader gives; of what is no call the mark is text too."""
        if self._reader.state == "done":
            self._mode, self._unread = "within", ""
            self._calls += 1
        elif self._reader.state == "refused":
            self._mode = "no call"
            self._calls += pieces[-1].kind == "broken"
            pieces[-1] = replace(pieces[-1], text=self._unread + pieces[-1].text)
            self._unread = ""
        return pieces

    def _no_call(self) -> list[ToolCallPiece]:
        """Text up to the end mark, and this too."""
        end = self._held.find(END)
        if end < 0:
            return self._pass_on(len(self._held) - beginning_of(self._held, END))
        self._mode = "text"
        return self._pass_on(end + len(END))

    def _pass_on(self, length: int) -> list[ToolCallPiece]:
        text, self._held = self._held[:length], self._held[length:]
        return [ToolCallPiece("text", text)] if text else []

    @classmethod
    def grammar(cls, tools: Sequence[Mapping[str, Any]], *, several: bool) -> str:
        """A grammar of answers that are calls and nothing else."""
        call, rules = json_call_rules(tools, "arguments")
        more = ' ("\\n" one)*' if several else ""
        return f"start: one{more}\none: {json.dumps(BEGIN + chr(10))} {call} {json.dumps(chr(10) + END)}\n{rules}"
